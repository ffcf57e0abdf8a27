"""Which group of a cluster's nodes each pool of a run lands on."""

from maskdpo_ray.config import ResourcesConfig

Resources = dict[str, float]


def fits(asked: Resources, node: Resources) -> bool:
    return all(amount <= node.get(name, 0) for name, amount in asked.items())


def asked(resources: ResourcesConfig) -> dict[str, tuple[Resources, int]]:
    """For each pool: what one of its actors or workers asks for, and how many there may be."""
    pools = {name: getattr(resources, name) for name in POOLS}
    return {name: (pool.asks, pool.size[1]) for name, pool in pools.items()}


def check_full_run(resources: ResourcesConfig, groups: dict[str, dict]) -> None:
    """The pools of a full run fit their groups (as in Ray's cluster files), and fit no other."""
    wanted: dict[str, list[float]] = {"generate": [], "train": []}
    pools = asked(resources)
    for pool, group in PLACES.items():
        one, count = pools[pool]
        hosts = [name for name, node in groups.items() if fits(one, node["resources"])]
        assert hosts == [group], f"{pool} asks for {one}"
        wanted[group].append(count * one["GPU"])
    # Sampling and annotation run side by side, reference and training take turns.
    gpus = {name: g["resources"].get("GPU", 0) * g["max_workers"] for name, g in groups.items()}
    assert sum(wanted["generate"]) <= gpus["generate"]
    assert max(wanted["train"]) <= gpus["train"]


PLACES = {"sampler": "generate", "annotator": "generate", "reference": "train", "training": "train"}
POOLS = (*PLACES, "pair")
