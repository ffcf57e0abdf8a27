"""All the stages of one run."""

from maskdpo_ray.rundir import StageStore
from maskdpo_ray.stages.further import Further
from maskdpo_ray.stages.policy import Policy


class Stages(Further):
    """The stages of one run: its inputs, its training and its evaluation."""

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
                made += [self.pair(start).store, self.reference(start).store]
            made.append(self.train(system, round))
        if self.config.evaluates:
            made.append(self.questions("test"))
            for policy in self.policies():
                made.append(self.answered(policy))
                if self.config.first_examiner is None:
                    continue
                made.append(self.evaluate(policy).store)
                made += [stage.store for stage in self.examinations(policy)]
        return made
