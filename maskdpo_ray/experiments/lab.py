"""Runs of one configuration with settings changed, in one run directory a seed.

Stages are content-addressed, so experiments share whatever does not depend on what they change,
and a job that is started again goes on where it stopped.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from maskdpo_ray.annotation.registry import with_need
from maskdpo_ray.config import Config, read_config
from maskdpo_ray.driver_lock import DriverLock
from maskdpo_ray.errors import UserError
from maskdpo_ray.experiments.compare import (
    Outcome,
    Parts,
    fact_outcome,
    fact_parts,
    outcome,
    sentence_parts,
)
from maskdpo_ray.pipeline import complete, stream
from maskdpo_ray.questions import usable_questions
from maskdpo_ray.records import Question
from maskdpo_ray.rundir import StageStore
from maskdpo_ray.stages import Policy, Stages
from maskdpo_ray.storage import Folder

SYSTEM = "mask_dpo"
# Experiments compare scores of greedy answers alone; one that wants more says so.
DEFAULTS = ("evaluation.samples=1", "evaluation.best_of_n=[1]")
ALONE = f"systems={{{SYSTEM}: {{mask: sentence}}}}"  # of experiments that train nothing else


class Lab:
    """Where experiments are made.

    Args:
        config: a configuration file; its ``run_dir`` and ``seed`` are set here.
        runs: folder or URL of all that is made: a run directory a seed, and the results.
        settings: ``section.key=value``, of every run.

    Attributes:
        finished: all runs have come to their end, each seed in a process of its own: they need not
            be looked through once more, which takes seconds a run.
    """

    def __init__(
        self, config: str, runs: str, seeds: Sequence[int], settings: Sequence[str] = ()
    ) -> None:
        self.config, self.seeds, self.settings = config, list(seeds), list(settings)
        self.finished = False
        self._done: dict[tuple, Stages] = {}
        self.folder = Folder(str(Path(runs).resolve()) if "://" not in runs else runs)

    def read(self, seed: int, *settings: str) -> Config:
        """The configuration of a run."""
        here = [f"run_dir={self.folder / f'seed-{seed}'}", f"seed={seed}"]
        return read_config(self.config, [*here, *DEFAULTS, *self.settings, *settings])

    def check(self, systems: Sequence[str] = (), makes_rows: bool = False) -> None:
        """Refuse what would stop an experiment in its midst.

        Args:
            systems: those that it compares.
            makes_rows: it trains on rows that it makes itself.

        Raises:
            UserError: names the setting, and what to set instead.
        """
        config = self.read(self.seeds[0])
        _refuse_split(config)
        if makes_rows:
            _refuse_limit(config)
        if lacking := [name for name in systems if name not in config.systems]:
            raise _lacks(lacking[0], ["base", *config.systems])
        if None not in self.examiners():
            raise UserError(
                "data.test: no question has a document, which annotator "
                f"{config.evaluation_annotation.annotator!r} reads: add a column document, or name "
                "yours in data.columns, or set evaluation.annotation to a judge with "
                "templates: closed_book"
            )

    def run(self, seed: int, *settings: str, work: Callable[[Stages], None] = complete) -> Stages:
        """Bring a run to its end; what is there already stays.

        It gets no report of its own: the next run of this seed would replace it.

        Args:
            work: what to do of it, a function of ``pipeline``.
        """
        if (done := self._done.get((seed, settings, work))) is not None:
            return done
        config = self.read(seed, *settings)
        _refuse_split(config)
        with DriverLock(Folder(config.run_dir)):
            stages = Stages(config, rerun=True)
            if not self.finished:
                work(stages)
        self._done[seed, settings, work] = stages
        return stages

    def asking(self, split: str, seed: int, name: str, rows: Iterable[dict[str, Any]]) -> str:
        """The setting of a run whose questions of ``train`` or ``test`` are these rows, under our
        own names whatever the configuration calls its columns."""
        source = {"path": self.write(seed, name, rows), "columns": {}}
        return f"data.{split}={json.dumps(source)}"

    def on_answers(
        self, seed: int, name: str, rows: Iterable[dict[str, Any]], labelled: bool = False
    ) -> list[str]:
        """Settings of a run whose training questions are these, and bring their answers along.

        Args:
            name: of the file that the rows are written to.
            labelled: they bring verdicts too; the examiner of the test answers stays.

        Raises:
            UserError: the configuration would read a part of the rows only.
        """
        config = self.read(seed)
        _refuse_limit(config)
        sampling = {"source": "input", "engine": config.sampling.engine}
        settings = [
            self.asking("train", seed, name, rows),
            f"sampling={json.dumps(sampling)}",
        ]
        if labelled:
            examiner = config.evaluation_annotation.model_dump(mode="json", exclude_defaults=True)
            settings += [
                f"annotation={{annotator: {with_need('verdicts')[0]}}}",
                f"evaluation.annotation={json.dumps(examiner)}",
            ]
        return settings

    def run_part(self, seed: int, name: str, part: Iterable[Question]) -> Stages:
        """Train on the pairs of these questions alone; what comes before pairs is shared."""
        theirs = self.read(seed).data.columns.renamed()  # as the run reads the file
        rows = [{theirs.get(key, key): row[key] for key in ("id", "question")} for row in part]
        path = self.write(seed, name, rows)
        return self.run(seed, f"preference.questions={path}", ALONE)

    @property
    def tells_facts(self) -> bool:
        """Whether there is a FActScore: where it is configured, and in the closed world, where
        every sentence states one fact."""
        config = self.read(self.seeds[0])
        return config.world is not None or config.evaluation.factscore is not None

    @property
    def judges(self) -> list[str]:
        """Those who judge the answers beside the first examiner, whom training may have learnt to
        please."""
        return list(self.read(self.seeds[0]).evaluation.judges or {})

    def given_questions(self, split: str, *settings: str) -> Iterator[Question]:
        """The usable questions of ``train`` or ``test`` of a run with these settings; none of a
        world, which makes them.

        Raises:
            UserError: they cannot be read.
        """
        config = self.read(self.seeds[0], *settings)
        return iter(()) if config.world else usable_questions(config.data, split)

    def examiners(self, *settings: str) -> list[str | None]:
        """Who can judge answers to the test questions of a run with these settings, the first
        examiner as None: not one who reads documents, where no question has one.

        Raises:
            UserError: the questions, or the wording of a judge, cannot be read.
        """
        config = self.read(self.seeds[0], *settings)
        if config.world:
            return list(config.examiners)
        asked = self.given_questions("test", *settings)
        kinds = {(bool(row["document"]), row["language"]) for row in asked}
        return [
            name
            for name, examiner in config.examiners.items()
            if not kinds
            or any(has or not examiner.kind.needs_document(examiner, of) for has, of in kinds)
        ]

    def annotated(
        self, stages: Stages, system: str, judge: str | None = None
    ) -> Iterator[Question]:
        """The answers of a system of a finished run, as the first examiner or a judge sees them."""
        return stages.evaluate(_policy(stages, system), judge).store.rows()

    def outcome(
        self,
        stages: Stages,
        system: str = SYSTEM,
        parts: Parts = sentence_parts,
        of: Callable[[Question], bool] = lambda row: True,
        judge: str | None = None,
    ) -> Outcome:
        """What a system of a finished run came to.

        Args:
            of: which of the test questions count.
            judge: whose verdicts, if not the first examiner's.
        """
        policy = _policy(stages, system)
        store = stages.evaluate(policy, judge).store
        return outcome(filter(of, store.rows()), parts, _rejected(stages, policy, store, of))

    def facts(
        self,
        stages: Stages,
        system: str = SYSTEM,
        of: Callable[[Question], bool] = lambda row: True,
    ) -> Outcome:
        """FActScore of a system, without length penalty; only where the lab ``tells_facts``."""
        if stages.config.evaluation.factscore is None:
            return self.outcome(stages, system, fact_parts, of)
        policy = _policy(stages, system)
        store = stages.factscore(policy).store
        return fact_outcome(filter(of, store.rows()), _rejected(stages, policy, store, of))

    def write(self, seed: int, name: str, rows: Iterable[dict[str, Any]]) -> str:
        """A file of questions beside the runs; its address."""
        folder = self.folder / f"questions-{seed}"
        folder.write_jsonl(f"{name}.jsonl", rows)
        return f"{folder}/{name}.jsonl"


def annotate_answers(stages: Stages) -> None:
    """Answers to the training questions, and their verdicts: no pair, no training."""
    stream(stages, stages.questions("train"), stages.sample(), stages.annotate())


def pair_count(stages: Stages) -> int:
    """The pairs that the systems of a finished run learnt from."""
    (pairing,) = stages.pairings(stages.base).values()
    counts = pairing.store.manifest()["counts"]
    return counts.get("pairs", counts["out"])


def other_model(path: str) -> dict[str, Any]:
    """What of the model section changes where it is another: what is told of the first is not of
    it."""
    return {
        "path": path,
        "revision": None,
        "chat_template": None,
        "chat_template_kwargs": {},
        "reasoning": "auto",
    }


def named(option: str, text: str) -> tuple[str, str]:
    """Name and value of an option that is given as NAME=VALUE.

    Raises:
        UserError: it is not.
    """
    name, _, value = text.partition("=")
    if not (name and value):
        raise UserError(f"--{option} {text!r} must read NAME=VALUE")
    return name, value


def _policy(stages: Stages, system: str) -> Policy:
    policies = {each.name: each for each in stages.policies()}
    if system not in policies:
        raise _lacks(system, policies)
    return policies[system]


def _rejected(
    stages: Stages, policy: Policy, examined: StageStore, of: Callable[[Question], bool]
) -> Counter[str]:
    """The test questions without an answer among those examined, by the reason.

    Args:
        of: which of the test questions count.
    """
    stores = [each for each in (stages.answered(policy), examined) if each.parts("rejected")]
    reasons = {row["id"]: row["reason"] for store in stores for row in store.rejected_rows()}
    asked = filter(of, stages.questions("test").rows()) if reasons else ()
    return Counter(reasons[row["id"]] for row in asked if row["id"] in reasons)


def _refuse_split(config: Config) -> None:
    if config.data.split:
        raise UserError(
            "data.split: an experiment changes the training questions and keeps the test "
            "questions: give both as files, data.train and data.test"
        )


def _refuse_limit(config: Config) -> None:
    if config.data.limit:
        raise UserError(
            f"data.limit={config.data.limit}: this experiment trains on rows that it makes "
            "itself, and they would be cut: remove data.limit and give shorter files"
        )


def _lacks(system: str, there: Iterable[str]) -> UserError:
    return UserError(
        f"this experiment compares {system!r}, and the configuration has "
        f"{', '.join(there)}: set systems.{system}, e.g. "
        "systems={dpo: {mask: none}, mask_dpo: {mask: sentence}}"
    )
