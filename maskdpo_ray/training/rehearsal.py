"""Whether a policy can be trained and exported, found out before anything is sampled from it.

Where the reference will be computed the policy is loaded, compared with itself and its export
tried, as training does it: seconds for what would else end a run after hours. What went well once
is remembered on the machine that asked.
"""

from collections.abc import Sequence

import ray

from maskdpo_ray.config import ModelConfig, PoolConfig, TrainingConfig
from maskdpo_ray.devices import hide_gpus
from maskdpo_ray.digests import fingerprint
from maskdpo_ray.errors import UserError
from maskdpo_ray.model_files import cache_folder

_SETTINGS = (  # that it tries
    "attention", "packing", "use_liger_kernel", "load_in_4bit", "lora", "router_aux_weight",
)  # fmt: skip


def rehearse_training(
    model: ModelConfig, identity: str, systems: Sequence[TrainingConfig], where: PoolConfig,
    versions: dict[str, str],
) -> None:  # fmt: skip
    """Try to load, and to export, what these systems train.

    Args:
        identity: of the model, by content.
        where: what the reference asks of its node. Where no node has room now, nothing is tried:
            whoever needs one first waits for it, and finds out then.

    Raises:
        UserError: it cannot be trained, or not saved.
    """
    distinct = {fingerprint(_of(each)): each for each in systems}
    key = fingerprint(identity, model.dtype, sorted(distinct), where.gpus > 0, versions)
    done = cache_folder().with_name("rehearsed") / key
    if done.exists():
        return
    room = ray.available_resources()
    if any(amount > room.get(name, 0) for name, amount in where.asks.items()):
        return
    task = ray.remote(_try).options(
        num_cpus=where.cpus, num_gpus=where.gpus, resources=where.resources, max_retries=0
    )
    problem = ray.get(task.remote(model, list(distinct.values()), where.gpus > 0))
    if problem is not None:
        raise UserError(problem)
    done.parent.mkdir(parents=True, exist_ok=True)
    done.touch()


def _of(settings: TrainingConfig) -> dict[str, object]:
    return settings.model_dump(mode="json", include=set(_SETTINGS))


def _try(model: ModelConfig, systems: list[TrainingConfig], gpus: bool) -> str | None:
    """The first problem, or None."""
    if not gpus:
        hide_gpus()
    from maskdpo_ray.training.worker import load_to_train

    try:
        for settings in systems:
            load_to_train(model, settings, seed=0)
    except UserError as error:
        return str(error)
    return None
