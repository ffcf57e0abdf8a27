"""What each stage depends on, where its results lie, and what runs in it.

A stage's settings, listed here, are what its fingerprint covers. What a stage does not list it
must not read, or a changed setting would meet old results.
"""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import pyarrow as pa

from maskdpo_ray.annotation.factory import build_annotator
from maskdpo_ray.answers import import_answers
from maskdpo_ray.config import (
    AnnotationConfig,
    ChatModelConfig,
    Config,
    EndpointConfig,
    EvaluatedConfig,
    FactScoreConfig,
    ModelConfig,
    TrainingConfig,
)
from maskdpo_ray.engine.arguments import what_decides
from maskdpo_ray.engine.chat import load_tokenizer
from maskdpo_ray.errors import UserError
from maskdpo_ray.evaluation.factscore.factory import build_factscore
from maskdpo_ray.evaluation.factscore.knowledge import knowledge_identity
from maskdpo_ray.identity import commit_of, file_digest, model_identity, versions
from maskdpo_ray.model_files import local_file
from maskdpo_ray.preference.processor import PairBuilder
from maskdpo_ray.questions import check_disjoint, import_questions, source_of
from maskdpo_ray.records import FACT_SCHEMA, PAIR_SCHEMA, QUESTION_SCHEMA, REFERENCE_SCHEMA
from maskdpo_ray.rundir import RunDir, StageStore
from maskdpo_ray.sampling.factory import (
    build_chat_sampler,
    build_endpoint_sampler,
    build_given,
    build_sampler,
)
from maskdpo_ray.sampling.sampler import Decoding, decoding_of
from maskdpo_ray.sampling.seeds import round_seed
from maskdpo_ray.sources import Source
from maskdpo_ray.stream import StreamStage
from maskdpo_ray.training.reference import ReferenceProcessor
from maskdpo_ray.training.worker import TrainingJob
from maskdpo_ray.world.place import WorldPlace, world_knowledge, world_of

NO_ROWS = pa.schema([])


def _after(system: str, round: int) -> str:
    """A system after a round: the first bears its plain name, so that a second can be added."""
    return system if round == 1 else f"{system}-round{round}"


def _settings_of(model: ModelConfig) -> dict[str, Any]:
    """What of a model section changes answers, beside the weights."""
    template = model.chat_template and file_digest(model.chat_template)
    return {
        "dtype": model.dtype,
        "chat_template": template,
        "system_prompt": model.system_prompt,
    }


@dataclass(frozen=True)
class Policy:
    """A model that answers: the base, a system after one of its rounds of training, or a further
    one that is only evaluated."""

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
        if config.world is None and config.has_policy:
            _ = self.base  # a model that cannot be reached must not take the directory
        for name in config.evaluation.models:
            self._further(name)
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
        """The policy before training.

        Raises:
            UserError: there is none, only answers of others.
        """
        model = self.config.model
        if not self.config.has_policy:
            raise UserError("model.path is missing: there is no policy, only evaluation.models")
        path = f"{self.world.shared}/policy" if self.world else str(model.path)
        here = f"{self.world.built}/policy" if self.world else path
        identity = model_identity(here, model.revision)
        return Policy("base", path, identity, commit_of(identity))

    def questions(self, split: str) -> StageStore:
        """The questions of ``train`` or ``test``, imported if need be.

        Raises:
            UserError: the two share a topic or a question.
        """
        if split not in self._imported:
            # Where nothing is trained, training questions need not be there.
            both = self.config.systems and self.config.evaluates
            for name in ("train", "test") if both else (split,):
                self._imported[name] = self._import(name)
            if both:
                check_disjoint(
                    self._imported["train"],
                    self._imported["test"],
                    split=self.config.data.split is not None,
                )
        return self._imported[split]

    def _import(self, split: str) -> StageStore:
        data = self.config.data
        world = self.world and Source(self._world_questions(split), data.columns)
        source = world or source_of(data, split)
        settings = {
            "sha256": source.digest(),
            "limit": data.limit,
            "format": data.format if split == "train" else "questions",
            "columns": source.columns,
            "split": data.split and data.split.model_dump(),
        }
        store = self.dir.store(f"questions-{split}", settings, QUESTION_SCHEMA)
        if self._look:
            if not store.complete:
                raise UserError(f"{self.dir.folder}: the questions are not there yet")
            return store
        group = self.config.resources.questions_per_block
        import_questions(source, data, store, group, self.versions, split)
        if not store.finished()[0]:
            raise UserError(f"{source}: every question was rejected; see {store.folder}")
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
        """Everything that is evaluated: the base, what was trained from it, further models."""
        base = [self.base] if self.config.has_policy else []
        trained = (self.trained(*training) for training in self.trainings())
        return [*base, *trained, *map(self._further, self.config.evaluation.models)]

    def _further(self, name: str) -> Policy:
        """A model of ``evaluation.models``, a served one, or the file of its answers."""
        further = self.config.evaluation.models[name]
        if further.responses:
            return Policy(name, further.responses, file_digest(further.responses))
        if further.endpoint:
            return Policy(name, further.endpoint.model, f"endpoint {further.endpoint.model}")
        key = f"evaluation.models.{name}.path"
        identity = model_identity(str(further.path), further.revision, key)
        return Policy(name, str(further.path), identity, commit_of(identity))

    def answer(self, policy: Policy) -> StreamStage:
        """Greedy and sampled answers to the test questions."""
        config = self.config
        decoding = decoding_of(config.evaluation, config.evaluation.samples, greedy=True)
        further = config.evaluation.models.get(policy.name)
        if further and further.endpoint:
            return self._served(policy, further, decoding)
        model, engine = self.model_of(policy), config.sampling.engine
        if further:
            of_model = {key: getattr(further, key) for key in ModelConfig.model_fields}
            model = ModelConfig(**of_model | {"revision": policy.revision})
            engine = config.sampling.engine if further.engine is None else further.engine
        settings = {
            "policy": policy.identity,
            "model": _settings_of(model),
            "decoding": vars(decoding),
            "engine": what_decides(engine),
            "seed": config.seed,
        }
        build = partial(build_sampler, model, decoding, config.seed, engine)
        return StreamStage(self._answers(policy, settings), build, config.resources.sampler)

    def _served(self, policy: Policy, further: EvaluatedConfig, decoding: Decoding) -> StreamStage:
        settings = {
            "policy": policy.identity,
            "system_prompt": further.system_prompt,
            "decoding": vars(decoding),
            "seed": self.config.seed,
            "tokenizer": self._measure and self.base.identity,
        }
        build = partial(
            build_chat_sampler,
            further.endpoint,
            decoding,
            self.config.seed,
            further.system_prompt,
            self._measure,
        )
        pool = self.config.resources.sampler.model_copy(update={"gpus": 0})  # it only asks
        return StreamStage(self._answers(policy, settings), build, pool)

    def answered(self, policy: Policy) -> StageStore:
        """The store of a policy's answers; those of a file are brought in if need be."""
        if not self.is_given(policy):
            return self.answer(policy).store
        settings = {
            "responses": policy.identity,
            "tokenizer": self._measure and self.base.identity,
        }
        store = self._answers(policy, settings)
        if not self._look and not (store.complete and not store.lacks_rows()):
            tokenizer = self._measure and load_tokenizer(self._measure)
            group = self.config.resources.questions_per_block
            questions = self.questions("test")
            import_answers(
                policy.path, policy.name, questions, store, tokenizer, group, self.versions
            )
        return store

    def is_given(self, policy: Policy) -> bool:
        """Whether its answers exist in a file."""
        further = self.config.evaluation.models.get(policy.name)
        return further is not None and further.responses is not None

    def _answers(self, policy: Policy, settings: dict[str, Any]) -> StageStore:
        name = f"answer-{policy.name}"
        return self.dir.store(name, settings, QUESTION_SCHEMA, self.questions("test"))

    @property
    def _measure(self) -> ModelConfig | None:
        """The policy, whose tokens tell the length of texts that come without."""
        return self.model_of(self.base) if self.config.has_policy else None

    @cached_property
    def _asked(self) -> dict[str | None, str | None]:
        """For each examiner the first with its settings: verdicts are not made twice."""
        examiners = self.config.examiners
        settings = {name: self._annotation(each) for name, each in examiners.items()}
        return {
            name: next(other for other in examiners if settings[other] == settings[name])
            for name in examiners
        }

    @property
    def judges(self) -> list[str]:
        """The judges that have verdicts of their own to make."""
        return [name for name, asked in self._asked.items() if name and name == asked]

    def evaluate(self, policy: Policy, judge: str | None = None) -> StreamStage:
        """Verdicts on the answers: the first examiner's, or those of one of the judges."""
        asked = self._asked[judge]
        annotation = self.config.examiners[asked]
        store = self.dir.store(
            f"evaluate-{policy.name}-by-{asked}" if asked else f"evaluate-{policy.name}",
            self._annotation(annotation),
            QUESTION_SCHEMA,
            self.answered(policy),
        )
        return self._annotate(store, annotation)

    def factscore(self, policy: Policy) -> StreamStage:
        """The answers fact by fact; only where ``evaluation.factscore`` is given."""
        settings, built = self._factscore
        store = self.dir.store(
            f"factscore-{policy.name}", settings, FACT_SCHEMA, self.answered(policy)
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

    def judge_checks(self) -> tuple[StageStore, list[tuple[str, AnnotationConfig, StreamStage]]]:
        """Answers with human labels, and every examiner's own verdicts on the same sentences.

        Examiners go by where their settings stand; those that stand twice are asked once.

        Raises:
            UserError: there is nothing to check.
        """
        evaluation = self.config.evaluation
        examiners = {
            "annotation": self.config.annotation.model_copy(update={"prune": False}),
            "evaluation.annotation": evaluation.annotation,
            **{f"evaluation.judges.{name}": judge for name, judge in evaluation.judges.items()},
        }
        examiners = {
            key: examiner
            for key, examiner in examiners.items()
            if examiner and examiner.annotator not in ("labels", "closed_world")
        }
        if not examiners:
            raise UserError(
                f"annotator {self.config.annotation.annotator!r} has no judgement to check: set "
                "annotation, evaluation.annotation or one of evaluation.judges to anah or judge"
            )
        labelled = self._import("train")
        checks: dict[str, tuple[str, AnnotationConfig, StreamStage]] = {}
        for key, annotation in examiners.items():
            store = self.dir.store(
                "judge-check", self._annotation(annotation), QUESTION_SCHEMA, labelled
            )
            stage = self._annotate(store, annotation, labelled=True)
            checks.setdefault(store.key, (key, annotation, stage))
        return labelled, list(checks.values())

    def stores(self) -> list[StageStore]:
        """The stores of all stages, in the order of the graph."""
        made = [self.questions("train")] if self.config.systems else []
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
                made += [self.answered(policy), self.evaluate(policy).store]
                made += [self.evaluate(policy, judge).store for judge in self.judges]
                if self.config.evaluation.factscore:
                    made.append(self.factscore(policy).store)
        return made

    # -- shared ---------------------------------------------------------------------------------

    @cached_property
    def _model_settings(self) -> dict[str, Any]:
        return _settings_of(self.config.model)

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
