"""The RayJob of KubeRay: its schema, its groups, the run it starts and the image it starts from."""

import copy
import os
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import placement
import pytest
import yaml
from packaging.specifiers import SpecifierSet
from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr,
)

from maskdpo_ray.config import read_config

REPOSITORY = Path(__file__).resolve().parents[1]
CRD = "MASKDPO_RAYJOB_CRD"


@pytest.fixture
def manifest() -> dict:
    return yaml.safe_load((REPOSITORY / "jobs/clusters/rayjob.yaml").read_text())


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    """What KubeRay's own definition of a RayJob accepts."""
    if CRD not in os.environ:
        pytest.skip(
            f"set {CRD} to KubeRay's helm-chart/kuberay-operator/crds/ray.io_rayjobs.yaml to check "
            "the manifest against it"
        )
    definition = yaml.safe_load(Path(os.environ[CRD]).read_text())
    (schema,) = (
        version["schema"]["openAPIV3Schema"]
        for version in definition["spec"]["versions"]
        if version["name"] == "v1"
    )
    schema = closed(schema)
    schema["properties"]["metadata"] = {"type": "object"}  # Kubernetes' own, not in the CRD
    return jsonschema.Draft202012Validator(schema)


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """A structural schema of Kubernetes as JSON schema; a key that it does not name is an error.

    The API server prunes such keys silently. CEL rules (`x-kubernetes-validations`) are not read.
    """
    schema = dict(schema)
    if schema.pop("nullable", False) and "type" in schema:
        schema["type"] = [schema["type"], "null"]
    if "properties" in schema:
        schema["properties"] = {k: closed(v) for k, v in schema["properties"].items()}
    if isinstance(schema.get("items"), dict):
        schema["items"] = closed(schema["items"])
    if isinstance(schema.get("additionalProperties"), dict):
        schema["additionalProperties"] = closed(schema["additionalProperties"])
    elif schema.get("type") == "object" and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema["additionalProperties"] = False
    return schema


def errors(validator: jsonschema.Draft202012Validator, manifest: dict) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(manifest)]


def test_kuberay_accepts_it(manifest, validator):
    assert errors(validator, manifest) == []


@pytest.mark.parametrize(
    "path, key, value",
    [
        (("spec",), "shutdownAfterJobFinish", True),
        (("spec", "rayClusterSpec"), "enableAutoscaling", True),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 1), "maxReplica", 4),
        (("spec", "rayClusterSpec", "headGroupSpec", "template", "spec"), "serviceAcountName", "a"),
        (("spec",), "backoffLimit", "3"),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams"), "num-cpus", 0),
    ],
)
def test_a_misspelt_key_or_a_value_of_another_type_is_refused(
    manifest, validator, path, key, value
):
    wrong = copy.deepcopy(manifest)
    place = wrong
    for step in path:
        place = place[step]
    place[key] = value
    (error,) = errors(validator, wrong)
    assert key in error


@pytest.fixture
def groups(manifest) -> dict:
    """The groups as Ray's autoscaler reads them from the cluster that KubeRay makes."""
    cluster = {
        "metadata": {"name": "maskdpo", "namespace": "default"},
        "spec": manifest["spec"]["rayClusterSpec"],
    }
    groups = _derive_autoscaling_config_from_ray_cr(cluster)["available_node_types"]
    return {name.replace("headgroup", "head"): group for name, group in groups.items()}


def test_groups_are_those_of_the_launcher_and_cost_nothing_until_asked(manifest, groups):
    launcher = yaml.safe_load((REPOSITORY / "cluster.yaml").read_text())["available_node_types"]
    for name, ours in groups.items():
        theirs = launcher[name]
        assert (ours["min_workers"], ours["max_workers"]) == (0, theirs["max_workers"])
        for resource in {"GPU", "train", "generate"}:
            assert ours["resources"].get(resource) == theirs["resources"].get(resource)
        assert ours["resources"]["CPU"] <= theirs["resources"]["CPU"]
    assert groups.keys() == launcher.keys()
    assert manifest["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"] is True


def test_groups_run_on_node_pools_of_their_own(manifest):
    workers = manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert {g["groupName"]: g["template"]["spec"]["nodeSelector"] for g in workers} == {
        "train": {"maskdpo": "train"},
        "generate": {"maskdpo": "generate"},
    }


def test_every_pod_has_the_image_the_token_and_the_rights(manifest):
    cluster = manifest["spec"]["rayClusterSpec"]
    pods = [g["template"]["spec"] for g in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    containers = [container for pod in pods for container in pod["containers"]]
    assert len({container["image"] for container in containers}) == 1
    assert {pod["serviceAccountName"] for pod in pods} == {"maskdpo"}
    assert all(container["env"][0]["name"] == "HF_TOKEN" for container in containers)


def test_the_run_is_valid_and_its_pools_land_on_their_groups(manifest, groups):
    entrypoint = manifest["spec"]["entrypoint"]
    assert "\n" not in entrypoint  # it becomes a part of one shell command
    python, script, path, *overrides = shlex.split(entrypoint)
    assert (python, script) == ("python", "jobs/pipeline.py")
    config = read_config(REPOSITORY / path, overrides)
    assert config.run_dir.startswith("s3://") and config.resources.autoscale
    placement.check_full_run(config.resources, groups)


def test_it_starts_the_run_of_the_docs(manifest):
    docs = (REPOSITORY / "docs" / "cluster.md").read_text().replace("\\\n", " ")
    (documented,) = re.findall(r"jobs/pipeline\.py (jobs/configs/llama3\.1-8b-anah.*)", docs)
    ours = manifest["spec"]["entrypoint"].split("jobs/pipeline.py")[1]
    assert shlex.split(ours) == shlex.split(documented)


def test_versions_are_those_of_the_project(manifest):
    project = (REPOSITORY / "pyproject.toml").read_text()
    (ray,) = re.findall(r'"ray\[.*\]==(.*)"', project)
    assert manifest["spec"]["rayClusterSpec"]["rayVersion"] == ray
    (pythons,) = re.findall(r'requires-python = "(.*)"', project)
    (image,) = re.findall(r"^FROM python:(.*)$", dockerfile(), re.M)
    assert image in SpecifierSet(pythons)
    assert "'.[gpu]'" in dockerfile()  # the extra that holds the pins of everything else


def test_the_image_holds_what_the_package_and_the_run_need():
    copied = re.findall(r"^COPY (.*) \S+$", dockerfile(), re.M)
    names = {name for line in copied for name in line.split()}
    assert names == {"pyproject.toml", "README.md", "LICENSE", "maskdpo_ray", "jobs", "questions"}
    assert all((REPOSITORY / name).exists() for name in names - {"questions"})  # the user's


def dockerfile() -> str:
    return (REPOSITORY / "jobs/clusters/Dockerfile").read_text()
