"""The command line of a job with experiments, and its seeds side by side."""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from maskdpo_ray.config import ResourcesConfig
from maskdpo_ray.errors import UserError
from maskdpo_ray.experiments.lab import Lab
from maskdpo_ray.experiments.results import Result
from maskdpo_ray.progress import clock, say


def run_job(
    description: str,
    *experiments: Callable[..., Result],
    claims: str | None = None,
    **options: dict[str, Any],
) -> None:
    """Run experiments over the seeds, write their results, print them.

    With ``--at-once`` above one every seed is first brought to its end in a process of its own,
    all on one Ray; what they made is then put together here.

    Args:
        experiments: each called with the lab, and with what was given for each option.
        claims: a file for the claims of them all.
        options: name -> keywords of ``add_argument``.
    """
    parser = _parser(description)
    for name, keywords in options.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **keywords)
    given, settings = parser.parse_known_args()
    if wrong := [word for word in settings if word.startswith("-") or "=" not in word]:
        parser.error(f"unrecognized arguments: {' '.join(wrong)}")
    lab = Lab(given.config, given.runs, given.seeds, settings)
    logs = Path("runs" if "://" in given.runs else given.runs)
    several = given.at_once > 1 and len(given.seeds) > 1
    try:
        if several:
            _run_seeds(lab, given.at_once, logs)
        with _told_to(logs / "together.log" if several else None):
            own = {name: getattr(given, name) for name in options}
            results = [_timed(experiment, lab, own) for experiment in experiments]
    except UserError as error:  # what a person must mend, in one line
        parser.exit(2, f"{parser.prog}: {error}\n")
    if given.only_runs:
        return
    for result in results:
        result.write(lab.folder)
        print(f"\n{result.text()}")
    if claims:
        every = [claim for result in results for claim in result.claims]
        lab.folder.write_json(claims, every)
        print(f"\n{len(every)} claims: {lab.folder}/{claims}")


def _parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", metavar="CONFIG", help="e.g. jobs/configs/paper.yaml")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", default="runs/paper", help="folder or URL of runs and results")
    parser.add_argument("--at-once", type=int, default=1, help="seeds that run side by side")
    parser.add_argument("--only-runs", action="store_true", help=argparse.SUPPRESS)
    return parser


@contextmanager
def _told_to(log: Path | None) -> Iterator[None]:
    """Progress goes to this file: every stage of every seed is there already and says so again."""
    if log is None:
        yield
        return
    with open(log, "w", encoding="utf-8") as lines, redirect_stderr(lines):
        yield


def _timed(experiment: Callable[..., Result], lab: Lab, own: dict[str, Any]) -> Result:
    begun = time.monotonic()
    result = experiment(lab, **own)
    say(f"{result.title}: {clock(time.monotonic() - begun)}")
    return result


def _run_seeds(lab: Lab, at_once: int, logs: Path) -> None:
    """Everything of each seed, in a process and with a log of its own.

    Raises:
        UserError: some seed did not come to its end.
    """
    _share_ray(lab.read(lab.seeds[0]).resources, min(at_once, len(lab.seeds)))
    logs.mkdir(parents=True, exist_ok=True)

    def run(seed: int) -> int:
        log, begun = logs / f"seed-{seed}.log", time.monotonic()
        # The last --seeds counts.
        command = [sys.executable, *sys.argv, "--only-runs", "--at-once", "1", "--seeds", str(seed)]
        with open(log, "a", encoding="utf-8") as lines:
            done = subprocess.run(command, stdout=lines, stderr=subprocess.STDOUT, check=False)
        how = "done" if done.returncode == 0 else f"failed, see {log}"
        say(f"seed {seed} {how} after {clock(time.monotonic() - begun)}")
        return done.returncode

    with ThreadPoolExecutor(at_once) as pool:
        codes = list(pool.map(run, lab.seeds))
    if failed := [seed for seed, code in zip(lab.seeds, codes, strict=True) if code]:
        raise UserError(
            f"of seeds {', '.join(map(str, lab.seeds))} these did not come to their end: "
            f"{', '.join(map(str, failed))}; their words are in {logs}/seed-*.log, and the same "
            "command goes on from here"
        )


def _share_ray(resources: ResourcesConfig, drivers: int) -> None:
    """One Ray for the processes of the seeds, the cluster of ``RAY_ADDRESS`` or one started here:
    each of its own would take a tenth of a core for nothing."""
    if os.environ.get("RAY_ADDRESS"):
        return
    import ray

    from maskdpo_ray.stream import start_ray

    scaled = {key: drivers * getattr(resources, key) for key in ("local_cpus", "object_store_mib")}
    start_ray(resources.model_copy(update=scaled))
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
