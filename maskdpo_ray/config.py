"""The settings of a run: one strict tree, read from YAML and ``section.key=value`` overrides.

Every default stands here and nowhere else. An unknown key is an error that names the nearest
valid one, and a combination that the system would ignore is refused while the file is read,
before anything heavy is imported.
"""

import difflib
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from maskdpo_ray.errors import UserError

PRESETS: dict[str, dict[str, Any]] = {
    # Mask-DPO, section 3.1 and appendix: what the paper says it trained with.
    "paper": {"learning_rate": 5e-6, "epochs": 3, "batch_size": 64},
    # The configuration file released with the paper.
    "released": {"learning_rate": 5e-7, "epochs": 3, "batch_size": 64},
}


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ModelConfig(Section):
    """The policy that is sampled, aligned and evaluated."""

    path: str | None = None
    """Local folder or hub id of a causal language model."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Arithmetic of sampling, reference and training. The reference must use training's."""
    chat_template: str | None = None
    """File with a Jinja chat template that replaces the tokenizer's own."""
    system_prompt: str | None = None
    trust_remote_code: bool = False


class WorldConfig(Section):
    """The embedded closed world: its builder provides the model, the questions and the truth."""

    seed: int | None = None
    """Seed of the facts and of pre-training; the run's seed if left out."""
    small: bool = False
    """A miniature for tests: few people, seconds of pre-training."""


class DataConfig(Section):
    """The questions. One JSON object a line: docs/data.md."""

    train: str | None = None
    """Questions to sample preference pairs from."""
    test: str | None = None
    """Held-out questions to evaluate on. No topic and no question may stand in both files."""
    format: Literal["questions", "pairs"] = "questions"
    """Of `train`: questions (docs/data.md), or preference pairs in the public Mask-DPO format."""
    limit: int | None = Field(default=None, ge=1)
    """Use only the first questions of each file."""


class SamplingConfig(Section):
    """K candidates per question (paper, section 2.2)."""

    source: Literal["vllm", "input"] = "vllm"
    """`vllm` samples from the policy; `input` takes the candidates that the question file has."""
    candidates: int = 32
    """K, the number of candidates per question."""
    temperature: float = Field(default=0.8, ge=0)
    top_k: int = Field(default=40, ge=0)
    """Sample among this many most likely tokens; 0 among all."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int = Field(default=1024, ge=1)
    """Longest response, in tokens."""
    engine: dict[str, Any] = {}
    """Any argument of vLLM's engine, e.g. `max_model_len`, `tensor_parallel_size`."""

    @field_validator("candidates")
    @classmethod
    def _at_least_two(cls, value: int) -> int:
        if value < 2:
            raise ValueError("a preference pair needs a best and a worst answer: set 2 or more")
        return value


AnnotatorName = Literal["anah", "judge", "closed_world", "labels"]


class AnnotationConfig(Section):
    """A verdict for every sentence of every candidate."""

    annotator: AnnotatorName = "anah"
    """`anah`: three turns; `judge`: any chat model; `closed_world`; `labels`: in the input."""
    model: str | None = None
    """Local folder or hub id of the annotating model (`anah`, `judge`)."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    templates: str | None = None
    """YAML file that replaces the prompt wording."""
    max_tokens: int = Field(default=512, ge=1)
    """Longest reply of one annotator turn, in tokens."""
    trust_remote_code: bool = False
    engine: dict[str, Any] = {}
    """Any argument of vLLM's engine."""

    @model_validator(mode="after")
    def _model_where_needed(self) -> "AnnotationConfig":
        needs_model = self.annotator in ("anah", "judge")
        if needs_model and not self.model:
            raise ValueError(f"annotator {self.annotator!r} needs annotation.model")
        given = [k for k in ("model", "templates", "engine") if getattr(self, k)]
        if not needs_model and given:
            raise ValueError(f"annotator {self.annotator!r} uses no {', '.join(given)}: remove it")
        return self


class PreferenceConfig(Section):
    """From verdicts to a preference pair with token weights."""

    no_fact: Literal["correct", "mask"] = "correct"
    """Sentences without facts: counted as correct (the paper), or given no weight on both sides."""
    eos: Literal["keep", "mask"] = "keep"
    """The end-of-turn token stands in no sentence: learnt on both sides (as released), or not."""
    max_length: int = Field(default=1024, ge=8)
    """Prompt and response together, in tokens; the response's tail is cut."""


class TrainingConfig(Section):
    """Masked DPO (paper, equations 5 and 6)."""

    preset: Literal["paper", "released"] | None = None
    """Take the learning rate, epochs and batch of the paper or of its released configuration."""
    mask: Literal["sentence", "none"] = "sentence"
    """`sentence` is Mask-DPO; `none` gives every token weight one: vanilla DPO."""
    beta: float = Field(default=0.1, gt=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    learning_rate: float = Field(default=5e-6, gt=0)
    epochs: int = Field(default=3, ge=1)
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after this many optimizer steps; the schedule then spans these steps."""
    batch_size: int = Field(default=64, ge=1)
    """Global batch, in pairs, whatever the number of workers."""
    micro_batch_tokens: int = Field(default=16384, ge=1)
    """Padded tokens of one forward pass on one worker, both responses of its pairs together."""
    betas: tuple[float, float] = (0.9, 0.999)
    adam_eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    """Share of the steps in which the learning rate rises linearly; then a cosine to zero."""
    min_lr_ratio: float = Field(default=0.0, ge=0, le=1)
    """The learning rate at the last step, as a share of the highest."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """What DeepSpeed shards: 0 nothing, 1 optimizer, 2 + gradients, 3 + parameters."""
    deepspeed: dict[str, Any] = {}
    """Further DeepSpeed settings (e.g. offload); keys that this tree sets are refused."""
    gradient_checkpointing: bool = False
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    logprob_chunk: int = Field(default=1024, ge=1)
    """Positions projected onto the vocabulary at a time."""
    checkpoint_every: int = Field(default=50, ge=1)
    """Optimizer steps between checkpoints."""
    keep_checkpoints: int = Field(default=2, ge=1)

    HOW: ClassVar[tuple[str, ...]] = (
        "micro_batch_tokens",
        "logprob_chunk",
        "gradient_checkpointing",
        "checkpoint_every",
        "keep_checkpoints",
    )
    """Keys that change how the work is done, not what is learnt: a run may go on with others."""

    @model_validator(mode="before")
    @classmethod
    def _preset_below_given(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("preset") in PRESETS:
            return {**PRESETS[values["preset"]], **values}
        return values

    @field_validator("deepspeed")
    @classmethod
    def _not_ours(cls, value: dict[str, Any]) -> dict[str, Any]:
        ours = {
            "train_batch_size": "training.batch_size",
            "train_micro_batch_size_per_gpu": "training.micro_batch_tokens",
            "gradient_accumulation_steps": "training.batch_size",
            "gradient_clipping": "training.max_grad_norm",
            "optimizer": "training.learning_rate, betas, weight_decay",
            "scheduler": "training.warmup_ratio, min_lr_ratio",
            "bf16": "model.dtype",
            "fp16": "model.dtype",
        }
        for key in value:
            if key in ours:
                raise ValueError(f"{key!r} is set through {ours[key]}: remove it here")
        if "stage" in (value.get("zero_optimization") or {}):
            raise ValueError("the stage is set through training.zero_stage: remove it here")
        return value


class EvaluationConfig(Section):
    """Sentence score on held-out topics, greedy and sampled, and best-of-N."""

    samples: int = Field(default=16, ge=1)
    """Sampled answers per question: for the sampled score and for every N of best-of-N."""
    best_of_n: list[int] = [1, 2, 4, 8, 16]
    temperature: float = Field(default=0.8, gt=0)
    top_k: int = Field(default=40, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int = Field(default=1024, ge=1)
    bootstrap: int = Field(default=2000, ge=100)
    """Resamples of the topics for the 95 % interval."""
    annotation: AnnotationConfig | None = None
    """The examiner; the annotator that made the pairs if left out."""

    @model_validator(mode="after")
    def _enough_samples(self) -> "EvaluationConfig":
        if not self.best_of_n or min(self.best_of_n) < 1:
            raise ValueError("best_of_n must list whole numbers of at least 1")
        if max(self.best_of_n) > self.samples:
            raise ValueError(
                f"best_of_n asks for {max(self.best_of_n)} of {self.samples} samples: "
                f"set evaluation.samples={max(self.best_of_n)}"
            )
        return self


class PoolConfig(Section):
    """A pool of actors of one stage."""

    actors: Annotated[int, Field(ge=1)] | tuple[int, int] = 1
    """How many, or [least, most] to let the pool grow and shrink."""
    cpus: float = Field(default=1, ge=0)
    """Logical CPUs of one actor; also its OpenMP threads."""
    gpus: float = Field(default=0, ge=0)
    """GPUs of one actor; a fraction shares one (then lower `engine.gpu_memory_utilization`)."""
    resources: dict[str, float] = {}
    """Custom Ray resources of one actor, to place it on a group of nodes."""
    blocks_in_flight: int = Field(default=4, ge=1)
    """Blocks of questions that one actor works on at once: enough to keep its engine full."""
    max_restarts: int = Field(default=3, ge=0)

    @field_validator("actors")
    @classmethod
    def _ordered(cls, value: int | tuple[int, int]) -> int | tuple[int, int]:
        if isinstance(value, tuple) and not 1 <= value[0] <= value[1]:
            raise ValueError(f"[least, most] must be 1 <= least <= most, not {list(value)}")
        return value

    @property
    def size(self) -> tuple[int, int]:
        """(least, most) actors."""
        return self.actors if isinstance(self.actors, tuple) else (self.actors, self.actors)


class WorkersConfig(Section):
    """The training workers."""

    workers: int = Field(default=1, ge=1)
    cpus: float = Field(default=1, ge=0)
    gpus: float = Field(default=0, ge=0)
    resources: dict[str, float] = {}
    max_failures: int = Field(default=3, ge=0)
    """Worker group failures that training recovers from."""


class ResourcesConfig(Section):
    """Where the work runs. Nothing here changes a result, so none of it is fingerprinted."""

    sampler: PoolConfig = PoolConfig()
    annotator: PoolConfig = PoolConfig()
    pair: PoolConfig = PoolConfig(cpus=0.5)
    reference: PoolConfig = PoolConfig()
    training: WorkersConfig = WorkersConfig()
    questions_per_block: int = Field(default=8, ge=1)
    """Questions that travel together and become durable together."""
    autoscale: bool = False
    """Nodes join on demand: do not insist that the smallest pools fit at the start."""
    local_cpus: int = Field(default=16, ge=4)
    """Logical CPUs of the Ray that is started where none is running."""
    object_store_mib: int = Field(default=512, ge=80)
    """Object store of the Ray that is started where none is running."""


class Config(Section):
    """A whole run."""

    run_dir: str
    """Where everything is written: a local folder or a URL. `{seed}` stands for the seed."""
    seed: int = Field(default=0, ge=0)
    world: WorldConfig | None = None
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    sampling: SamplingConfig = SamplingConfig()
    annotation: AnnotationConfig
    preference: PreferenceConfig = PreferenceConfig()
    training: TrainingConfig = TrainingConfig()
    systems: dict[str, dict[str, Any]] = {"mask_dpo": {}}
    """Trained systems: for each name, what differs from the training section."""
    evaluation: EvaluationConfig = EvaluationConfig()
    resources: ResourcesConfig = ResourcesConfig()

    @model_validator(mode="before")
    @classmethod
    def _seed_in_run_dir(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("run_dir"), str):
            run_dir = values["run_dir"].replace("{seed}", str(values.get("seed", 0)))
            return {**values, "run_dir": run_dir}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        if self.world is not None:
            given = [k for k in ("train", "test") if getattr(self.data, k)]
            if self.model.path or given:
                raise ValueError(
                    "world provides the model and the questions: remove model.path, "
                    "data.train and data.test, or world"
                )
        else:
            if not self.model.path:
                raise ValueError("model.path is missing: a local folder or a hub id")
            if not self.data.train:
                raise ValueError("data.train is missing: a JSONL file of questions")
            if self.annotation.annotator == "closed_world":
                raise ValueError(
                    "annotator 'closed_world' knows only the closed world: set world={}"
                )
        if self.data.format == "pairs" and self.annotation.annotator != "labels":
            raise ValueError(
                "data.format=pairs brings answers and verdicts along: set annotation.annotator="
                "labels and sampling.source=input"
            )
        if self.annotation.annotator == "labels" and self.sampling.source != "input":
            raise ValueError(
                "annotator 'labels' takes the verdicts of the input: set sampling.source=input"
            )
        if (
            self.data.test
            and self.annotation.annotator == "labels"
            and not self.evaluation.annotation
        ):
            raise ValueError(
                "annotator 'labels' cannot judge new answers: set evaluation.annotation, "
                "or leave data.test out"
            )
        for name in self.systems:
            if name == "base" or not name.isidentifier():
                raise ValueError(f"systems: {name!r} cannot name a trained system")
            try:
                self.training_of(name)
            except ValidationError as error:
                problems = (
                    _explain(problem, TrainingConfig, f"systems.{name}.")
                    for problem in error.errors()
                )
                raise ValueError("; ".join(problems)) from None
        if self.model.dtype == "bfloat16":
            trained = [self.training_of(name) for name in self.systems]
            if any(settings.zero_stage == 0 for settings in trained):
                raise ValueError(
                    "training.zero_stage=0 keeps no fp32 weights beside bfloat16 ones and loses "
                    "small updates: set training.zero_stage=1, which costs the same on one worker"
                )
        for pool, engine in (
            (self.resources.sampler, self.sampling.engine),
            (self.resources.annotator, self.annotation.engine),
        ):
            parallel = engine.get("tensor_parallel_size", 1) * engine.get(
                "pipeline_parallel_size", 1
            )
            if parallel > 1 and pool.gpus != parallel:
                raise ValueError(
                    f"an engine over {parallel} GPUs needs resources.*.gpus={parallel}, "
                    f"not {pool.gpus:g}"
                )
        return self

    def training_of(self, system: str) -> TrainingConfig:
        """The training section of one trained system, its overrides applied."""
        overrides = self.systems[system]
        preset = PRESETS.get(overrides.get("preset"), {})
        return TrainingConfig.model_validate({**self.training.model_dump(), **preset, **overrides})

    @property
    def evaluation_annotation(self) -> AnnotationConfig:
        return self.evaluation.annotation or self.annotation


def read_config(path: str | Path, overrides: list[str] | None = None) -> Config:
    """Read a YAML file, apply ``section.key=value`` overrides, check everything.

    Raises:
        UserError: one line per problem, each with the key, the reason and the remedy.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no configuration file at {path}")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path} must hold `key: value` sections, not {type(tree).__name__}")
    for override in overrides or []:
        _apply_override(tree, override)
    return build_config(tree, str(path))


def build_config(tree: dict[str, Any], source: str = "configuration") -> Config:
    """Validate a tree of settings; ``source`` names it in errors."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        lines = [_explain(problem) for problem in error.errors()]
        raise UserError(f"{source}: " + "; ".join(lines)) from None


def differing_keys(ours: dict[str, Any], theirs: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys whose values differ between two dumped configurations."""
    keys = []
    for key in sorted(ours.keys() | theirs.keys()):
        a, b = ours.get(key), theirs.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            keys += differing_keys(a, b, f"{prefix}{key}.")
        elif a != b:
            keys.append(f"{prefix}{key}")
    return keys


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise UserError(f"override {override!r} must read section.key=value")
    *parents, leaf = key.strip().split(".")
    node = tree
    for parent in parents:
        child = node.get(parent)
        node[parent] = node = child if isinstance(child, dict) else {}
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"override {override!r}: {text!r} is not a YAML value") from None
    node[leaf] = value


def _explain(problem: Any, section: type[BaseModel] = Config, prefix: str = "") -> str:
    location = [str(part) for part in problem["loc"]]
    key = prefix + ".".join(location) or "configuration"
    if problem["type"] == "extra_forbidden":
        valid = _fields_at(section, location[:-1])
        near = difflib.get_close_matches(location[-1], valid, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"valid keys: {', '.join(sorted(valid))}"
        return f"unknown key {key!r}: {hint}"
    if problem["type"] == "missing":
        return f"{key} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    given = f" (got {problem['input']!r})" if not isinstance(problem["input"], dict) else ""
    return f"{key}: {message}{given}"


def _fields_at(section: Any, location: list[str]) -> list[str]:
    for part in location:
        annotation = section.model_fields[part].annotation
        options = [annotation, *get_args(annotation)]
        section = next(o for o in options if isinstance(o, type) and issubclass(o, BaseModel))
    return list(section.model_fields)
