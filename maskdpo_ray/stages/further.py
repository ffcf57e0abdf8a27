"""What else is made of the same answers, beside the first examiner's verdicts."""

from functools import cached_property, partial
from typing import Any

from maskdpo_ray.config import ChatModelConfig, ModelConfig
from maskdpo_ray.digests import fingerprint
from maskdpo_ray.evaluation.abstention import RULES as ABSTENTION
from maskdpo_ray.evaluation.lm_eval.harness import build_harness
from maskdpo_ray.evaluation.lm_eval.tasks import check_tasks, tasks_identity
from maskdpo_ray.evaluation.short_form import grader, match
from maskdpo_ray.evaluation.short_form.references import read_references
from maskdpo_ray.evaluation.win_rate import judge
from maskdpo_ray.identity import chat_model_identity, file_digest, pinned
from maskdpo_ray.questions import source_of
from maskdpo_ray.records import DUEL_SCHEMA, GRADED_SCHEMA, NAME_SCHEMA, TASK_SCHEMA
from maskdpo_ray.rundir import StageStore
from maskdpo_ray.stages.evaluation import Evaluation
from maskdpo_ray.stages.policy import Policy, settings_of
from maskdpo_ray.stream import StreamStage


class Further(Evaluation):
    """Further judges, FActScore, the win rate, short answers, and tasks of other people's."""

    def reach_models(self) -> None:
        """Of the judges too, their wordings, and the reference answers."""
        super().reach_models()
        evaluation = self.config.evaluation
        if section := evaluation.win_rate:
            judge.WORDING.read(section.templates)
            _judge(section, "evaluation.win_rate")
        if (section := evaluation.short_form) and not self._look:
            _ = self._references
            if section.judge:
                grader.WORDING.read(section.templates)
                _judge(section.judge, "evaluation.short_form.judge")
        if (section := evaluation.lm_eval) and not self._look:
            check_tasks(section.tasks, section.include_path)

    def examinations(self, policy: Policy) -> list[StreamStage]:
        """All that the configuration asks for of a policy's answers after the first verdicts."""
        evaluation = self.config.evaluation
        stages = [self.evaluate(policy, name) for name in self.judges]
        if evaluation.factscore:
            stages.append(self.factscore(policy))
        if evaluation.win_rate and policy != self.base:
            stages.append(self.win_rate(policy))
        if evaluation.short_form:
            stages.append(self.short_form(policy))
        return stages

    def win_rate(self, policy: Policy) -> StreamStage:
        """Which answers a judge prefers, the policy's or the base's; only where
        ``evaluation.win_rate`` is given."""
        section, base = self.config.evaluation.win_rate, self.answered(self.base)
        key = "evaluation.win_rate"
        settings = _judge(section, key)
        settings["templates"] = file_digest(judge.WORDING.path(section.templates))
        store = self.dir.store(
            f"win-rate-{policy.name}",
            settings | {"base": base.key},
            DUEL_SCHEMA,
            self.answered(policy),
        )
        build = partial(judge.build_duels, pinned(section, key), base.rows)
        return StreamStage(store, build, self.config.resources.win_rate)

    def short_form(self, policy: Policy) -> StreamStage:
        """Grades of a policy's answers; only where ``evaluation.short_form`` is given."""
        section = self.config.evaluation.short_form
        settings = section.decides() | {"references": fingerprint(self._references)}
        if of := section.judge:
            key = "evaluation.short_form.judge"
            settings["judge"] = _judge(of, key)
            settings["templates"] = file_digest(grader.WORDING.path(section.templates))
            section = section.model_copy(update={"judge": pinned(of, key)})
        else:
            settings["rules"] = [match.RULES, ABSTENTION]
        store = self.dir.store(
            f"short-form-{policy.name}", settings, GRADED_SCHEMA, self.answered(policy)
        )
        build = partial(grader.build_grader, section, self._references)
        return StreamStage(store, build, self.config.resources.short_form)

    def on_tasks(self) -> list[Policy]:
        """The models that tasks of lm-evaluation-harness are run on: all that run here, not what
        is behind a server or in a file."""
        if self.config.evaluation.lm_eval is None:
            return []
        models = self.config.evaluation.models
        return [
            policy
            for policy in self.policies()
            if policy.name not in models or models[policy.name].path
        ]

    def tasks(self) -> StageStore:
        """The store of the names of the tasks, a block each."""
        tasks = self.config.evaluation.lm_eval.tasks
        store = self.dir.store("lm-eval-tasks", {"tasks": tasks}, NAME_SCHEMA)
        if not self._look and not (store.complete and not store.lacks_rows()):
            store.begin(self.versions)
            store.write(tasks, [{"id": task} for task in tasks], [], 1)
            store.finish_rows(tasks, 0.0)
        return store

    def lm_eval(self, policy: Policy) -> StreamStage:
        """What lm-evaluation-harness finds of a policy, a row a task; a task that is added later
        joins those that are done."""
        section = self.config.evaluation.lm_eval
        model, engine = self.model_of(policy), self.config.sampling
        if further := self.config.evaluation.models.get(policy.name):
            of_model = {key: getattr(further, key) for key in ModelConfig.model_fields}
            model = ModelConfig(**of_model | {"revision": policy.revision})
            engine = self.config.sampling if further.engine is None else further
        if section.engine is not None:
            engine = section
        settings = section.decides() | {
            "policy": policy.identity,
            "model": settings_of(model),
            "engine": engine.decides()["engine"],
            **tasks_identity(section.include_path),
        }
        store = self.dir.store(f"lm-eval-{policy.name}", settings, TASK_SCHEMA)
        build = partial(build_harness, section, model, engine.engine)
        return StreamStage(store, build, self.config.resources.lm_eval, shared=True)

    @cached_property
    def _references(self) -> dict[str, list[str]]:
        data = self.config.data
        return read_references(source_of(data, "test"), data.limit)


def _judge(section: ChatModelConfig, key: str) -> dict[str, Any]:
    """What a judge's replies depend on, beside its wording."""
    return section.decides() | chat_model_identity(section, key)
