"""What else is made of the same answers, beside the first examiner's verdicts."""

from functools import cached_property, partial
from typing import Any

from maskdpo_ray.config import ChatModelConfig
from maskdpo_ray.evaluation.abstention import RULES as ABSTENTION
from maskdpo_ray.evaluation.short_form import grader, match
from maskdpo_ray.evaluation.short_form.references import read_references
from maskdpo_ray.evaluation.win_rate import judge
from maskdpo_ray.identity import chat_model_identity, file_digest, pinned
from maskdpo_ray.questions import source_of
from maskdpo_ray.records import DUEL_SCHEMA, GRADED_SCHEMA
from maskdpo_ray.rundir import fingerprint
from maskdpo_ray.stages.evaluation import Evaluation
from maskdpo_ray.stages.policy import Policy
from maskdpo_ray.stream import StreamStage


class Further(Evaluation):
    """Further judges, FActScore, the win rate, and short answers."""

    def reach_models(self) -> None:
        """Of the judges too, their wordings, and the reference answers."""
        super().reach_models()
        evaluation = self.config.evaluation
        if section := evaluation.win_rate:
            judge.read_wording(section.templates)
            _judge(section, "evaluation.win_rate")
        if (section := evaluation.short_form) and not self._look:
            _ = self._references
            if section.judge:
                grader.read_wording(section.templates)
                _judge(section.judge, "evaluation.short_form.judge")

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
        settings["templates"] = file_digest(judge.wording_file(section.templates))
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
            settings["templates"] = file_digest(grader.wording_file(section.templates))
            section = section.model_copy(update={"judge": pinned(of, key)})
        else:
            settings["rules"] = [match.RULES, ABSTENTION]
        store = self.dir.store(
            f"short-form-{policy.name}", settings, GRADED_SCHEMA, self.answered(policy)
        )
        build = partial(grader.build_grader, section, self._references)
        return StreamStage(store, build, self.config.resources.short_form)

    @cached_property
    def _references(self) -> dict[str, list[str]]:
        data = self.config.data
        return read_references(source_of(data, "test"), data.limit)


def _judge(section: ChatModelConfig, key: str) -> dict[str, Any]:
    """What a judge's replies depend on, beside its wording."""
    return section.decides() | chat_model_identity(section, key)
