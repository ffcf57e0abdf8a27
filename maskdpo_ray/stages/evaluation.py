"""Who answers the test questions, who examines the answers, and who examines the examiners."""

from functools import cached_property, partial
from typing import Any, NamedTuple

from maskdpo_ray.annotation.registry import known
from maskdpo_ray.answers import import_answers
from maskdpo_ray.config import (
    AnnotationConfig,
    EvaluatedConfig,
    FactScoreConfig,
    ModelConfig,
)
from maskdpo_ray.digests import fingerprint
from maskdpo_ray.engine.chat import load_tokenizer
from maskdpo_ray.errors import UserError
from maskdpo_ray.evaluation.abstention import RULES
from maskdpo_ray.evaluation.factscore.factory import build_factscore
from maskdpo_ray.evaluation.factscore.wording import wording_file
from maskdpo_ray.identity import (
    chat_model_identity,
    commit_of,
    file_digest,
    model_identity,
    pinned,
)
from maskdpo_ray.knowledge.database import knowledge_identity
from maskdpo_ray.model_files import local_file
from maskdpo_ray.records import FACT_SCHEMA, QUESTION_SCHEMA
from maskdpo_ray.rundir import StageStore
from maskdpo_ray.sampling.factory import build_chat_sampler, build_sampler
from maskdpo_ray.sampling.sampler import Decoding, decoding_of
from maskdpo_ray.stages.annotating import verdicts_depend_on
from maskdpo_ray.stages.policy import Policy, settings_of
from maskdpo_ray.stages.training import Training
from maskdpo_ray.stream import StreamStage
from maskdpo_ray.world.place import world_knowledge


class Check(NamedTuple):
    """An examiner that is held against labels."""

    key: str  # where its settings stand
    annotation: AnnotationConfig
    stage: StreamStage | None  # its verdicts; None: they follow from those of its members
    same: str  # the first one with these settings: itself, as a rule


class Evaluation(Training):
    """The stages of answers and verdicts."""

    def reach_models(self) -> None:
        """Of the further models too."""
        super().reach_models()
        for name in self.config.evaluation.models:
            self._further(name)

    def policies(self) -> list[Policy]:
        """Everything that is evaluated: the base, what was trained from it, further models. Where
        nobody says how pairs are judged nothing is trained."""
        base = [self.base] if self.config.has_policy else []
        makes_pairs = self.config.annotation or self.config.data.weighted
        trained = (self.trained(*training) for training in self.trainings() if makes_pairs)
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
        model, of = self.model_of(policy), config.sampling
        if further:
            of_model = {key: getattr(further, key) for key in ModelConfig.model_fields}
            model = ModelConfig(**of_model | {"revision": policy.revision})
            of = config.sampling if further.engine is None else further
        settings = {
            "policy": policy.identity,
            "model": settings_of(model),
            "decoding": vars(decoding),
            "engine": of.decides()["engine"],
            "seed": config.seed,
        }
        build = partial(build_sampler, model, decoding, config.seed, of.engine)
        return StreamStage(self._answers(policy, settings), build, config.resources.sampler)

    def _served(self, policy: Policy, further: EvaluatedConfig, decoding: Decoding) -> StreamStage:
        settings = {
            "policy": policy.identity,
            "endpoint": further.endpoint.decides(),
            "system_prompt": further.system_prompt,
            "chat_template_kwargs": further.chat_template_kwargs,
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
            further.chat_template_kwargs,
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

    def system_prompt(self, policy: Policy) -> str | None:
        """What the policy answers under; of answers in a file it is not known."""
        return self.config.evaluation.models.get(policy.name, self.config.model).system_prompt

    def _answers(self, policy: Policy, settings: dict[str, Any]) -> StageStore:
        name = f"answer-{policy.name}"
        return self.dir.store(name, settings, QUESTION_SCHEMA, self.questions("test"))

    @property
    def _measure(self) -> ModelConfig | None:
        """The policy, whose tokens tell the length of texts that come without."""
        return self.model_of(self.base) if self.config.has_policy else None

    @cached_property
    def _asked(self) -> dict[str | None, str | None]:
        """For each examiner the first with its settings: verdicts are not made twice. The same
        name at two servers may be two models, so where they are asked counts here."""
        examiners = self.config.examiners
        settings = {
            name: [
                verdicts_depend_on(each, self.examiner_key(name)),
                each.servers,
            ]
            for name, each in examiners.items()
        }
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
        asked = self._asked.get(judge)
        annotation = self.config.examiners[asked] if asked else self.config.evaluation_annotation
        key = self.examiner_key(asked)
        store = self.dir.store(
            f"evaluate-{policy.name}-by-{asked}" if asked else f"evaluate-{policy.name}",
            verdicts_depend_on(annotation, key),
            QUESTION_SCHEMA,
            self.answered(policy),
        )
        return self.annotation_stage(store, annotation, key, self.config.pool_of(asked))

    def factscore(self, policy: Policy) -> StreamStage:
        """The answers fact by fact; only where ``evaluation.factscore`` is given."""
        settings, built = self._factscore
        store = self.dir.store(
            f"factscore-{policy.name}", settings, FACT_SCHEMA, self.answered(policy)
        )
        build = partial(build_factscore, built, store.scratch)
        return StreamStage(store, build, self.config.resources.factscore)

    @cached_property
    def _factscore(self) -> tuple[dict[str, Any], FactScoreConfig]:
        """What verdicts on facts depend on, and the section with all that it names pinned."""
        section, key = self.config.evaluation.factscore, "evaluation.factscore"
        settings = section.decides() | {"abstention": RULES}
        knowledge = section.knowledge
        if self.world:
            knowledge = world_knowledge(self.world, build=not self._look)
            settings["knowledge"] = knowledge.rpartition("/")[2]  # named by its content
        else:
            settings["knowledge"] = knowledge_identity(local_file(knowledge))
        settings["templates"] = file_digest(wording_file(section.templates))
        found: dict[str, Any] = {"knowledge": knowledge}
        for name, of in section.models.items():
            settings[name] = of.decides() | chat_model_identity(of, f"{key}.{name}")
            found[name] = pinned(of, f"{key}.{name}")
        if section.embedding:
            identity = model_identity(
                section.embedding, section.embedding_revision, f"{key}.embedding"
            )
            settings["embedding"] = identity
            found["embedding_revision"] = commit_of(identity)
        return settings, section.model_copy(update=found)

    def judge_checks(self) -> tuple[StageStore, list[Check]]:
        """Answers with human labels, and every examiner's own verdicts on the same sentences.

        Examiners go by where their settings stand, each before its members. Those that stand twice
        are asked once; one that is made of others is not asked at all: they are.

        Raises:
            UserError: there is nothing to check.
        """
        config, first = self.config, self.config.first_examiner
        if config.data.weighted:
            raise UserError(
                "data.format=weighted_pairs brings no labels to check against: give labelled "
                "answers as data.train, with data.format=questions"
            )
        made = config.annotation and config.annotation.model_copy(update={"prune": False})
        examiners = {
            "annotation": (made, "annotator"),
            "evaluation.annotation": (first, "annotator"),
            **{
                f"evaluation.judges.{name}": (judge, config.pool_of(name))
                for name, judge in (config.evaluation.judges or {}).items()
            },
        }
        # Who knows the truth, or is told it, has no judgement.
        found = [
            (*examiner, pool)
            for key, (annotation, pool) in examiners.items()
            if annotation and not {"verdicts", "world"} & annotation.needs
            for examiner in annotation.with_members(key)
        ]
        if not found:
            raise UserError(
                "there is no judgement to check: set annotation, evaluation.annotation or one of "
                f"evaluation.judges to an annotator that judges ({', '.join(known())})"
            )
        labelled = self._import("train")
        servers: dict[str, list[Any]] = {}  # for each fingerprint: a name at two may be two models
        checks: list[Check] = []
        asked: dict[str, str] = {}
        for key, annotation, pool in found:
            settings = verdicts_depend_on(annotation, key)
            named = servers.setdefault(fingerprint(settings), [])
            if annotation.servers not in named:
                named.append(annotation.servers)
            if number := named.index(annotation.servers):
                settings |= {"server": number}
            store = self.dir.store("judge-check", settings, QUESTION_SCHEMA, labelled)
            stage = self.annotation_stage(store, annotation, key, pool, labelled=True)
            same = asked.setdefault(store.key, key)
            checks.append(Check(key, annotation, None if annotation.members else stage, same))
        return labelled, checks
