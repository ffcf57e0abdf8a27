"""What each stage depends on, where its results lie, and what runs in it.

A stage's settings, listed here, are what its fingerprint covers. What a stage does not list it
must not read, or a changed setting would meet old results.
"""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import pyarrow as pa

from maskdpo_ray.annotation.factory import build_annotator
from maskdpo_ray.config import (
    AnnotationConfig,
    ChatModelConfig,
    Config,
    EndpointConfig,
    FactScoreConfig,
    ModelConfig,
    TrainingConfig,
)
from maskdpo_ray.engine.arguments import what_decides
from maskdpo_ray.errors import UserError
from maskdpo_ray.evaluation.factscore.factory import build_factscore
from maskdpo_ray.evaluation.factscore.knowledge import knowledge_identity
from maskdpo_ray.identity import commit_of, file_digest, model_identity, versions
from maskdpo_ray.model_files import local_file
from maskdpo_ray.preference.processor import PairBuilder
from maskdpo_ray.questions import check_disjoint, import_questions
from maskdpo_ray.records import FACT_SCHEMA, PAIR_SCHEMA, QUESTION_SCHEMA, REFERENCE_SCHEMA
from maskdpo_ray.rundir import RunDir, StageStore
from maskdpo_ray.sampling.factory import build_endpoint_sampler, build_given, build_sampler
from maskdpo_ray.sampling.sampler import decoding_of
from maskdpo_ray.sampling.seeds import round_seed
from maskdpo_ray.stream import StreamStage
from maskdpo_ray.training.reference import ReferenceProcessor
from maskdpo_ray.training.worker import TrainingJob
from maskdpo_ray.world.place import WorldPlace, world_knowledge, world_of

NO_ROWS = pa.schema([])


def _after(system: str, round: int) -> str:
    """A system after a round: the first bears its plain name, so that a second can be added."""
    return system if round == 1 else f"{system}-round{round}"


@dataclass(frozen=True)
class Policy:
    """A model that answers: the base, or a system after one of its rounds of training."""

    name: str
    path: str
    identity: str
    revision: str | None = None
    round: int = 0  # rounds of training behind it

    def stage(self, verb: str) -> str:
        """Name of the stage that makes pairs from this policy's answers."""
        return verb if self.round == 0 else f"{verb}-{self.name}"


class Stages:
    """The stages of one run."""

    def __init__(self, config: Config, rerun: bool = False, look: bool = False) -> None:
        """Open the run directory; ``look`` only at what is there, beside a driver that works."""
        self.config = config
        self._look = look
        self.versions = versions()
        self.dir = RunDir(config)
        self._imported: dict[str, StageStore] = {}
        if config.world is None:
            _ = self.base  # a model that cannot be reached must not take the directory
        if look:
            self.dir.look()
        else:
            self.dir.claim(rerun)

    # -- what a run starts from -----------------------------------------------------------------

    @cached_property
    def world(self) -> WorldPlace | None:
        """The closed world, built if need be; None where the run has none."""
        world = self.config.world
        if world is None:
            return None
        return world_of(self.dir.folder, world, self.config.seed, build=not self._look)

    @cached_property
    def base(self) -> Policy:
        """The policy before training."""
        model = self.config.model
        path = f"{self.world.shared}/policy" if self.world else str(model.path)
        here = f"{self.world.built}/policy" if self.world else path
        identity = model_identity(here, model.revision)
        return Policy("base", path, identity, commit_of(identity))

    def questions(self, split: str) -> StageStore:
        """The questions of ``train`` or ``test``, imported if need be.

        Raises:
            UserError: the two share a topic or a question.
        """
        if not self._imported:
            splits = ["train", "test"] if self.config.evaluates else ["train"]
            self._imported = {name: self._import(name) for name in splits}
            if self.config.evaluates:
                check_disjoint(*self._imported.values())
        if split not in self._imported:
            raise UserError(f"data.{split} is missing: a JSONL file of questions")
        return self._imported[split]

    def _import(self, split: str) -> StageStore:
        data = self.config.data
        path = self._world_questions(split) if self.world else getattr(data, split)
        if split == "test":
            data = data.model_copy(update={"format": "questions"})
        settings = {"sha256": file_digest(path), "limit": data.limit, "format": data.format}
        store = self.dir.store(f"questions-{split}", settings, QUESTION_SCHEMA)
        if self._look:
            if not store.complete:
                raise UserError(f"{self.dir.folder}: the questions are not there yet")
            return store
        group = self.config.resources.questions_per_block
        import_questions(path, data, store, group, self.versions)
        if not store.finished()[0]:
            raise UserError(f"{path}: every question was rejected; see {store.folder}")
        return store

    def _world_questions(self, split: str) -> str:
        name = self.config.world.evaluate_on if split == "test" else split
        return f"{self.world.built}/{name}.jsonl"

    # -- questions to pairs ---------------------------------------------------------------------

    def sample(self, policy: Policy | None = None) -> StreamStage:
        """Candidates of the base, or of ``policy`` for the round after it."""
        policy = policy or self.base
        config, sampling = self.config, self.config.sampling
        seed = round_seed(config.seed, policy.round)
        how_asked = set(EndpointConfig.HOW)
        settings = {
            "policy": policy.identity,
            "model": self._model_settings,
            "sampling": sampling.model_dump(mode="json", exclude={"endpoint": how_asked})
            | {"engine": what_decides(sampling.engine)},
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
        policy = policy or self.base
        store = self.dir.store(
            policy.stage("annotate"),
            self._annotation(self.config.annotation),
            QUESTION_SCHEMA,
            self.sample(policy).store,
        )
        return self._annotate(store, self.config.annotation)

    def pair(self, policy: Policy | None = None) -> StreamStage:
        policy = policy or self.base
        preference = self.config.preference
        settings = preference.model_dump() | {
            "policy": policy.identity,
            "model": self._model_settings,
        }
        store = self.dir.store(
            policy.stage("pair"), settings, PAIR_SCHEMA, self.annotate(policy).store
        )
        build = partial(PairBuilder, self.model_of(policy), preference)
        return StreamStage(store, build, self.config.resources.pair)

    def reference(self, policy: Policy | None = None) -> StreamStage:
        """Keyed by the token ids of each pair, so masks and losses share what is computed once.

        The reference of a round is the policy that it starts from.
        """
        policy = policy or self.base
        training = self.config.training
        settings = {
            "policy": policy.identity,
            "dtype": self.config.model.dtype,
            "attention": training.attention,
        }
        store = self.dir.store(policy.stage("reference"), settings, REFERENCE_SCHEMA)
        build = partial(ReferenceProcessor, self.model_of(policy), training)
        return StreamStage(
            store, build, self.config.resources.reference, column="digest", shared=True
        )

    # -- training -------------------------------------------------------------------------------

    def start(self, system: str, round: int) -> Policy:
        """What a round of a system's training samples, refers to and starts from."""
        return self.base if round == 1 else self.trained(system, round - 1)

    def train(self, system: str, round: int = 1) -> StageStore:
        """The store of a round of training: ``model/``, ``metrics.jsonl``, ``checkpoints/``."""
        start = self.start(system, round)
        settings = {
            "policy": start.identity,
            "dtype": self.config.model.dtype,
            "training": self.config.training_of(system).model_dump(
                mode="json", exclude={"preset", *TrainingConfig.HOW}
            ),
            "seed": self.config.seed,
        }
        name = f"train-{_after(system, round)}"
        return self.dir.store(name, settings, NO_ROWS, self.pair(start).store)

    def training_job(self, system: str, round: int = 1) -> TrainingJob:
        start = self.start(system, round)
        pairs, references = self.pair(start).store, self.reference(start).store
        return TrainingJob(
            model=self.model_of(start),
            settings=self.config.training_of(system),
            seed=self.config.seed,
            pairs=pairs.rows,
            references=references.rows,
            output=self.train(system, round).folder,
            tracking=self.config.tracking,
            origin=self._origin(start),
        )

    def _origin(self, start: Policy) -> dict[str, str]:
        """What the pairs of a policy came from, row counts and drops by reason included."""
        annotation = self.config.annotation
        stages = (self.sample(start), self.annotate(start), self.pair(start))
        counts = (stage.store.summary().split(": ", 1) for stage in stages)
        return {
            "annotator": f"{annotation.annotator} {annotation.asked or ''}".strip(),
            **dict(counts),
            **{f"{package} version": version for package, version in self.versions.items()},
        }

    def trained(self, system: str, round: int = 1) -> Policy:
        """A system after a round of training."""
        store = self.train(system, round)
        return Policy(
            _after(system, round), f"{store.folder}/model", store.key, revision=None, round=round
        )

    def trainings(self) -> list[tuple[str, int]]:
        """Every system and round, in the order in which they are trained."""
        rounds = range(1, self.config.rounds + 1)
        return [(system, round) for round in rounds for system in self.config.systems]

    # -- evaluation -----------------------------------------------------------------------------

    def policies(self) -> list[Policy]:
        """Everything that is evaluated, the base first."""
        return [self.base, *(self.trained(*training) for training in self.trainings())]

    def answer(self, policy: Policy) -> StreamStage:
        """Greedy and sampled answers to the test questions."""
        config = self.config
        decoding = decoding_of(config.evaluation, config.evaluation.samples, greedy=True)
        settings = {
            "policy": policy.identity,
            "model": self._model_settings,
            "decoding": vars(decoding),
            "engine": what_decides(config.sampling.engine),
            "seed": config.seed,
        }
        store = self.dir.store(
            f"answer-{policy.name}", settings, QUESTION_SCHEMA, self.questions("test")
        )
        build = partial(
            build_sampler, self.model_of(policy), decoding, config.seed, config.sampling.engine
        )
        return StreamStage(store, build, config.resources.sampler)

    def evaluate(self, policy: Policy) -> StreamStage:
        annotation = self.config.evaluation_annotation
        store = self.dir.store(
            f"evaluate-{policy.name}",
            self._annotation(annotation),
            QUESTION_SCHEMA,
            self.answer(policy).store,
        )
        return self._annotate(store, annotation)

    def factscore(self, policy: Policy) -> StreamStage:
        """The answers fact by fact; only where ``evaluation.factscore`` is given."""
        settings, built = self._factscore
        store = self.dir.store(
            f"factscore-{policy.name}", settings, FACT_SCHEMA, self.answer(policy).store
        )
        return StreamStage(store, partial(build_factscore, built), self.config.resources.factscore)

    @cached_property
    def _factscore(self) -> tuple[dict[str, Any], FactScoreConfig]:
        """What verdicts on facts depend on, and the section with all that it names pinned."""
        section, key = self.config.evaluation.factscore, "evaluation.factscore"
        # Of the score, not of the verdicts that it is made from.
        settings = section.model_dump(mode="json", exclude={"gamma", *section.models})
        knowledge = section.knowledge
        if self.world:
            knowledge = world_knowledge(self.world, build=not self._look)
            settings["knowledge"] = knowledge.rpartition("/")[2]  # named by its content
        else:
            settings["knowledge"] = knowledge_identity(local_file(knowledge))
        if section.templates:
            settings["templates"] = file_digest(section.templates)
        pinned: dict[str, Any] = {"knowledge": knowledge}
        for name, of in section.models.items():
            settings[name] = self._chat_model(of)
            if of.model:
                identity = model_identity(of.model, of.revision, f"{key}.{name}.model")
                settings[name]["model"] = identity
                pinned[name] = of.model_copy(update={"revision": commit_of(identity)})
        if section.embedding:
            identity = model_identity(
                section.embedding, section.embedding_revision, f"{key}.embedding"
            )
            settings["embedding"] = identity
            pinned["embedding_revision"] = commit_of(identity)
        return settings, section.model_copy(update=pinned)

    def judge_check(self) -> tuple[StageStore, StreamStage]:
        """Answers with human labels, and the annotator's own verdicts on the same sentences.

        Raises:
            UserError: there is nothing to check.
        """
        annotation = self.config.annotation.model_copy(update={"prune": False})
        if annotation.annotator in ("labels", "closed_world"):
            raise UserError(
                f"annotator {annotation.annotator!r} has no judgement to check: set annotation to "
                "anah or judge"
            )
        labelled = self._import("train")
        store = self.dir.store(
            "judge-check", self._annotation(annotation), QUESTION_SCHEMA, labelled
        )
        return labelled, self._annotate(store, annotation, labelled=True)

    def stores(self) -> list[StageStore]:
        """The stores of all stages, in the order of the graph."""
        made = [self.questions("train")]
        starts: list[Policy] = []
        for system, round in self.trainings():
            start = self.start(system, round)
            stages = (self.sample, self.annotate, self.pair, self.reference)
            if start not in starts:  # systems share the first round's pairs
                starts.append(start)
                made += [stage(start).store for stage in stages]
            made.append(self.train(system, round))
        if self.config.evaluates:
            made.append(self.questions("test"))
            for policy in self.policies():
                made += [self.answer(policy).store, self.evaluate(policy).store]
                if self.config.evaluation.factscore:
                    made.append(self.factscore(policy).store)
        return made

    # -- shared ---------------------------------------------------------------------------------

    @cached_property
    def _model_settings(self) -> dict[str, Any]:
        """What of the model section changes answers, beside the weights."""
        model = self.config.model
        template = model.chat_template and file_digest(model.chat_template)
        return {
            "dtype": model.dtype,
            "chat_template": template,
            "system_prompt": model.system_prompt,
        }

    def _annotation(self, annotation: AnnotationConfig) -> dict[str, Any]:
        """What an annotator's verdicts depend on."""
        settings = self._chat_model(annotation)
        if annotation.templates:
            settings["templates"] = file_digest(annotation.templates)
        if annotation.model:
            settings["model"] = self._annotating(annotation)
        return settings

    def _chat_model(self, section: AnnotationConfig | ChatModelConfig) -> dict[str, Any]:
        """What of a section with a chat model decides its replies, beside the weights."""
        exclude = {"revision": True, "endpoint": set(EndpointConfig.HOW)}
        settings = section.model_dump(mode="json", exclude=exclude)
        settings["engine"] = what_decides(section.engine)
        if section.chat_template:
            settings["chat_template"] = file_digest(section.chat_template)
        return settings

    def _annotating(self, annotation: AnnotationConfig) -> str:
        """Identity of the annotating model."""
        return model_identity(annotation.model, annotation.revision, "annotation.model")

    def _annotate(
        self, store: StageStore, annotation: AnnotationConfig, labelled: bool = False
    ) -> StreamStage:
        if annotation.model:
            pinned = commit_of(self._annotating(annotation))
            annotation = annotation.model_copy(update={"revision": pinned})
        world = self.world and self.world.shared
        build = partial(build_annotator, annotation, world, labelled)
        return StreamStage(store, build, self.config.resources.annotator)

    def model_of(self, policy: Policy) -> ModelConfig:
        return self.config.model.model_copy(
            update={"path": policy.path, "revision": policy.revision}
        )
