"""A DeepSpeed engine whose gradient accumulation we hold in our own hands.

The number of forward passes differs from step to step and the scale of each pass is part of the
batch plan, so the engine is told neither: it runs with an accumulation of one, is handed losses
that are already scaled, and learns from ``last`` where a step ends.
"""

import ctypes
import logging
import resource
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from maskdpo_ray.config import TrainingConfig
from maskdpo_ray.imports import lasting_imports

if TYPE_CHECKING:
    from torch import Tensor, nn


log = logging.getLogger(__name__)

WORTH_GIVING_BACK = 32 << 20  # bytes of gradients


def deepspeed_config(settings: TrainingConfig, dtype: str, parameters: int) -> dict[str, Any]:
    """The engine's configuration; ``settings.deepspeed`` is merged in.

    Args:
        parameters: number of parameters of the model, which bounds the communication buffers.
    """
    extra = dict(settings.deepspeed)
    zero_extra = dict(extra.pop("zero_optimization", {}))
    offload = any(key.startswith("offload_") for key in zero_extra)
    config = {
        "train_micro_batch_size_per_gpu": 1,
        # Only read as "is there any accumulation" by optimizer offload, never used as a scale.
        "gradient_accumulation_steps": 2 if offload else 1,
        "gradient_clipping": settings.max_grad_norm,
        "zero_optimization": {
            "stage": settings.zero_stage,
            "reduce_bucket_size": min(parameters, 500_000_000),
            **zero_extra,
        },
        "steps_per_print": None,
        # PyTorch's AdamW also works on what is offloaded.
        "zero_force_ds_cpu_optimizer": False,
        **extra,
    }
    if dtype == "bfloat16":
        # ZeRO 0 and 1 would hold all gradients in bfloat16, too, until the end of backward.
        config["bf16"] = {"enabled": True, "immediate_grad_update": settings.zero_stage <= 1}
        config["data_types"] = {"grad_accum_dtype": "fp32"}
        # DeepSpeed would average them in bfloat16, and round what was added up, of one worker too.
        config.setdefault("communication_data_type", "fp32")
    return config


@contextmanager
def gathered(parameter: "nn.Parameter") -> "Iterator[Tensor]":
    """The whole parameter on every worker, in the model's dtype, whether it is sharded or not."""
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
        yield parameter.detach()


class Engine:
    """The model, its optimizer, and the step.

    Args:
        model: a ``LogProbModel`` that DeepSpeed has not seen.
        dtype: ``float32`` or ``bfloat16``.
    """

    def __init__(self, model: "nn.Module", settings: TrainingConfig, dtype: str) -> None:
        with lasting_imports():
            import deepspeed
            import torch
            from deepspeed.runtime.bf16_optimizer import BF16_Optimizer
            from torch import distributed

            from maskdpo_ray.training.experts import Uncalled, expert_blocks, gather_together

        deepspeed.utils.logger.setLevel(logging.WARNING)
        warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
        if not torch.cuda.is_available():
            # Compiles for half a minute and leaks shared memory; gloo gives the same results.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        parameters = [p for p in model.parameters() if p.requires_grad]
        blocks = expert_blocks(model)
        if blocks and settings.zero_stage == 2 and distributed.get_world_size() > 1:
            # It adds gradients in the order in which they arise, which differs between workers.
            settings = settings.model_copy(update={"zero_stage": 1})
            if distributed.get_rank() == 0:
                log.warning("zero_stage=1 takes the place of 2: experts are modules of their own")
        config = deepspeed_config(settings, dtype, sum(p.numel() for p in parameters))
        self._gradients = sum(p.nbytes for p in parameters)
        adamw = _adamw(parameters, settings)
        whole = settings.zero_stage == 0
        # Whether the optimizer is PyTorch's own, on the model's weights and gradients themselves.
        self._bare = whole and dtype == "float32"
        if self._bare:
            model.accumulate_in_place()
        beside = whole and not self._bare
        if settings.zero_stage == 3:
            gather_together(model)
        self._uncalled = Uncalled(model) if blocks and settings.zero_stage in (1, 2) else None
        self._engine, *_ = deepspeed.initialize(
            model=model, optimizer=None if beside else adamw, config=config
        )
        self._alone = _keep_in_fp32(self._engine, adamw) if beside else None
        self.device = self._engine.device
        in_one_piece = isinstance(self._engine.optimizer, BF16_Optimizer) or self._bare
        if in_one_piece and distributed.get_world_size() == 1:
            # It would copy all gradients into a buffer and back to average them with nobody's.
            self._engine.enable_backward_allreduce = False

    @property
    def module(self) -> "nn.Module":
        return self._engine.module

    def __call__(self, **inputs: "Tensor") -> "Tensor":
        return self._engine(**inputs)

    def backward(self, loss: "Tensor", last: bool) -> None:
        """Add the gradient of a loss that is scaled already; ``last`` closes the step."""
        if self._uncalled is not None:
            loss = loss + self._uncalled.nothing()
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss, scale_wrt_gas=False)

    def step(self, learning_rate: float) -> float:
        """Update the weights; returns the gradient norm before clipping."""
        import torch

        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        norm = None
        if self._bare:
            trained = [p for p in self.module.parameters() if p.requires_grad]
            for parameter in trained:
                if parameter.grad is None:  # unused in this step: it decays as elsewhere
                    parameter.grad = torch.zeros_like(parameter)
            norm = torch.nn.utils.get_total_norm([p.grad for p in trained])
        self._engine.step()
        return float(self._engine.get_global_grad_norm() if norm is None else norm)

    def named_parameters(self, frozen: bool = False) -> list[tuple[str, "nn.Parameter"]]:
        """Trained parameters, or all, under the names of the policy's own state dict."""
        return [
            (name.removeprefix("policy."), parameter)
            for name, parameter in self.module.named_parameters()
            if parameter.requires_grad or frozen
        ]

    def full_state(self, parameter: "nn.Parameter") -> dict[str, "Tensor"]:
        """fp32 weight and both Adam moments of a parameter, whole, on every worker."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        if self._bare:
            moments = self._engine.optimizer.state[parameter]
            return {"weight": parameter.detach()} | {key: moments[key] for key in _MOMENTS}
        return {"weight": safe_get_full_fp32_param(parameter)} | {
            key: safe_get_full_optimizer_state(parameter, key) for key in _MOMENTS
        }

    def load_full_state(self, parameter: "nn.Parameter", state: dict[str, "Tensor"]) -> None:
        """The inverse of :meth:`full_state`; call :meth:`start_moments` first.

        The weights in the model's own dtype are not touched: load them into the model before
        the engine is made.
        """
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        if self._bare:
            for key in _MOMENTS:
                self._engine.optimizer.state[parameter][key].copy_(state[key])
            return
        safe_set_full_fp32_param(parameter, state["weight"])
        for key in _MOMENTS:
            safe_set_full_optimizer_state(parameter, state[key], key)

    def start_moments(self, steps: int) -> None:
        """Give the optimizer the empty moments that it would make in its first step.

        Args:
            steps: how many it shall believe to have done, which its bias correction reads.
        """
        import torch

        optimizer = self._engine.optimizer
        adam = self._engine.basic_optimizer
        for partition in self._partitions():
            adam.state[partition] = {
                "step": torch.tensor(float(steps), device=partition.device),
                **{key: torch.zeros_like(partition) for key in _MOMENTS},
            }
        if hasattr(optimizer, "_lazy_init_hp_params_optimizer_state"):
            optimizer._lazy_init_hp_params_optimizer_state()

    def _partitions(self) -> list["Tensor"]:
        """The tensors that the inner optimizer holds its state under."""
        optimizer = self._engine.optimizer
        for name in (
            "fp32_partitioned_groups_flat",  # ZeRO 3
            "single_partition_of_fp32_groups",  # ZeRO 1 and 2
            "fp32_groups_flat_partition",  # ZeRO 0 and 1 in bfloat16
        ):
            if hasattr(optimizer, name):
                return list(getattr(optimizer, name))
        return [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def give_back(self) -> None:
        """On a CPU, return free memory to the system. The memory has to be asked for again in
        every step: of a small model that takes longer than it is worth."""
        if self.device.type == "cpu" and self._gradients >= WORTH_GIVING_BACK:
            _trim()

    def peak_memory(self) -> int:
        """Bytes: the most that was allocated on the GPU so far, or resident on the CPU."""
        import torch

        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated(self.device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def close(self) -> None:
        """Release the engine's hooks and buffers."""
        from torch import distributed

        self._engine.destroy()
        if self._alone is not None:
            distributed.destroy_process_group(self._alone)


_MOMENTS = ("exp_avg", "exp_avg_sq")


def _trim() -> None:
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:  # a C library without it, as musl
        pass


def _keep_in_fp32(engine: Any, adamw: Any) -> Any:
    """Give an engine without optimizer fp32 weights, sums and moments beside bfloat16 weights.

    DeepSpeed's own ZeRO 0 in bfloat16 has none of them, and loses small updates. This is its
    ZeRO 1, sharded among a group of one, while the engine averages gradients over all workers.

    Returns:
        The process group of this worker only, to be destroyed with the engine.
    """
    from deepspeed.runtime.bf16_optimizer import BF16_Optimizer
    from torch import distributed

    alone = distributed.new_group([distributed.get_rank()], use_local_synchronization=True)
    engine.basic_optimizer = adamw
    engine.optimizer = BF16_Optimizer(
        adamw,
        engine.param_names,
        engine._config.bfloat16_config,
        clip_grad=engine.gradient_clipping(),
        dp_process_group=alone,
        grad_acc_dtype=engine.get_data_types()[1],
    )
    return alone


def _adamw(parameters: list, settings: TrainingConfig) -> Any:
    """AdamW; weight decay spares biases and norms, as is usual."""
    import torch

    groups = [
        {
            "params": [p for p in parameters if p.ndim > 1],
            "weight_decay": settings.weight_decay,
        },
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if settings.weight_decay == 0.0:
        groups = [{"params": parameters, "weight_decay": 0.0}]
    kwargs = {"lr": settings.learning_rate, "betas": settings.betas, "eps": settings.adam_eps}
    # PyTorch's fused kernels need no compiler on the node, unlike DeepSpeed's, nor scratch memory.
    return torch.optim.AdamW([g for g in groups if g["params"]], fused=True, **kwargs)
