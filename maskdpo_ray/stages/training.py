"""From questions to pairs, and from pairs to trained systems."""

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import pyarrow as pa

from maskdpo_ray.config import AnnotationConfig, PreferenceConfig
from maskdpo_ray.digests import fingerprint
from maskdpo_ray.engine.chat import conversation
from maskdpo_ray.errors import RowRejected, UserError
from maskdpo_ray.preference.given_pairs import GivenPairs, read_of_sides
from maskdpo_ray.preference.processor import PairBuilder
from maskdpo_ray.progress import say
from maskdpo_ray.questions import read_questions
from maskdpo_ray.records import (
    PAIR_SCHEMA,
    QUESTION_SCHEMA,
    REFERENCE_SCHEMA,
    Message,
    Pair,
    Question,
)
from maskdpo_ray.review.labels import digest, read_labels, verdict_of_each
from maskdpo_ray.rundir import StageStore
from maskdpo_ray.sampling.factory import build_endpoint_sampler, build_given, build_sampler
from maskdpo_ray.sampling.sampler import decoding_of
from maskdpo_ray.sampling.seeds import round_seed
from maskdpo_ray.sources import Source
from maskdpo_ray.stages.annotating import annotation_stage, build_annotator, verdicts_depend_on
from maskdpo_ray.stages.inputs import Inputs
from maskdpo_ray.stages.policy import Policy
from maskdpo_ray.stream import StreamStage
from maskdpo_ray.training.reference import ReferenceProcessor
from maskdpo_ray.training.worker import TrainingJob

NO_ROWS = pa.schema([])


def _repeats(row: Question | RowRejected) -> bool:
    """Whether it only says again what another row says: it has a name of its own for the counts."""
    return isinstance(row, RowRejected) and row.reason == "repeated"


def _after(system: str, round: int) -> str:
    """A system after a round: the first bears its plain name, so that a second can be added."""
    return system if round == 1 else f"{system}-round{round}"


class Training(Inputs):
    """The stages that make pairs, and the training of each system and round."""

    # -- questions to pairs ---------------------------------------------------------------------

    def sample(self, policy: Policy | None = None) -> StreamStage:
        """Candidates of the base, or of ``policy`` for the round after it."""
        policy = policy or self.base
        config, sampling = self.config, self.config.sampling
        seed = round_seed(config.seed, policy.round)
        settings = {
            "policy": policy.identity,
            "model": self.model_settings,
            "sampling": sampling.decides(),
            "seed": seed,
        }
        store = self.dir.store(
            policy.stage("sample"), settings, QUESTION_SCHEMA, self.questions("train")
        )
        model = self.model_of(policy)
        if sampling.source == "input":
            build = partial(build_given, model)
        else:
            decoding = decoding_of(sampling, sampling.candidates)
            build = partial(build_sampler, model, decoding, seed, sampling.engine)
            if sampling.endpoint:
                build = partial(build_endpoint_sampler, model, decoding, seed, sampling.endpoint)
        return StreamStage(store, build, config.resources.sampler)

    def annotate(self, policy: Policy | None = None) -> StreamStage:
        """Verdicts on the candidates.

        Raises:
            UserError: nobody gives any.
        """
        policy, annotation = policy or self.base, self.config.annotator
        preference = self.config.preference
        store = self.dir.store(
            policy.stage("annotate"),
            verdicts_depend_on(annotation, "annotation", preference),
            QUESTION_SCHEMA,
            self.sample(policy).store,
        )
        return self.annotation_stage(store, annotation, "annotation", preference=preference)

    def before_pairs(self, policy: Policy) -> tuple[StreamStage, ...]:
        """The stages between the questions and the pairs: none where pairs are given."""
        return () if self.config.data.weighted else (self.sample(policy), self.annotate(policy))

    def source_of_pairs(self, policy: Policy) -> StageStore:
        """What the pairs are made of."""
        before = self.before_pairs(policy)
        return before[-1].store if before else self.questions("train")

    @cached_property
    def _given_prompts(self) -> dict[str, list[Message] | None]:
        """By the ids of weighted pairs."""
        return {row["id"]: row["prompt"] for row in self.questions("train").rows(["id", "prompt"])}

    def prompt_of(self, pair: Pair) -> list[Message] | None:
        """The messages that a pair's prompt was built from; None where its token ids alone came."""
        messages: list[Message] | None = [{"role": "user", "content": pair["question"]}]
        if self.config.data.weighted:
            messages = self._given_prompts[pair["id"]]
        return messages and conversation(messages, self.config.model.system_prompt)

    def pair(self, policy: Policy | None = None, system: str | None = None) -> StreamStage:
        """Pairs of the answers of ``policy`` by the settings of ``system``, or by those that
        systems change."""
        return self._pair(policy or self.base, self.config.preference_of(system), self.selected)

    def pair_all(self, policy: Policy, system: str | None) -> StreamStage:
        """Pairs of all questions, whichever ``preference.questions`` selects."""
        return self._pair(policy, self.config.preference_of(system), None)

    def pairings(self, start: Policy) -> dict[str | None, StreamStage]:
        """The stages that make pairs of the answers of ``start``, by the first system that learns
        from them; by None where no system is trained."""
        own = [system for system, round in self.trainings() if self.start(system, round) == start]
        made: dict[str, tuple[str | None, StreamStage]] = {}
        for system in own or [None]:
            stage = self.pair(start, system)
            made.setdefault(stage.store.name, (system, stage))
        return dict(made.values())

    def _pairing(self, policy: Policy, preference: PreferenceConfig) -> str:
        """Name of the stage that makes pairs by these settings."""
        name, config = policy.stage("pair"), self.config
        if preference == config.preference:
            return name
        first = next(each for each in config.systems if config.preference_of(each) == preference)
        return f"{name}-for-{first}"

    def _pair(
        self, policy: Policy, preference: PreferenceConfig, selected: frozenset[str] | None
    ) -> StreamStage:
        settings = preference.decides() | {
            "policy": policy.identity,
            "model": self.model_settings,
            "columns": fingerprint(str(PAIR_SCHEMA)),  # pairs made without one are not read as new
        }
        if selected is not None:
            settings["questions"] = fingerprint(sorted(selected))
        if self.overrides:
            settings["overrides"] = digest(self.overrides)
        weighted = self.config.data.weighted
        read = read_of_sides(map(self.config.training_of, self.config.systems)) if weighted else []
        if read:  # pairs from outside need not tell it
            settings["read"] = read
        store = self.dir.store(
            self._pairing(policy, preference), settings, PAIR_SCHEMA, self.source_of_pairs(policy)
        )
        model = self.model_of(policy)
        build = partial(PairBuilder, model, preference, selected, self.overrides)
        if weighted:
            build = partial(GivenPairs, model, preference, read)
        return StreamStage(store, build, self.config.resources.pair)

    @cached_property
    def overrides(self) -> dict[tuple[str, str], str]:
        """Labels of people on sentences of the training questions, by (question id, sentence).

        Raises:
            UserError: the file cannot be read, holds no label, labels a sentence twice, or names a
                question that the run does not have.
        """
        path = self.config.annotation and self.config.annotation.overrides
        if not path:
            return {}
        labels, without = read_labels(path)
        found = verdict_of_each(labels)
        asked = self.questions("train").finished()[0]
        of_run = {key: label for key, label in found.items() if key[0] in asked}
        if not of_run:
            raise UserError(
                f"annotation.overrides: {path} has no label on a question of data.train "
                f"({len(found)} on others, {sum(without.values())} rows without one)"
            )
        if others := len(found) - len(of_run):
            say(f"annotation.overrides: {others} labels of {path} are on other questions: left out")
        return of_run

    @cached_property
    def selected(self) -> frozenset[str] | None:
        """Ids of the questions of ``preference.questions``; None where all are taken.

        Raises:
            UserError: the file cannot be read, or names a question that the run does not have.
        """
        path = self.config.preference.questions
        if path is None:
            return None
        source = Source(path, self.config.data.columns, key="preference.questions")
        ids = frozenset(row_id for row_id, row in read_questions(source) if not _repeats(row))
        if unknown := sorted(ids - self.questions("train").finished()[0]):
            raise UserError(
                f"preference.questions: {len(unknown)} of the {len(ids)} questions of {path} are "
                f"not in data.train, first {unknown[0]!r}: take the ids that stand there"
            )
        return ids

    def reference(self, policy: Policy | None = None) -> StreamStage:
        """Keyed by the token ids of each pair, so masks and losses share what is computed once."""
        policy = policy or self.base
        of = self.reference_policy(policy)
        training = self.config.training
        settings = {
            "policy": of.identity,
            "dtype": self.config.model.dtype,
            "attention": training.attention,
            **{key: True for key in ("use_liger_kernel", "load_in_4bit") if getattr(training, key)},
            **({"device": "cuda"} if self.config.resources.reference.gpus else {}),
        }
        store = self.dir.store(policy.stage("reference"), settings, REFERENCE_SCHEMA)
        build = partial(ReferenceProcessor, self.model_of(of), training)
        return StreamStage(
            store, build, self.config.resources.reference, column="digest", shared=True
        )

    def annotation_stage(
        self,
        store: StageStore,
        annotation: AnnotationConfig,
        key: str,
        pool: str = "annotator",
        labelled: bool = False,
        preference: PreferenceConfig | None = None,
    ) -> StreamStage:
        """The stage that fills ``store`` with verdicts, on the world and a pool of this run."""
        world = self.world and self.world.shared
        actors = getattr(self.config.resources, pool)
        return annotation_stage(store, annotation, key, world, actors, labelled, preference)

    # -- training -------------------------------------------------------------------------------

    def start(self, system: str, round: int) -> Policy:
        """What a round of a system's training samples and starts from."""
        return self.base if round == 1 else self.trained(system, round - 1)

    def reference_policy(self, start: Policy) -> Policy:
        """What a round that starts from ``start`` refers to (``rounds_reference``)."""
        return self.base if self.config.rounds_reference == "first" else start

    def train(self, system: str, round: int = 1) -> StageStore:
        """The store of a round of training: ``model/``, ``metrics.jsonl``, ``checkpoints/``."""
        start = self.start(system, round)
        settings = {
            "policy": start.identity,
            "dtype": self.config.model.dtype,
            "training": self.config.training_of(system).decides(),
            "seed": self.config.seed,
        }
        if (reference := self.reference_policy(start)) != start:
            settings["reference"] = reference.identity
        name = f"train-{_after(system, round)}"
        return self.dir.store(name, settings, NO_ROWS, self.pair(start, system).store)

    def training_job(self, system: str, round: int = 1) -> TrainingJob:
        start = self.start(system, round)
        pairs, references = self.pair(start, system).store, self.reference(start).store
        settings = self.config.training_of(system)
        return TrainingJob(
            model=self.model_of(start),
            settings=settings,
            seed=self.config.seed,
            pairs=pairs.rows,
            references=references.rows,
            output=self.train(system, round).folder,
            tracking=self.config.tracking,
            origin=self._origin(start, system),
            questions=None if self.config.data.weighted else self.questions("train").rows,
            examiner=self._examiner_here() if settings.sample_every else None,
        )

    def _examiner_here(self) -> Callable[[], Any] | None:
        """Makes the examiner in a training worker; None where it needs an engine or new answers
        have none: who is exact, or asked at a server, takes nothing from training."""
        annotation = self.config.first_examiner
        if annotation is None or "gpu" in annotation.needs or annotation.engines:
            return None
        key = self.examiner_key(None)
        pinned = annotation.kind.pinned(annotation, key)
        return partial(build_annotator, pinned, self.world and self.world.shared)

    def examiner_key(self, judge: str | None) -> str:
        """Where the settings of an examiner stand."""
        if judge:
            return f"evaluation.judges.{judge}"
        return "evaluation.annotation" if self.config.evaluation.annotation else "annotation"

    def _origin(self, start: Policy, system: str) -> dict[str, str]:
        """What the pairs of a policy came from, row counts and drops by reason included."""
        who = "none: the pairs brought their weights along"
        if not self.config.data.weighted:
            who = " ".join(filter(None, self.config.annotator.who.values()))
        stages = (*self.before_pairs(start), self.pair(start, system))
        counts = (stage.store.summary().split(": ", 1) for stage in stages)
        return {
            "annotator": who,
            **dict(counts),
            **{f"{package} version": version for package, version in self.versions.items()},
        }

    def trained(self, system: str, round: int = 1) -> Policy:
        """A system after a round of training, named by its weights once there are some: trained
        anew, with the same settings on other hardware, it is another policy."""
        store = self.train(system, round)
        weights = (store.manifest() or {}).get("weights")
        identity = f"{store.key}:{weights}" if weights else store.key
        return Policy(_after(system, round), f"{store.folder}/model", identity, round=round)

    def trainings(self) -> list[tuple[str, int]]:
        """Every system and round, in the order in which they are trained."""
        rounds = range(1, self.config.rounds + 1)
        return [(system, round) for round in rounds for system in self.config.systems]
