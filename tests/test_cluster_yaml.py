"""cluster.yaml against the schema of the installed Ray and the run that the docs submit to it."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from maskdpo_ray.config_file import read_config

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def cluster() -> dict:
    """The file with Ray's defaults for the provider filled in, as `ray up` makes it."""
    return prepare_config(yaml.safe_load((REPOSITORY / "cluster.yaml").read_text()))


def test_ray_accepts_it(cluster):
    validate_config(cluster)


def test_pins_of_ray_agree(cluster):
    project = (REPOSITORY / "pyproject.toml").read_text()
    (pin,) = re.findall(r'"ray\[.*\]==(.*)"', project)
    for name in ("cluster.yaml", "docs/cluster.md"):
        assert set(re.findall(r"ray\[default\]==([\d.]+)", (REPOSITORY / name).read_text())) == {
            pin
        }


def test_every_command_uses_the_environment_of_the_project(cluster):
    """Defaults of the launcher would call the system's pip, which has another Python."""
    stages = ("setup_commands", "head_setup_commands", "worker_setup_commands")
    for command in [c for stage in stages for c in cluster[stage]]:
        assert not re.search(r"(?<!bin/)\bpip install", command), command
    for group in ("head", "worker"):
        start = cluster[f"{group}_start_ray_commands"][-1]
        assert start.index("~/env/bin/activate") < start.index("ray start")


def test_mounted_files_exist_and_are_what_the_package_is_built_from(cluster):
    mounts = cluster["file_mounts"]
    assert {Path(local).name for local in mounts.values()} == {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "maskdpo_ray",
    }
    for remote, local in mounts.items():
        assert (REPOSITORY / local).exists()
        assert remote == f"~/maskdpo-ray/{Path(local).name}"


def test_groups_cost_nothing_until_asked_and_only_generation_is_spot(cluster):
    groups = cluster["available_node_types"]
    assert all(group["min_workers"] == 0 for group in groups.values())
    spot = {name for name, g in groups.items() if "InstanceMarketOptions" in g["node_config"]}
    assert spot == {"generate"}
    assert all("IamInstanceProfile" in g["node_config"] for g in groups.values())


@pytest.fixture(scope="module")
def documented_runs() -> list[list[str]]:
    """Arguments of each `jobs/pipeline.py` command in docs/cluster.md."""
    text = (REPOSITORY / "docs" / "cluster.md").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.startswith("ray job submit")]
    return [shlex.split(line.split("jobs/pipeline.py")[1]) for line in lines]


def test_documented_runs_are_valid(documented_runs):
    assert len(documented_runs) == 2
    for path, *overrides in documented_runs:
        assert read_config(REPOSITORY / path, overrides).run_dir.startswith("s3://")


def test_each_pool_of_the_documented_run_lands_on_its_group_and_fits(documented_runs, cluster):
    path, *overrides = documented_runs[-1]
    resources = read_config(REPOSITORY / path, overrides).resources
    pools = {
        "sampler": ("generate", resources.sampler, resources.sampler.size[1]),
        "annotator": ("generate", resources.annotator, resources.annotator.size[1]),
        "reference": ("train", resources.reference, resources.reference.size[1]),
        "training": ("train", resources.training, resources.training.workers),
    }
    groups = cluster["available_node_types"]
    wanted: dict[str, float] = {"generate": 0, "train": 0}
    for name, (group, pool, count) in pools.items():
        asked = {"CPU": pool.cpus, "GPU": pool.gpus, **pool.resources}
        hosts = [g for g, node in groups.items() if fits(asked, node["resources"])]
        assert hosts == [group], f"{name} asks for {asked}"
        together = count * pool.gpus
        # Reference and training take turns; sampling and annotation run side by side.
        wanted[group] = (
            wanted[group] + together if group == "generate" else max(wanted[group], together)
        )
    for group, gpus in wanted.items():
        assert gpus <= groups[group]["resources"]["GPU"] * groups[group]["max_workers"]


def fits(asked: dict[str, float], node: dict[str, float]) -> bool:
    return all(amount <= node.get(name, 0) for name, amount in asked.items())
