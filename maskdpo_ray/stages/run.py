"""All the stages of one run."""

from contextlib import suppress

from maskdpo_ray.config import Config
from maskdpo_ray.errors import UserError
from maskdpo_ray.rundir import StageStore
from maskdpo_ray.stages.further import Further
from maskdpo_ray.stages.policy import Policy


class Stages(Further):
    """The stages of one run: its inputs, its training and its evaluation."""

    def __init__(self, config: Config, rerun: bool = False, look: bool = False) -> None:
        """Open the run directory.

        Args:
            rerun: take it over from another configuration, though finished stages are redone.
            look: only at what is there, beside a driver that works.
        """
        super().__init__(config, look)
        if look:
            self.dir.look()
        else:
            self.dir.claim(rerun, self._redone)

    @classmethod
    def planned(cls, config: Config) -> list[StageStore]:
        """The stores of a configuration, whether or not it has a run directory.

        Raises:
            UserError: what names them is not there yet.
        """
        plan = cls.__new__(cls)
        super(Stages, plan).__init__(config, plan=True)
        stores = plan.stores()
        if not config.systems and config.has_policy and (config.world or config.data.train):
            stores.append(plan.sample().store)  # made alone, by its own verb
            if config.annotation:
                stores += [plan.annotate().store, plan.pair().store]
        if plan.dir.results("judge-check"):  # it has a verb of its own
            with suppress(UserError):  # there is nothing to check any more
                stores += [check.stage.store for check in plan.judge_checks()[1] if check.stage]
        return stores

    def _redone(self) -> list[str]:
        """Stages that have results under other settings and none under these."""
        planned = self.planned(self.config)
        keys = {store.key for store in planned}
        redone = (
            store.name
            for store in planned
            if not store.begun and set(self.dir.results(store.name)) - keys
        )
        return list(dict.fromkeys(redone))

    def stores(self) -> list[StageStore]:
        """The stores of all stages, in the order of the graph."""
        made = [self.questions("train")] if self.config.systems else []
        starts: list[Policy] = []
        for system, round in self.trainings():
            start = self.start(system, round)
            if self.config.annotation is None and not self.config.data.weighted:
                made.append(self.sample(start).store)
                break
            if start not in starts:  # systems share the first round's pairs
                starts.append(start)
                made += [stage.store for stage in self.before_pairs(start)]
                made += [stage.store for stage in self.pairings(start).values()]
                made.append(self.reference(start).store)
            made.append(self.train(system, round))
        if self.config.evaluates:
            made.append(self.questions("test"))
            for policy in self.policies():
                made.append(self.answered(policy))
                if self.config.first_examiner is None:
                    continue
                made.append(self.evaluate(policy).store)
                made += [stage.store for stage in self.examinations(policy)]
            made += [self.lm_eval(policy).store for policy in self.on_tasks()]
        return made
