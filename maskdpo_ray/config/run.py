"""The whole tree, and what its sections demand of one another."""

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from maskdpo_ray.config.annotation import AnnotationConfig, AnyAnnotation
from maskdpo_ray.config.data import DataConfig
from maskdpo_ray.config.errors import explain
from maskdpo_ray.config.evaluated import names_a_stage
from maskdpo_ray.config.evaluation import EvaluationConfig
from maskdpo_ray.config.inputs import ModelConfig, WorldConfig
from maskdpo_ray.config.preference import PreferenceConfig
from maskdpo_ray.config.resources import ResourcesConfig
from maskdpo_ray.config.sampling import SamplingConfig
from maskdpo_ray.config.section import Keys, Section, Where, kinds_of
from maskdpo_ray.config.training import OF_ALL_SYSTEMS, TrackingConfig, TrainingConfig, preset_of
from maskdpo_ray.engine.arguments import parallel_size
from maskdpo_ray.errors import UserError


def known() -> list[str]:
    """Names of annotators, which have settings themselves: known once those exist."""
    from maskdpo_ray.annotation import registry

    return registry.known()


def with_need(need: str) -> list[str]:
    """Of those the ones that need something."""
    from maskdpo_ray.annotation import registry

    return registry.with_need(need)


POLICY = "policy"  # its name as a judge
Changes = Annotated[dict[str, Any], Keys(kinds_of(TrainingConfig))]


class Config(Section):
    """A whole run."""

    run_dir: Where[str] = Field(min_length=1)
    """Where everything is written: a local folder or a URL. `{seed}` stands for the seed."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    world: WorldConfig | None = None
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    sampling: SamplingConfig = SamplingConfig()
    annotation: AnyAnnotation | None = None
    """Who judges; nobody where nothing is: in `maskdpo sample`, and of pairs that bring their
    weights along."""
    preference: PreferenceConfig = PreferenceConfig()
    training: TrainingConfig = TrainingConfig()
    rounds: int = Field(default=1, ge=1)
    """On-policy rounds: each system's next round samples, and starts from, what it became."""
    rounds_reference: Literal["first", "previous"] = "previous"
    """The reference of a later round: the policy that this round starts from, or the first one of
    all, from which all rounds together then stay within reach."""
    systems: dict[str, Changes] = {"mask_dpo": {}}
    """Trained systems: for each name, what differs from the training section, and under
    `preference` what differs from the preference section."""
    evaluation: EvaluationConfig = EvaluationConfig()
    tracking: Where[TrackingConfig] = TrackingConfig()
    resources: Where[ResourcesConfig] = ResourcesConfig()

    @model_validator(mode="before")
    @classmethod
    def _seed_in_run_dir(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("run_dir"), str):
            run_dir = values["run_dir"].replace("{seed}", str(values.get("seed", 0)))
            return {**values, "run_dir": run_dir}
        return values

    @model_validator(mode="after")
    def _annotated_or_weighted(self) -> "Config":
        if not self.data.weighted:
            return self  # who annotates is asked for where annotation begins
        given = "data.format=weighted_pairs takes pairs as they are"
        if not self.data.train:
            raise ValueError(f"{given}, and there are none: give data.train")
        if sampling := self.sampling.changed(*_all_but(SamplingConfig, "engine")):
            raise ValueError(f"{given}, nothing is sampled: remove sampling.{sampling[0]}")
        read = ("eos", "max_length")
        if preference := self.preference.changed(*_all_but(PreferenceConfig, *read)):
            raise ValueError(f"{given}, nothing is selected: remove preference.{preference[0]}")
        if self.annotation and (self.evaluation.annotation or not self.evaluates):
            raise ValueError(f"{given}, nothing is annotated: remove annotation")
        if self.annotation and self.annotation.overrides:
            raise ValueError(f"{given}, no verdict is read: remove annotation.overrides")
        if self.evaluates and self.first_examiner is None:
            raise ValueError(
                f"{given}, and who examines the answers to the test questions is not said: set "
                "evaluation.annotation"
            )
        if self.rounds > 1:
            raise ValueError(f"{given}, and a round samples its own: set rounds=1")
        return self

    @model_validator(mode="after")
    def _policy_and_questions(self) -> "Config":
        if self.world is not None:
            # Answers that exist already may be about its people.
            brought = self.sampling.source == "input" or self.data.weighted
            train = () if brought else ("train",)
            if given := self.data.changed(*train, "test", "split", "columns"):
                keys = ", ".join(f"data.{key}" for key in given)
                raise ValueError(f"world provides the questions: remove {keys} or world")
            given = self.model.changed("revision", "trust_remote_code")
            if given and not self.model.path:
                raise ValueError(f"world provides the model: remove model.{given[0]}")
        elif not self.model.path and (self.systems or not self.evaluation.models):
            raise ValueError("model.path is missing: a local folder or a hub id")
        elif not self.data.train and (self.systems or not self.evaluates):
            only = "; to evaluate without training set systems={}" if self.evaluates else ""
            raise ValueError(f"data.train is missing: a file or data set of questions{only}")
        elif not self.model.path and (given := self.model.changed(*ModelConfig.model_fields)):
            raise ValueError(f"model.{given[0]} is of a policy, and there is none: give model.path")
        annotation = self.annotation
        labels = annotation is not None and "verdicts" in annotation.needs
        if self.data.format == "pairs" and annotation and not labels:
            raise ValueError(
                "data.format=pairs brings answers and verdicts along: set annotation.annotator="
                f"{' or '.join(with_need('verdicts'))} and sampling.source=input"
            )
        if labels and self.sampling.source != "input":
            raise ValueError(
                f"annotator {annotation.annotator!r} takes the verdicts of the input: set "
                "sampling.source=input"
            )
        if self.rounds > 1 and (self.sampling.source == "input" or self.sampling.endpoint):
            raise ValueError("rounds sample from the aligned policy: set sampling.source=vllm")
        if self.rounds == 1 and self.changed("rounds_reference"):
            raise ValueError("rounds_reference is of a round after the first: set rounds=2 or more")
        if self.sampling.source == "input" and self.world is not None and not self.data.train:
            raise ValueError(
                "the closed world brings no answers: give some about its people in data.train, or "
                "remove sampling.source"
            )
        if self.sampling.endpoint and self.world is not None:
            raise ValueError("no server has the world's policy: remove sampling.endpoint")
        engineless = self.sampling.endpoint or self.sampling.source == "input" or self.data.weighted
        if engineless and self.sampling.engine and not self.evaluates:
            raise ValueError(
                "sampling.engine would start only to answer data.test: remove it, or give that"
            )
        return self

    @property
    def evaluates(self) -> bool:
        """Whether there are test questions."""
        return self.world is not None or self.data.tested

    @property
    def has_policy(self) -> bool:
        """Whether there is a base; further models can be evaluated without one."""
        return self.world is not None or self.model.path is not None

    @model_validator(mode="after")
    def _second_judge(self) -> "Config":
        # Filled in while the tree is read: what is saved with a run names all of its judges.
        if self.evaluates and self.evaluation.judges is None and (policy := self._policy_as_judge):
            filled = self.evaluation.model_copy(update={"judges": {POLICY: policy}})
            object.__setattr__(self, "evaluation", filled)  # frozen from here on
        return self

    @property
    def _policy_as_judge(self) -> AnnotationConfig | None:
        """The judge beside a first examiner that is another model, or asks in another way."""
        first = self.first_examiner
        return first and first.second_opinion(self.model, self.sampling.engine)

    @property
    def lone_examiner(self) -> str | None:
        """The model that alone judges the answers though nobody asked for that; else None."""
        first = self.first_examiner
        if self.evaluates and self.evaluation.judges is None and first and first.asked:
            return f"{first.annotator} {first.asked}"
        return None

    @model_validator(mode="after")
    def _examiner(self) -> "Config":
        evaluates = self.evaluates
        for annotation, pool in self._annotations:
            if self.world is None and "world" in annotation.needs:
                raise ValueError(
                    f"annotator {annotation.annotator!r} knows only the closed world: set "
                    "world={}"
                )
            if "gpu" in annotation.needs and not getattr(self.resources, pool).gpus:
                raise ValueError(
                    f"annotator {annotation.annotator!r} needs a GPU: set resources.{pool}.gpus=1"
                )
        given = self.evaluation.changed(*EvaluationConfig.model_fields)
        if self.evaluation.judges == {}:  # nobody, as it would be anyway
            given.remove("judges")
        if not evaluates and given:
            raise ValueError(
                f"evaluation.{given[0]} is of answers to data.test: give that too, or remove it"
            )
        generated = [each for each in self.evaluation.models.values() if not each.responses]
        decoding = self.evaluation.changed("temperature", "top_k", "top_p", "max_tokens")
        if decoding and not generated and not self.has_policy:
            raise ValueError(
                f"evaluation.{decoding[0]}: all answers exist already: remove it, or give a model"
            )
        return self

    @model_validator(mode="after")
    def _knowledge(self) -> "Config":
        factscore = self.evaluation.factscore
        if factscore is None:
            return self
        if self.world is None and factscore.knowledge is None:
            raise ValueError(
                "evaluation.factscore.knowledge is missing: a database of pages, made with "
                "`maskdpo knowledge OUT.db PAGES.jsonl`"
            )
        if self.world is not None and factscore.knowledge:
            raise ValueError("world provides the pages: remove evaluation.factscore.knowledge")
        return self

    @model_validator(mode="after")
    def _references(self) -> "Config":
        if self.evaluation.short_form and self.world is not None:
            raise ValueError(
                "evaluation.short_form reads reference answers, and the world's questions have "
                "none: remove it"
            )
        return self

    @model_validator(mode="after")
    def _compared(self) -> "Config":
        if self.evaluation.win_rate is None:
            return self
        if not self.has_policy:
            raise ValueError(
                "evaluation.win_rate compares with the base, and there is none: give model.path, "
                "or remove it"
            )
        if not (self.systems or self.evaluation.models):
            raise ValueError(
                "evaluation.win_rate has nothing to hold against the base: give systems or "
                "evaluation.models, or remove it"
            )
        return self

    @model_validator(mode="after")
    def _systems(self) -> "Config":
        for name in self.systems:
            if name == "base" or not names_a_stage(name):
                raise ValueError(f"systems: {name[:80]!r} cannot name a trained system")
            if name in self.evaluation.models:
                raise ValueError(f"{name!r} stands in systems and in evaluation.models: rename one")
            for key in OF_ALL_SYSTEMS:
                if key in self.systems[name]:
                    raise ValueError(
                        f"systems.{name}.{key}: the reference is computed once for all systems, in "
                        f"training's arithmetic: set training.{key}"
                    )
            self._check_changes(name)
        trained = [self.training_of(name) for name in self.systems]
        for name, each in zip(self.systems, trained, strict=True):
            if each.compares and self.preference_of(name).pairs == "all_candidates":
                raise ValueError(
                    f"preference.pairs=all_candidates makes rows of any two answers, and systems."
                    f"{name} compares them: set training.loss=fkto, or remove preference.pairs"
                )
        answers = self.evaluates or self.rounds > 1
        if answers and any(each.lora and each.lora.export == "adapter" for each in trained):
            raise ValueError(
                "training.lora.export=adapter leaves no whole model to evaluate or to sample in a "
                "next round: set training.lora.export=merged, or leave data.test (and world) out"
            )
        if self.model.dtype != "bfloat16" and self.training.attention == "flash_attention_2":
            raise ValueError(
                "training.attention=flash_attention_2 computes in 16 bits only: set "
                "model.dtype=bfloat16, or training.attention=sdpa"
            )
        return self

    def _check_changes(self, system: str) -> None:
        """Raise where what a system changes is no valid section of its own."""
        changes = self.systems[system].get("preference", {})
        where = f"systems.{system}.preference"
        if not isinstance(changes, dict):
            raise ValueError(f"{where} must be a mapping, such as {{select: net}}")
        if "questions" in changes:
            raise ValueError(
                f"{where}.questions: systems learn from the same questions: set "
                "preference.questions, or make another run"
            )
        if changes and self.data.weighted:
            raise ValueError(
                "data.format=weighted_pairs takes pairs as they are, nothing is selected: remove "
                f"{where}"
            )
        for section, prefix, made in (
            (PreferenceConfig, f"{where}.", self.preference_of),
            (TrainingConfig, f"systems.{system}.", self.training_of),
        ):
            try:
                made(system)
            except ValidationError as error:
                problems = (explain(each, section, {}, prefix) for each in error.errors())
                raise ValueError("; ".join(problems)) from None

    @model_validator(mode="after")
    def _pairs_can_be_made(self) -> "Config":
        for where, preference in self._preferences.items():
            self._check_preference(where, preference)
        return self

    def _check_preference(self, where: str, preference: PreferenceConfig) -> None:
        """Raise where a preference section asks for what this run does not have."""
        annotation = self.annotation
        prunes = annotation is not None and annotation.prune
        if prunes and preference.length_window:
            raise ValueError(
                f"{where}.length_window may pair any two answers, and annotation.prune asks only "
                "about the best and the worst: set annotation.prune=false"
            )
        if prunes and preference.shared_openings == "mask":
            raise ValueError(
                f"{where}.shared_openings=mask reads the correct sentences of all candidates, "
                "and pruned ones are not judged: set annotation.prune=false, or remove it"
            )
        if prunes and preference.pairs == "all_candidates":
            raise ValueError(
                f"{where}.pairs=all_candidates learns from all candidates, and pruned ones are "
                "not judged: set annotation.prune=false, or remove it"
            )
        if prunes and preference.selection() != self.preference.selection():
            raise ValueError(
                f"{where} selects other pairs than preference, and annotation.prune asks only "
                "about those of preference: set annotation.prune=false"
            )
        read = ("no_fact", "unverifiable", "pairs_per_question", "weights")
        of_pairs = preference.changed(*read)
        if self.data.format == "pairs" and of_pairs:
            raise ValueError(
                "data.format=pairs brings two answers to a question, and of their sentences only "
                f"whether they are correct: remove {where}.{of_pairs[0]}"
            )
        if preference.weights == "confidence" and annotation and not annotation.confident:
            raise ValueError(
                f"{where}.weights=confidence needs verdicts that come with one: set "
                "annotation.confidence=true, or another annotator that tells it "
                "(docs/annotators.md), or remove it"
            )

    @model_validator(mode="after")
    def _one_arithmetic(self) -> "Config":
        reference, training = self.resources.reference.gpus, self.resources.training.gpus
        if self.systems and bool(reference) != bool(training):
            raise ValueError(
                f"resources.reference.gpus={reference:g} and resources.training.gpus={training:g}: "
                "the reference is in training's arithmetic: give GPUs to both or to neither"
            )
        return self

    @model_validator(mode="after")
    def _engines_fit_their_pools(self) -> "Config":
        for pool, engine in (
            ("sampler", self.sampling.engine),
            *(("sampler", other.engine or {}) for other in self.evaluation.models.values()),
            *((pool, engine) for each, pool in self._annotations for engine in each.engines),
            ("factscore", self.evaluation.factscore.engine if self.evaluation.factscore else {}),
            ("win_rate", self.evaluation.win_rate.engine if self.evaluation.win_rate else {}),
            *(("lm_eval", engine) for engine in self._engines_of_tasks),
            (
                "short_form",
                self.evaluation.short_form.judge.engine
                if self.evaluation.short_form and self.evaluation.short_form.judge
                else {},
            ),
        ):
            parallel, gpus = parallel_size(engine), getattr(self.resources, pool).gpus
            if parallel > 1 and gpus != parallel:
                raise ValueError(
                    f"an engine over {parallel} GPUs needs resources.{pool}.gpus={parallel}, "
                    f"not {gpus:g}"
                )
        return self

    @property
    def _engines_of_tasks(self) -> list[dict[str, Any]]:
        """Of the models that lm-evaluation-harness is run on."""
        section = self.evaluation.lm_eval
        if section is None:
            return []
        if section.engine is not None:
            return [section.engine]
        own = [other.engine for other in self.evaluation.models.values() if other.path]
        return [self.sampling.engine, *(engine for engine in own if engine is not None)]

    def training_of(self, system: str) -> TrainingConfig:
        """The training section of one trained system, its overrides applied."""
        overrides = {k: v for k, v in self.systems[system].items() if k != "preference"}
        given = _merged({**self.training.model_dump(), **preset_of(overrides)}, overrides)
        return TrainingConfig.model_validate(given)

    def preference_of(self, system: str | None) -> PreferenceConfig:
        """The preference section of one trained system, its overrides applied; of None, of those
        that override nothing."""
        changes = self.systems[system].get("preference", {}) if system else {}
        return PreferenceConfig.model_validate(_merged(self.preference.model_dump(), changes))

    @property
    def _preferences(self) -> dict[str, PreferenceConfig]:
        """All preference sections, by where they stand."""
        own = [name for name, changes in self.systems.items() if changes.get("preference")]
        return {"preference": self.preference} | {
            f"systems.{name}.preference": self.preference_of(name) for name in own
        }

    @property
    def annotator(self) -> AnnotationConfig:
        """The section of the annotator that makes the pairs.

        Raises:
            UserError: there is none.
        """
        if self.annotation is None:
            raise UserError(
                f"annotation is missing: set annotation.annotator, to one of {', '.join(known())} "
                "or to your own (docs/your_annotator.md)"
            )
        return self.annotation

    @property
    def first_examiner(self) -> AnnotationConfig | None:
        """Who judges every sentence of the answers to the test questions, if anybody can."""
        if self.evaluation.annotation or self.annotation is None:
            return self.evaluation.annotation
        if "verdicts" in self.annotation.needs:  # there are none on new answers
            return None
        return self.annotation.model_copy(update={"prune": False, "overrides": None})

    @property
    def evaluation_annotation(self) -> AnnotationConfig:
        """The same.

        Raises:
            UserError: nobody can.
        """
        if self.first_examiner is None:
            who = self.annotation and f"annotator {self.annotation.annotator!r} cannot"
            raise UserError(
                f"{who or 'nobody is there to'} judge new answers: set evaluation.annotation, or "
                "leave data.test out"
            )
        return self.first_examiner

    @property
    def examiners(self) -> dict[str | None, AnnotationConfig]:
        """All who judge the answers to the test questions: the first as None, judges by name."""
        first = {None: self.first_examiner} if self.first_examiner else {}
        return {**first, **(self.evaluation.judges or {})}

    @property
    def _annotations(self) -> list[tuple[AnnotationConfig, str]]:
        """All who judge anything, each with the pool where that is done."""
        made = [(self.annotation, "annotator")] if self.annotation else []
        examiners = self.examiners.items() if self.evaluates else ()
        return [*made, *((examiner, self.pool_of(name)) for name, examiner in examiners)]

    def pool_of(self, examiner: str | None) -> Literal["sampler", "annotator"]:
        """Where an examiner works: the policy as judge where it answers, with whichever engine."""
        given, policy = self.examiners[examiner], self._policy_as_judge
        here = policy and policy == given.model_copy(update={"engine": policy.engine})
        return "sampler" if here else "annotator"


def _all_but(section: type[Section], *keys: str) -> list[str]:
    return [key for key in section.model_fields if key not in keys]


def _merged(tree: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """``tree`` with the values of ``over``, mapping by mapping."""
    both = {
        key: _merged(tree[key], value)
        for key, value in over.items()
        if isinstance(value, dict) and isinstance(tree.get(key), dict)
    }
    return {**tree, **over, **both}
