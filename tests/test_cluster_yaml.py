"""The files of Ray's cluster launcher against the schema of the installed Ray, and the runs that
the docs submit to them against both."""

import re
import shlex
from pathlib import Path

import placement
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from maskdpo_ray.config import Config, read_config

REPOSITORY = Path(__file__).resolve().parents[1]
LAUNCHED = ("cluster.yaml", "jobs/clusters/gcp.yaml")


@pytest.fixture(scope="module", params=LAUNCHED)
def cluster(request) -> dict:
    """The file with Ray's defaults for the provider filled in, as `ray up` makes it."""
    return prepare_config(yaml.safe_load((REPOSITORY / request.param).read_text()))


def test_ray_accepts_it(cluster):
    validate_config(cluster)


def test_pins_of_ray_agree():
    project = (REPOSITORY / "pyproject.toml").read_text()
    (pin,) = re.findall(r'"ray\[.*\]==(.*)"', project)
    for name in (*LAUNCHED, "docs/cluster.md"):
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
    assert {name for name, g in groups.items() if is_spot(g["node_config"])} == {"generate"}


def test_every_node_may_reach_the_bucket(cluster):
    """Ray gives rights of its own accord to the head alone."""
    rights = {"aws": "IamInstanceProfile", "gcp": "serviceAccounts"}[cluster["provider"]["type"]]
    assert all(rights in g["node_config"] for g in cluster["available_node_types"].values())


def is_spot(node_config: dict) -> bool:
    aws = node_config.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
    return aws or node_config.get("scheduling", {}).get("provisioningModel") == "SPOT"


def test_the_places_to_change_on_google_cloud_name_one_project_and_one_zone():
    text = (REPOSITORY / "jobs/clusters/gcp.yaml").read_text()
    provider = yaml.safe_load(text)["provider"]
    assert set(re.findall(r"@(.*)\.iam\.gserviceaccount", text)) == {provider["project_id"]}
    assert set(re.findall(r"zones/([\w-]+)/", text)) == {provider["availability_zone"]}


@pytest.fixture(scope="module")
def documented() -> dict[str, Config]:
    """The runs that docs/cluster.md submits, by the name of their configuration file."""
    text = (REPOSITORY / "docs" / "cluster.md").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.startswith("ray job submit")]
    runs = [shlex.split(line.split("jobs/pipeline.py")[1]) for line in lines]
    return {Path(path).name: read_config(REPOSITORY / path, more) for path, *more in runs}


def test_documented_runs_write_where_every_node_can(documented):
    assert set(documented) == {"smoke.yaml", "llama3.1-8b-anah.yaml"}
    for config in documented.values():
        assert config.run_dir.startswith("s3://") and config.resources.autoscale


def test_each_pool_of_the_full_run_lands_on_its_group_and_fits(documented, cluster):
    resources = documented["llama3.1-8b-anah.yaml"].resources
    placement.check_full_run(resources, cluster["available_node_types"])


def test_the_smoke_run_needs_one_node_of_the_generate_group_and_no_engine_on_the_head(
    documented, cluster
):
    """The head has no GPU, and the vLLM that is installed there starts on nothing else."""
    config, groups = documented["smoke.yaml"], cluster["available_node_types"]
    pools = placement.asked(config.resources)
    for name in ("sampler", "reference", "training"):
        one, count = pools.pop(name)
        hosts = [group for group, node in groups.items() if placement.fits(one, node["resources"])]
        assert (hosts, count, one["GPU"]) == (["generate"], 1, 1), name
    assert config.annotation.annotator == "closed_world"  # no engine
    assert all(placement.fits(one, groups["head"]["resources"]) for one, _ in pools.values())
