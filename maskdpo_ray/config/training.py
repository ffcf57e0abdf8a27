"""Settings of training and of watching it."""

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationInfo, field_validator, model_validator

from maskdpo_ray.config.section import How, Section

PRESETS: dict[str, dict[str, Any]] = {
    # Mask-DPO, section 3.1 and appendix: what the paper says it trained with.
    "paper": {"learning_rate": 5e-6, "epochs": 3, "batch_size": 64},
    # The configuration file released with the paper.
    "released": {"learning_rate": 5e-7, "epochs": 3, "batch_size": 64},
}


def preset_of(values: dict[str, Any]) -> dict[str, Any]:
    """The settings that the ``preset`` of ``values`` stands for."""
    name = values.get("preset")
    return PRESETS.get(name, {}) if isinstance(name, str) else {}


# Of DeepSpeed's settings, those that have an effect here and that nothing else sets.
DEEPSPEED_KEYS = (
    "zero_optimization",
    "zero_allow_untested_optimizer",
    "communication_data_type",
    "prescale_gradients",
    "gradient_predivide_factor",
    "aio",
    "comms_logger",
    "flops_profiler",
    "wall_clock_breakdown",
    "memory_breakdown",
    "steps_per_print",
)
# Of its zero_optimization, those that change more than how the work is done.
ZERO_REFUSED = {
    "stage": "the stage is set through training.zero_stage",
    "compute_grad_norm": "gradients are clipped by their norm (training.max_grad_norm)",
    "zero_quantized_weights": "the policy would differ from its reference before the first step",
    "zero_quantized_nontrainable_weights": "the policy would differ from its reference",
    "zero_quantized_gradients": "gradients add up in float32",
    "zenflow": "it learns from gradients of earlier steps",
    "cpu_offload": "it is called offload_optimizer: {device: cpu}",
    "cpu_offload_param": "it is called offload_param: {device: cpu}",
}
Moment = Annotated[float, Field(ge=0, lt=1)]

LossName = Literal[
    "sigmoid", "robust", "hinge", "ipo", "kto_pair", "sppo_hard", "nca_pair", "cal_dpo", "fkto"
]
PAIRED: tuple[LossName, ...] = tuple(name for name in get_args(LossName) if name != "fkto")
"""Losses that compare two answers; the others take every sentence by itself."""


READ_BY: dict[str, tuple[LossName, ...]] = {
    "label_smoothing": ("sigmoid", "robust"),
    "margin": ("sigmoid", "hinge"),
    "gap_margin": ("sigmoid", "hinge"),
    "dpop_weight": ("sigmoid", "hinge"),
    "reference_free": ("sigmoid", "hinge"),
    "ld_alpha": PAIRED,
    "nll_weight": PAIRED,
    "rejected_floor": PAIRED,
    "incorrect_weight": ("fkto",),
}
"""Settings that some losses alone read; elsewhere they are refused."""

OF_ALL_SYSTEMS = ("attention", "packing", "use_liger_kernel", "load_in_4bit")
"""Keys that no trained system may change: the reference is computed once for all of them."""


class LoraConfig(Section):
    """Low-rank adapters beside frozen weights, through peft."""

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

    preset: How[Literal["paper", "released"] | None] = None
    """Take the learning rate, epochs and batch of the paper or of its released configuration."""
    mask: Literal["sentence", "none"] = "sentence"
    """`sentence` is Mask-DPO; `none` gives every token weight one: vanilla DPO."""
    loss: LossName = "sigmoid"
    """Of the masked log-ratios; `sigmoid` is DPO. docs/training.md has the formulas."""
    beta: float = Field(default=0.1, gt=0)
    """Scale of the log-ratios; `ipo`, `sppo_hard`: the ratios' targets are multiples of 1/beta."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Probability that a preference is flipped (`sigmoid`, `robust`)."""
    incorrect_weight: float = Field(default=1.0, gt=0)
    """What an incorrect sentence weighs beside a correct one (`fkto`)."""
    margin: float = Field(default=0.0, ge=0)
    """What beta (M_w - M_l) is to exceed (SimPO's gamma; `sigmoid`, `hinge`)."""
    gap_margin: float = Field(default=0.0, ge=0)
    """The same times the gap between the scores of the two answers (F-DPO)."""
    ratios: Literal["sum", "mean"] | None = None
    """M_w and M_l are sums over tokens, or means per token; unset, means for `ipo` alone."""
    ld_alpha: float | None = Field(default=None, ge=0, le=1)
    """What kept tokens weigh that the shorter side has no counterpart of (LD-DPO)."""
    reference_free: bool = False
    """Compare log-probabilities instead of log-ratios (SimPO; `sigmoid`, `hinge` with means)."""
    nll_weight: float = Field(default=0.0, ge=0)
    """Weight of the mean negative log-likelihood per kept chosen token (RPO's alpha)."""
    dpop_weight: float = Field(default=0.0, ge=0)
    """Times what M_w lies below zero, taken off M_w (DPOP; `sigmoid`, `hinge`)."""
    anchor_weight: float = Field(default=0.0, ge=0)
    """Weight of what holds the correct sentences of *both* answers up, per token."""
    anchor: Literal["nll", "reference"] = "nll"
    """Their negative log-likelihood, or what they have fallen below the reference."""
    rejected_floor: float | None = Field(default=None, gt=0)
    """Nats below the reference under which an incorrect sentence is pushed no further."""
    rejected_floor_per: Literal["sentence", "token"] = "sentence"
    """Whether that bounds the sum over a sentence of the rejected answer or each of its tokens."""
    router_aux_weight: Annotated[float, Field(ge=0)] | Literal["model"] = 0.0
    """Weight of the auxiliary loss of a mixture of experts' routers; `model` is its own."""
    lora: LoraConfig | None = None
    """Train low-rank adapters instead of all weights."""
    learning_rate: float = Field(default=5e-6, gt=0)
    epochs: int = Field(default=3, ge=1)
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after this many optimizer steps; the schedule then spans these steps."""
    batch_size: int = Field(default=64, ge=1)
    """Global batch, in pairs, whatever the number of workers."""
    micro_batch_tokens: How[int] = Field(default=16384, ge=1)
    """Tokens of one forward pass on one worker, padding included, both responses of its pairs."""
    packing: How[Literal["auto"] | bool] = "auto"
    """Sequences of a pass behind one another, without padding; `auto` packs wherever the model and
    the attention kernel can do it."""
    betas: tuple[Moment, Moment] = (0.9, 0.999)
    adam_eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    """Share of the steps in which the learning rate rises linearly; then a cosine to zero."""
    min_lr_ratio: float = Field(default=0.0, ge=0, le=1)
    """What the cosine approaches after the last step, as a share of the highest rate."""
    zero_stage: How[Literal[0, 1, 2, 3]] = 2
    """What DeepSpeed shards: 0 nothing, 1 optimizer, 2 + gradients, 3 + parameters."""
    deepspeed: How[dict[str, Any]] = {}
    """Further DeepSpeed settings (e.g. offload) that say how the work is done; a run may go on with
    others. Keys that this tree sets, or that change what is learnt, are refused."""
    gradient_checkpointing: How[bool] = False
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    """The kernel; `auto` is PyTorch's (`sdpa`), or the model's own code (`eager`) where its
    attention is more than that computes: a soft cap, sinks."""
    use_liger_kernel: bool = False
    """Fused norms, rotary embedding and activation on GPUs (extra `liger`)."""
    load_in_4bit: bool = False
    """QLoRA: policy and reference on weights in 4 bits (NF4, double quantized; extra `qlora`)."""
    logprob_chunk: How[int | None] = Field(default=None, ge=1)
    """Positions projected onto the vocabulary at a time. Unset, 1,024 on a CPU and 8,192 on a GPU,
    and small logits are kept for backward, but with gradient_checkpointing; set, never more of them
    exist at once."""
    checkpoint_every: How[int] = Field(default=50, ge=1)
    """Optimizer steps between checkpoints."""
    keep_checkpoints: How[int] = Field(default=2, ge=1)
    holdout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the topics whose pairs are not learnt from but examined (`eval/` metrics)."""
    eval_every: How[int] = Field(default=50, ge=1)
    """Optimizer steps between examinations of the pairs held out; the last step has one too."""
    sample_every: How[int | None] = Field(default=None, ge=1)
    """Optimizer steps between looks at what the policy in training says (`samples/` metrics); it is
    asked before the first step and after the last, too. Never, if left out."""
    sample_questions: How[int] = Field(default=4, ge=1)
    """Prompts that it answers: of pairs held out, or else of those that are learnt from."""
    sample_tokens: How[int] = Field(default=256, ge=1)
    """Longest of these answers, in tokens."""
    sample_temperature: How[float] = Field(default=0.0, ge=0)
    """Of these answers; 0 is greedy."""

    @model_validator(mode="before")
    @classmethod
    def _preset_below_given(cls, values: Any) -> Any:
        return {**preset_of(values), **values} if isinstance(values, dict) else values

    @field_validator(*READ_BY)
    @classmethod
    def _where_read(cls, value: float | None, info: ValidationInfo) -> float:
        loss, name = info.data.get("loss", "sigmoid"), info.field_name
        default = cls.model_fields[name].default
        if value != default and loss not in READ_BY[name]:
            what = name.replace("_", " ")
            usual = "null" if default is None else default
            raise ValueError(f"loss {loss!r} has no {what}: set it to {usual} or remove it")
        return value

    @field_validator("deepspeed")
    @classmethod
    def _not_ours(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        ours = {
            "train_batch_size": "training.batch_size",
            "train_micro_batch_size_per_gpu": "training.micro_batch_tokens",
            "gradient_accumulation_steps": "training.batch_size",
            "gradient_clipping": "training.max_grad_norm",
            "optimizer": "training.learning_rate, betas, weight_decay",
            "scheduler": "training.warmup_ratio, min_lr_ratio",
            "bf16": "model.dtype",
            "fp16": "model.dtype",
            "data_types": "model.dtype; gradients add up in float32",
        }
        for key in value:
            if key in ours:
                raise ValueError(f"{key!r} is set through {ours[key]}: remove it here")
            if key not in DEEPSPEED_KEYS:  # DeepSpeed itself passes over what it does not know
                raise ValueError(f"{key!r} has no effect here; known: {', '.join(DEEPSPEED_KEYS)}")
        zero = value.get("zero_optimization", {})
        if not isinstance(zero, dict):
            raise ValueError("zero_optimization must be a mapping, e.g. {offload_optimizer: ...}")
        for key in zero:
            if key in ZERO_REFUSED:
                raise ValueError(f"zero_optimization.{key}: {ZERO_REFUSED[key]}: remove it here")
        _check_offload(zero, info.data.get("zero_stage", 2))
        return value

    @model_validator(mode="after")
    def _nothing_ignored(self) -> "TrainingConfig":
        if not self.holdout and self.changed("eval_every"):
            raise ValueError("eval_every examines pairs held out: set holdout, or remove it")
        sampling = self.changed("sample_questions", "sample_tokens", "sample_temperature")
        if self.sample_every is None and sampling:
            raise ValueError(f"{sampling[0]}: nothing is sampled: set sample_every, or remove it")
        if self.anchor_weight and self.mask == "none":
            raise ValueError(
                "anchor_weight holds correct sentences up, and mask=none knows none: set mask="
                "sentence, or anchor_weight=0 (nll_weight holds the chosen answer up)"
            )
        if self.mask == "none" and not self.compares:
            raise ValueError(
                f"loss={self.loss} takes sentences by their verdicts, and mask=none knows none: "
                "set mask=sentence"
            )
        if self.ld_alpha is not None and self.averages:
            raise ValueError(
                "ld_alpha is against sums that grow with the length, and means do not: set "
                "ratios=sum, or remove it"
            )
        if self.reference_free:
            self._check_reference_free()
        if not self.anchor_weight and self.changed("anchor"):
            raise ValueError("anchor weighs nothing: set anchor_weight, or remove it")
        if self.rejected_floor is None and self.changed("rejected_floor_per"):
            raise ValueError("rejected_floor_per bounds nothing: set rejected_floor, or remove it")
        return self

    def _check_reference_free(self) -> None:
        if not self.averages:
            raise ValueError(
                "reference_free compares log-probabilities, whose sums tell the length: set "
                "ratios=mean"
            )
        against = {
            "dpop_weight": self.dpop_weight,
            "rejected_floor": self.rejected_floor,
            "anchor=reference": self.anchor == "reference",
        }
        for name, given in against.items():
            if given:
                raise ValueError(f"{name} is against the reference: remove it or reference_free")

    @property
    def compares(self) -> bool:
        """Whether the loss compares the two answers of a pair, or takes sentences one by one."""
        return self.loss in PAIRED

    @property
    def averages(self) -> bool:
        """Whether the loss compares means per token, and not sums."""
        return self.ratios == "mean" or (self.ratios is None and self.loss == "ipo")

    @model_validator(mode="after")
    def _weights_in_4_bits(self) -> "TrainingConfig":
        if self.load_in_4bit and self.lora is None:
            raise ValueError("weights in 4 bits cannot learn: set lora, or remove load_in_4bit")
        if self.load_in_4bit and self.zero_stage == 3:
            raise ValueError("zero_stage=3 cannot shard weights in 4 bits: set zero_stage=2")
        return self


def _check_offload(zero: dict[str, Any], stage: int) -> None:
    """Refuse what DeepSpeed would pass over, or what checkpoints would not reach.

    Raises:
        ValueError: with the remedy.
    """
    for key, least in (("offload_optimizer", 1), ("offload_param", 3)):
        if key in zero and stage < least:
            raise ValueError(f"{key} needs training.zero_stage={least} or more")
        offload = zero.get(key)
        if offload is not None and (
            not isinstance(offload, dict)
            or offload.get("device") != "cpu"
            or {"ratio", "super_offload"} & set(offload)
        ):
            raise ValueError(
                f"{key} is all on the CPU, or checkpoints would not hold all of it: "
                "{device: cpu}, without ratio and super_offload"
            )


class TrackingConfig(Section):
    """Where training is watched. Nothing here changes a result."""

    report_to: list[Literal["tensorboard", "wandb", "mlflow"]] = ["tensorboard"]
    """`metrics.jsonl` is always written; `wandb` and `mlflow` are extras of the same names."""
    project: str = "maskdpo-ray"
    """W&B project or MLflow experiment."""

    @model_validator(mode="after")
    def _nothing_ignored(self) -> "TrackingConfig":
        if self.changed("project") and not {"wandb", "mlflow"} & set(self.report_to):
            raise ValueError("project is of wandb and mlflow: add one to report_to, or remove it")
        return self
