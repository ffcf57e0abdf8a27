"""Where the work runs: pools of actors and training workers."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from maskdpo_ray.config.section import Section


def _bounds(value: Any) -> Any:
    """A number, or [least, most]."""
    ends = [value, value] if isinstance(value, int) else value
    numbers = isinstance(ends, (list, tuple)) and len(ends) == 2
    if not (numbers and all(type(end) is int for end in ends) and 1 <= ends[0] <= ends[1]):
        raise ValueError("a number of at least 1 or [least, most] with 1 <= least <= most")
    return value if isinstance(value, int) else tuple(value)


Bounds = Annotated[int | tuple[int, int], BeforeValidator(_bounds)]


def _ends(bounds: int | tuple[int, int]) -> tuple[int, int]:
    return bounds if isinstance(bounds, tuple) else (bounds, bounds)


class PlacedConfig(Section):
    """What one actor or worker takes of its node."""

    cpus: float = Field(default=1, ge=0)
    """Logical CPUs of one; of an actor also its OpenMP threads."""
    gpus: float = Field(default=0, ge=0)
    """GPUs of one; a fraction shares one (then lower `engine.gpu_memory_utilization`)."""
    resources: dict[str, float] = {}
    """Custom Ray resources of one, to place it on a group of nodes."""

    @property
    def asks(self) -> dict[str, float]:
        """All that it takes, under Ray's names."""
        return {"CPU": self.cpus, "GPU": self.gpus, **self.resources}


class PoolConfig(PlacedConfig):
    """A pool of actors of one stage."""

    actors: Bounds = 1
    """How many, or [least, most] to let the pool grow and shrink."""
    blocks_in_flight: int = Field(default=4, ge=1)
    """Blocks of questions that one actor works on at once: enough to keep its engine full."""
    max_restarts: int = Field(default=3, ge=0)

    @property
    def size(self) -> tuple[int, int]:
        """(least, most) actors."""
        return _ends(self.actors)


class WorkersConfig(PlacedConfig):
    """The training workers."""

    workers: Bounds = 1
    """How many, or [least, most] to go on with as many as there are nodes for."""
    max_failures: int = Field(default=3, ge=0)
    """Worker group failures that training recovers from; nodes taken away with notice are none."""
    resize_seconds: float = Field(default=60, gt=0)
    """How often [least, most] workers look for nodes that joined; to grow, training goes back to
    its last checkpoint."""

    @property
    def size(self) -> tuple[int, int]:
        """(least, most) workers."""
        return _ends(self.workers)

    @model_validator(mode="after")
    def _nothing_ignored(self) -> "WorkersConfig":
        if isinstance(self.workers, int) and self.changed("resize_seconds"):
            raise ValueError("resize_seconds is of workers: [least, most]; remove it")
        return self


class ResourcesConfig(Section):
    """Where the work runs. Nothing here changes a result, so none of it is fingerprinted."""

    sampler: PoolConfig = PoolConfig()
    annotator: PoolConfig = PoolConfig()
    factscore: PoolConfig = PoolConfig()
    win_rate: PoolConfig = PoolConfig()
    short_form: PoolConfig = PoolConfig()
    lm_eval: PoolConfig = PoolConfig()
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
