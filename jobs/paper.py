"""All six tables of the paper, and its claims one by one: reproduced or not, with figures.

    python jobs/paper.py CONFIG [--seeds 0 1 2] [--at-once 2] [--runs runs/paper] [key=value ...]
    make paper        # on the closed world

Seeds are run ``--at-once``, each in a process of its own with its own log (``RUNS/seed-N.log``);
what they made is then put together: ``tableN.json``, ``.md`` and ``.svg``, and ``claims.json``. A
job that is started again goes on where it stopped. All share one Ray: the cluster of
``RAY_ADDRESS``, or one that is started here.
"""

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, redirect_stderr
from pathlib import Path

import table1
import table2
import table3
import table4
import table5
import table6

from maskdpo_ray.config import ResourcesConfig
from maskdpo_ray.experiments.lab import job_parser, lab_of, told_in_one_line
from maskdpo_ray.progress import clock, say

TABLES = (table1, table2, table3, table4, table5, table6)


def share_ray(resources: ResourcesConfig, drivers: int) -> None:
    """One Ray for the processes of the seeds: each of its own would keep a core a sixth busy."""
    if os.environ.get("RAY_ADDRESS"):
        return
    import ray

    from maskdpo_ray.stream import start_ray

    scaled = {key: drivers * getattr(resources, key) for key in ("local_cpus", "object_store_mib")}
    start_ray(resources.model_copy(update=scaled))
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address


def run_seed(seed: int, given: argparse.Namespace, settings: list[str]) -> int:
    """Everything of one seed, in a process of its own; its exit status."""
    command = [sys.executable, __file__, given.config, "--only-runs", "--seeds", str(seed)]
    log = Path(given.log_folder) / f"seed-{seed}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    with open(log, "a", encoding="utf-8") as lines:
        done = subprocess.run(
            [*command, "--runs", given.runs, *settings],
            stdout=lines, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
    how = "done" if done.returncode == 0 else f"failed, see {log}"
    say(f"seed {seed} {how} after {clock(time.monotonic() - begun)}")
    return done.returncode


def main() -> None:
    parser = job_parser(__doc__)
    parser.add_argument("--at-once", type=int, default=2, help="seeds that run side by side")
    parser.add_argument("--log-folder", help="of the seeds' logs; RUNS where that is a folder")
    parser.add_argument("--only-runs", action="store_true", help=argparse.SUPPRESS)
    given, settings = parser.parse_known_args()
    lab = lab_of(parser, given, settings)
    if given.log_folder is None:
        given.log_folder = "runs" if "://" in given.runs else given.runs
    if not given.only_runs:
        with told_in_one_line(parser):
            share_ray(lab.read(given.seeds[0]).resources, min(given.at_once, len(given.seeds)))
        with ThreadPoolExecutor(given.at_once) as pool:
            codes = list(pool.map(lambda seed: run_seed(seed, given, settings), given.seeds))
        if any(codes):
            sys.exit("not every seed came to its end: the same command goes on from here")
    begun = time.monotonic()
    results = []
    with ExitStack() as stack:
        stack.enter_context(told_in_one_line(parser))
        if not given.only_runs:  # every stage of every run is there and says so again
            together = open(Path(given.log_folder) / "together.log", "w", encoding="utf-8")
            stack.enter_context(redirect_stderr(stack.enter_context(together)))
        for table in TABLES:
            results.append(table.experiment(lab))
            say(f"{results[-1].title}: {clock(time.monotonic() - begun)}")
    if given.only_runs:
        return
    for result in results:
        result.write(lab.folder)
        print(f"\n{result.text()}")
    claims = [claim for result in results for claim in result.claims]
    lab.folder.write_json("claims.json", claims)
    print(f"\n{len(claims)} claims: {lab.folder}/claims.json")


if __name__ == "__main__":
    main()
