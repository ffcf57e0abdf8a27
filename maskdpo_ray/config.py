"""The settings of a run: one strict tree (``config_file.py`` reads it).

Every default stands here and nowhere else. An unknown key is an error that names the nearest
valid one, and a combination that the system would ignore is refused while the file is read,
before anything heavy is imported.
"""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from maskdpo_ray.config_errors import explain
from maskdpo_ray.engine.arguments import parallel_size, refuse_decided_elsewhere
from maskdpo_ray.sampling.seeds import MAX_CANDIDATES

PRESETS: dict[str, dict[str, Any]] = {
    # Mask-DPO, section 3.1 and appendix: what the paper says it trained with.
    "paper": {"learning_rate": 5e-6, "epochs": 3, "batch_size": 64},
    # The configuration file released with the paper.
    "released": {"learning_rate": 5e-7, "epochs": 3, "batch_size": 64},
}


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    def changed(self, *keys: str) -> list[str]:
        """Those of ``keys`` that differ from their defaults; a saved file holds every key."""
        return [key for key in keys if getattr(self, key) != type(self).model_fields[key].default]


class ModelConfig(Section):
    """The policy that is sampled, aligned and evaluated."""

    path: str | None = None
    """Local folder or hub id of a causal language model."""

    @field_validator("path")
    @classmethod
    def _home(cls, value: str | None) -> str | None:
        return str(Path(value).expanduser()) if value and value.startswith("~") else value

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
    evaluate_on: Literal["test", "validation"] = "test"
    """The people whose answers are scored; settings are chosen on `validation`."""


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


class EndpointConfig(Section):
    """A model behind an OpenAI-compatible server, in place of an engine in the actor."""

    base_url: str
    """Address of the API, e.g. `http://host:8000/v1`."""
    model: str
    """Name by which the server knows the model; it stands for the weights in fingerprints."""
    api_key_env: str = "OPENAI_API_KEY"
    """Variable that holds the key in the environment of the nodes; a server may need none."""
    api_key_file: str | None = None
    """File on the nodes that holds the key, instead of the variable."""
    concurrency: int = Field(default=64, ge=1, le=1000)
    """Requests that one actor has under way."""
    timeout: float = Field(default=600, gt=0)
    """Seconds until a request is given up and tried again."""
    max_retries: int = Field(default=30, ge=0)
    """Tries after the first; 30 last for about three minutes of a server that is away."""

    HOW: ClassVar[tuple[str, ...]] = (
        "base_url",
        "api_key_env",
        "api_key_file",
        "concurrency",
        "timeout",
        "max_retries",
    )
    """Keys that say where and how the model is asked, not what answers."""

    # One validator of the whole section: the error of a single field would show its value, and a
    # wrong one may be the key itself.
    @model_validator(mode="after")
    def _no_secret(self) -> "EndpointConfig":
        try:
            url = urlsplit(self.base_url)
        except ValueError:
            raise ValueError("base_url is no URL: http://host:8000/v1") from None
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError("base_url must begin with http:// or https:// and name a host")
        if url.username or url.password or url.query or url.fragment:
            raise ValueError(
                "base_url is saved with the run: remove user, password and what follows ? or #; "
                "a key is read from api_key_env or api_key_file"
            )
        if not self.api_key_env.isidentifier():
            raise ValueError("api_key_env names an environment variable; it does not hold the key")
        if self.api_key_file and self.changed("api_key_env"):
            raise ValueError("api_key_file is read instead of api_key_env: remove one of them")
        return self


Constrain = Literal["vllm", "json_schema", "none"]


class AnnotatorEndpointConfig(EndpointConfig):
    """An annotating model behind an OpenAI-compatible server."""

    constrain: Constrain | None = None
    """What keeps replies to the verdicts (`judge`): vLLM's `structured_outputs`, OpenAI's
    `response_format`, or nothing."""


class SamplingConfig(Section):
    """K candidates per question (paper, section 2.2)."""

    source: Literal["vllm", "input"] = "vllm"
    """`vllm` samples from the policy; `input` takes the candidates that the question file has."""
    candidates: int = 32
    """K, the number of candidates per question."""
    temperature: float = Field(default=0.8, gt=0)
    """Above zero: K greedy answers would be one."""
    top_k: int = Field(default=40, ge=0)
    """Sample among this many most likely tokens; 0 among all."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int = Field(default=1024, ge=1)
    """Longest response, in tokens."""
    engine: dict[str, Any] = {}
    """Any argument of vLLM's engine, e.g. `max_model_len`, `tensor_parallel_size`."""
    endpoint: EndpointConfig | None = None
    """vLLM's server of the policy; the candidates are then sampled there, not in the actors."""

    @field_validator("candidates")
    @classmethod
    def _at_least_two(cls, value: int) -> int:
        if value < 2:
            raise ValueError("a preference pair needs a best and a worst answer: set 2 or more")
        if value > MAX_CANDIDATES:
            raise ValueError(f"seeds of candidates stand {MAX_CANDIDATES} apart: set at most that")
        return value

    @model_validator(mode="after")
    def _nothing_ignored(self) -> "SamplingConfig":
        decoding = ("candidates", "temperature", "top_k", "top_p", "max_tokens", "engine")
        decoding += ("endpoint",)
        if self.source == "input" and (given := self.changed(*decoding)):
            raise ValueError(f"source 'input' samples nothing: remove {', '.join(given)}")
        refuse_decided_elsewhere(self.engine)
        return self


AnnotatorName = Literal["anah", "judge", "closed_world", "labels"]


class AnnotationConfig(Section):
    """A verdict for every sentence of every candidate."""

    annotator: AnnotatorName = "anah"
    """`anah`: three turns; `judge`: any chat model; `closed_world`; `labels`: in the input."""
    model: str | None = None
    """Local folder or hub id of the annotating model (`anah`, `judge`)."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    chat_template: str | None = None
    """File with a Jinja chat template that replaces the tokenizer's own."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    templates: str | None = None
    """YAML file that replaces the prompt wording."""
    max_tokens: int = Field(default=512, ge=1)
    """Longest reply of one annotator turn, in tokens."""
    trust_remote_code: bool = False
    prune: bool = False
    """Leave candidates that can no longer become best or worst: fewer calls, the same pairs."""
    engine: dict[str, Any] = {}
    """Any argument of vLLM's engine."""
    endpoint: AnnotatorEndpointConfig | None = None
    """A server of the annotating model, in place of `model` in the actors."""

    @model_validator(mode="after")
    def _model_where_needed(self) -> "AnnotationConfig":
        needs_model = self.annotator in ("anah", "judge")
        if needs_model and not (self.model or self.endpoint):
            raise ValueError(f"annotator {self.annotator!r} needs annotation.model or endpoint")
        of_model = ("model", "revision", "chat_template", "dtype", "templates", "max_tokens")
        of_model += ("trust_remote_code", "engine", "endpoint")
        if not needs_model and (given := self.changed(*of_model)):
            raise ValueError(f"annotator {self.annotator!r} uses no {', '.join(given)}: remove it")
        refuse_decided_elsewhere(self.engine)
        if self.annotator == "labels" and self.prune:
            raise ValueError("annotator 'labels' asks nothing: remove prune")
        return self

    @model_validator(mode="after")
    def _model_or_endpoint(self) -> "AnnotationConfig":
        if self.endpoint is None:
            return self
        of_engine = ("model", "revision", "chat_template", "dtype", "trust_remote_code", "engine")
        if given := self.changed(*of_engine):
            raise ValueError(f"the server of endpoint decides {', '.join(given)}: remove it here")
        constrain = self.endpoint.constrain
        if self.annotator == "judge" and constrain is None:
            raise ValueError(
                "endpoint.constrain is missing: vllm for vLLM's server, json_schema for others "
                "that know response_format, none for the rest"
            )
        if self.annotator == "anah" and constrain is not None:
            raise ValueError("annotator 'anah' replies freely: remove endpoint.constrain")
        return self


class PreferenceConfig(Section):
    """From verdicts to a preference pair with token weights."""

    no_fact: Literal["correct", "mask"] = "correct"
    """Sentences without facts: counted as correct (the paper), or given no weight on both sides."""
    eos: Literal["keep", "mask"] = "keep"
    """The end-of-turn token stands in no sentence: learnt on both sides (as released), or not."""
    max_length: int = Field(default=1024, ge=8)
    """Prompt and response together, in tokens; the response's tail is cut."""


LossName = Literal["sigmoid", "robust", "hinge", "ipo", "kto_pair", "sppo_hard", "nca_pair"]


class LoraConfig(Section):
    """Low-rank adapters beside frozen weights, through peft (extra `lora`)."""

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0)
    """Adapters count alpha / rank times."""
    dropout: float = 0.0
    """Zero: with dropout the policy would differ from its own reference."""
    target_modules: list[str] | Literal["all-linear"] = "all-linear"
    """Names of linear layers (e.g. `q_proj`); by default all but the LM head."""
    export: Literal["merged", "adapter"] = "merged"
    """`model/` is a whole model with the adapters added in, or the adapters alone."""

    @field_validator("dropout")
    @classmethod
    def _no_dropout(cls, value: float) -> float:
        if value != 0.0:
            raise ValueError(
                "with dropout the policy would differ from its reference before the first step: "
                "set it to 0 or remove it"
            )
        return value

    @field_validator("target_modules")
    @classmethod
    def _some_modules(cls, value: list[str] | str) -> list[str] | str:
        if not value:
            raise ValueError("without a module nothing would be trained: name one, or all-linear")
        return value


class TrainingConfig(Section):
    """Masked DPO (paper, equations 5 and 6)."""

    preset: Literal["paper", "released"] | None = None
    """Take the learning rate, epochs and batch of the paper or of its released configuration."""
    mask: Literal["sentence", "none"] = "sentence"
    """`sentence` is Mask-DPO; `none` gives every token weight one: vanilla DPO."""
    loss: LossName = "sigmoid"
    """Of the masked log-ratios; `sigmoid` is DPO. docs/training.md has the formulas."""
    beta: float = Field(default=0.1, gt=0)
    """Scale of the log-ratios; `ipo`, `sppo_hard`: the ratios' targets are multiples of 1/beta."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Probability that a preference is flipped (`sigmoid`, `robust`)."""
    nll_weight: float = Field(default=0.0, ge=0)
    """Weight of the mean negative log-likelihood per kept chosen token (RPO's alpha)."""
    lora: LoraConfig | None = None
    """Train low-rank adapters instead of all weights."""
    learning_rate: float = Field(default=5e-6, gt=0)
    epochs: int = Field(default=3, ge=1)
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after this many optimizer steps; the schedule then spans these steps."""
    batch_size: int = Field(default=64, ge=1)
    """Global batch, in pairs, whatever the number of workers."""
    micro_batch_tokens: int = Field(default=16384, ge=1)
    """Tokens of one forward pass on one worker, padding included, both responses of its pairs."""
    packing: Literal["auto"] | bool = "auto"
    """Sequences of a pass behind one another, without padding; `auto` packs wherever the model and
    the attention kernel can do it."""
    betas: tuple[float, float] = (0.9, 0.999)
    adam_eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    """Share of the steps in which the learning rate rises linearly; then a cosine to zero."""
    min_lr_ratio: float = Field(default=0.0, ge=0, le=1)
    """What the cosine approaches after the last step, as a share of the highest rate."""
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
    holdout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the topics whose pairs are not learnt from but examined (`eval/` metrics)."""
    eval_every: int = Field(default=50, ge=1)
    """Optimizer steps between examinations of the pairs held out; the last step has one too."""

    HOW: ClassVar[tuple[str, ...]] = (
        "micro_batch_tokens",
        "packing",
        "logprob_chunk",
        "gradient_checkpointing",
        "checkpoint_every",
        "keep_checkpoints",
        "eval_every",
        "zero_stage",  # checkpoints do not know it; docs/training.md has the curves side by side
    )
    """Keys that change how the work is done, not what is learnt: a run may go on with others."""

    @model_validator(mode="before")
    @classmethod
    def _preset_below_given(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("preset") in PRESETS:
            return {**PRESETS[values["preset"]], **values}
        return values

    @field_validator("label_smoothing")
    @classmethod
    def _smoothing_where_read(cls, value: float, info: ValidationInfo) -> float:
        loss = info.data.get("loss", "sigmoid")
        if value and loss not in ("sigmoid", "robust"):
            raise ValueError(f"loss {loss!r} has no label smoothing: set it to 0 or remove it")
        return value

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


class TrackingConfig(Section):
    """Where training is watched. Nothing here changes a result."""

    report_to: list[Literal["tensorboard", "wandb", "mlflow"]] = ["tensorboard"]
    """`metrics.jsonl` is always written; `wandb` and `mlflow` are extras of the same names."""
    project: str = "maskdpo-ray"
    """W&B project or MLflow experiment."""


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
        if self.annotation and self.annotation.prune:
            raise ValueError(
                "a score needs a verdict on every sentence: remove evaluation.annotation.prune"
            )
        return self


def _bounds(value: Any) -> Any:
    """A number, or [least, most]."""
    ends = [value, value] if isinstance(value, int) else value
    numbers = isinstance(ends, (list, tuple)) and len(ends) == 2
    if not (numbers and all(type(end) is int for end in ends) and 1 <= ends[0] <= ends[1]):
        raise ValueError("a number of at least 1 or [least, most] with 1 <= least <= most")
    return value if isinstance(value, int) else tuple(value)


Bounds = Annotated[int | tuple[int, int], BeforeValidator(_bounds)]


class PoolConfig(Section):
    """A pool of actors of one stage."""

    actors: Bounds = 1
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

    @property
    def size(self) -> tuple[int, int]:
        """(least, most) actors."""
        return self.actors if isinstance(self.actors, tuple) else (self.actors, self.actors)


class WorkersConfig(Section):
    """The training workers."""

    workers: Bounds = 1
    """How many, or [least, most] to go on with as many as there are nodes for."""
    cpus: float = Field(default=1, ge=0)
    gpus: float = Field(default=0, ge=0)
    resources: dict[str, float] = {}
    """Custom Ray resources of one worker, to place it on a group of nodes."""
    max_failures: int = Field(default=3, ge=0)
    """Worker group failures that training recovers from; nodes taken away with notice are none."""
    resize_seconds: float = Field(default=60, gt=0)
    """How often [least, most] workers look for nodes that joined; to grow, training goes back to
    its last checkpoint."""

    @property
    def size(self) -> tuple[int, int]:
        """(least, most) workers."""
        return self.workers if isinstance(self.workers, tuple) else (self.workers, self.workers)

    @model_validator(mode="after")
    def _nothing_ignored(self) -> "WorkersConfig":
        if isinstance(self.workers, int) and self.changed("resize_seconds"):
            raise ValueError("resize_seconds is of workers: [least, most]; remove it")
        return self


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
    rounds: int = Field(default=1, ge=1)
    """On-policy rounds: each system's next round samples, and starts from, what it became."""
    systems: dict[str, dict[str, Any]] = {"mask_dpo": {}}
    """Trained systems: for each name, what differs from the training section."""
    evaluation: EvaluationConfig = EvaluationConfig()
    tracking: TrackingConfig = TrackingConfig()
    resources: ResourcesConfig = ResourcesConfig()

    @model_validator(mode="before")
    @classmethod
    def _seed_in_run_dir(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("run_dir"), str):
            run_dir = values["run_dir"].replace("{seed}", str(values.get("seed", 0)))
            return {**values, "run_dir": run_dir}
        return values

    @model_validator(mode="after")
    def _policy_and_questions(self) -> "Config":
        if self.world is not None:
            given = [k for k in ("train", "test") if getattr(self.data, k)]
            if self.model.path or given:
                raise ValueError(
                    "world provides the model and the questions: remove model.path, "
                    "data.train and data.test, or world"
                )
        elif not self.model.path:
            raise ValueError("model.path is missing: a local folder or a hub id")
        elif not self.data.train:
            raise ValueError("data.train is missing: a JSONL file of questions")
        if self.data.format == "pairs" and self.annotation.annotator != "labels":
            raise ValueError(
                "data.format=pairs brings answers and verdicts along: set annotation.annotator="
                "labels and sampling.source=input"
            )
        if self.annotation.annotator == "labels" and self.sampling.source != "input":
            raise ValueError(
                "annotator 'labels' takes the verdicts of the input: set sampling.source=input"
            )
        if self.rounds > 1 and (self.sampling.source == "input" or self.sampling.endpoint):
            raise ValueError("rounds sample from the aligned policy: set sampling.source=vllm")
        if self.sampling.source == "input" and self.world is not None:
            raise ValueError("the closed world brings no answers: remove sampling.source")
        if self.sampling.endpoint:
            if self.world is not None:
                raise ValueError("no server has the world's policy: remove sampling.endpoint")
            if self.sampling.engine and not self.data.test:
                raise ValueError(
                    "sampling.engine would start only to answer data.test: remove it, or "
                    "sampling.endpoint"
                )
        return self

    @model_validator(mode="after")
    def _examiner(self) -> "Config":
        evaluates = self.data.test or self.world is not None
        examiners = {self.annotation.annotator}
        if evaluates:
            examiners.add(self.evaluation_annotation.annotator)
        if self.world is None and "closed_world" in examiners:
            raise ValueError("annotator 'closed_world' knows only the closed world: set world={}")
        if evaluates and self.evaluation_annotation.annotator == "labels":
            raise ValueError(
                "annotator 'labels' cannot judge new answers: set evaluation.annotation, "
                "or leave data.test out"
            )
        if not evaluates and self.evaluation.annotation:
            raise ValueError("evaluation.annotation examines answers to data.test: give that too")
        return self

    @model_validator(mode="after")
    def _systems(self) -> "Config":
        for name in self.systems:
            if name == "base" or not name.isidentifier():
                raise ValueError(f"systems: {name!r} cannot name a trained system")
            try:
                self.training_of(name)
            except ValidationError as error:
                problems = (
                    explain(problem, TrainingConfig, f"systems.{name}.")
                    for problem in error.errors()
                )
                raise ValueError("; ".join(problems)) from None
        trained = [self.training_of(name) for name in self.systems]
        answers = self.world is not None or self.data.test or self.rounds > 1
        if answers and any(each.lora and each.lora.export == "adapter" for each in trained):
            raise ValueError(
                "training.lora.export=adapter leaves no whole model to evaluate or to sample in a "
                "next round: set training.lora.export=merged, or leave data.test (and world) out"
            )
        if self.model.dtype == "bfloat16":
            if any(settings.zero_stage == 0 for settings in trained):
                raise ValueError(
                    "training.zero_stage=0 keeps no fp32 weights beside bfloat16 ones and loses "
                    "small updates: set training.zero_stage=1, which costs the same on one worker"
                )
        return self

    @model_validator(mode="after")
    def _engines_fit_their_pools(self) -> "Config":
        for pool, engine in (
            ("sampler", self.sampling.engine),
            ("annotator", self.annotation.engine),
            ("annotator", self.evaluation_annotation.engine),
        ):
            parallel, gpus = parallel_size(engine), getattr(self.resources, pool).gpus
            if parallel > 1 and gpus != parallel:
                raise ValueError(
                    f"an engine over {parallel} GPUs needs resources.{pool}.gpus={parallel}, "
                    f"not {gpus:g}"
                )
        return self

    def training_of(self, system: str) -> TrainingConfig:
        """The training section of one trained system, its overrides applied."""
        overrides = self.systems[system]
        preset = PRESETS.get(overrides.get("preset"), {})
        return TrainingConfig.model_validate({**self.training.model_dump(), **preset, **overrides})

    @property
    def evaluation_annotation(self) -> AnnotationConfig:
        """The examiner's, who judges every sentence."""
        return self.evaluation.annotation or self.annotation.model_copy(update={"prune": False})
