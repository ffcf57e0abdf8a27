"""The command line of a job with experiments, and its seeds side by side."""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maskdpo_ray.errors import UserError
from maskdpo_ray.experiments.compare import verdict_counts
from maskdpo_ray.experiments.lab import Lab
from maskdpo_ray.experiments.results import Result
from maskdpo_ray.progress import clock, say

SETTING = re.compile(r"[a-z_]+(\.[\w-]+)*=")


def _nothing(lab: Lab, **options: Any) -> None:
    """No experiment is in want of anything unless it says so."""


@dataclass(frozen=True)
class Experiment:
    """What a job does.

    Attributes:
        run: called with the lab, and with what was given for each option.
        options: name -> keywords of ``add_argument``.
        check: called like ``run``, before any experiment of the job begins; raises ``UserError``
            for what the experiment would lack hours later.
        systems: those that it wants of the configuration.
        makes_rows: it trains on rows that it makes itself, which ``data.limit`` would cut.
    """

    run: Callable[..., Result]
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    check: Callable[..., None] = _nothing
    systems: Sequence[str] = ()
    makes_rows: bool = False

    def given(self, arguments: argparse.Namespace) -> dict[str, Any]:
        """Its own options."""
        return {name: getattr(arguments, name) for name in self.options}


def run_job(description: str, *experiments: Experiment, claims: str | None = None) -> None:
    """Run experiments over the seeds, write their results, print them.

    With ``--at-once`` above one every seed is first brought to its end in a process of its own,
    all on one Ray; what they made is then put together here.

    Args:
        claims: a file for the claims of them all.
    """
    parser, given, settings = _arguments(description, experiments)
    lab = Lab(given.config, given.runs, given.seeds, settings)
    several = given.at_once > 1 and len(given.seeds) > 1
    try:
        for experiment in experiments:
            lab.check(experiment.systems, experiment.makes_rows)
            experiment.check(lab, **experiment.given(given))
        with _logs(lab) as logs:
            if several:
                _run_seeds(lab, given.at_once, logs)
                lab.finished = True
            with _told_to(logs / "together.log" if several else None):
                results = [_timed(experiment, lab, given) for experiment in experiments]
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
        print(f"\n{verdict_counts(every)}\n{lab.folder}/{claims}")


def _arguments(
    description: str, experiments: Sequence[Experiment]
) -> tuple[argparse.ArgumentParser, argparse.Namespace, list[str]]:
    """The options, and the settings wherever they stand."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", metavar="CONFIG", help="e.g. jobs/configs/paper.yaml")
    parser.add_argument("--runs", default="runs/paper", help="folder or URL of runs and results")
    parser.add_argument("--at-once", type=int, default=1, help="seeds that run side by side")
    parser.add_argument("--only-runs", action="store_true", help=argparse.SUPPRESS)
    options = {"seeds": {"type": int, "nargs": "+", "default": [0, 1, 2]}}
    for experiment in experiments:
        options |= experiment.options
    for name, keywords in options.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **_or_settings(keywords))
    given, settings = parser.parse_known_args()
    if wrong := [word for word in settings if word.startswith("-") or "=" not in word]:
        parser.error(f"unrecognized arguments: {' '.join(wrong)}")
    for name, keywords in options.items():
        if keywords.get("nargs") == "+":
            values = getattr(given, name)
            settings += [value for value in values if _is_setting(value)]
            setattr(given, name, [value for value in values if not _is_setting(value)])
    if len(set(given.seeds)) < len(given.seeds):
        parser.error("--seeds: one stands twice, and would count as two trainings: name it once")
    return parser, given, settings


def _or_settings(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """An option of several values takes along the settings behind it: they stay what they are."""
    if keywords.get("nargs") != "+":
        return dict(keywords)
    read = keywords["type"]

    def value(text: str) -> Any:
        return text if _is_setting(text) else read(text)

    value.__name__ = read.__name__  # for argparse's messages
    return {**keywords, "type": value}


def _is_setting(value: Any) -> bool:
    return isinstance(value, str) and SETTING.match(value) is not None


@contextmanager
def _logs(lab: Lab) -> Iterator[Path]:
    """A folder for logs: that of the results, which gets them at the end where it is a URL."""
    if "://" not in str(lab.folder):
        yield Path(str(lab.folder))
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            yield Path(folder)
        finally:
            for log in Path(folder).glob("*.log"):
                lab.folder.write(log.name, log.read_bytes())


@contextmanager
def _told_to(log: Path | None) -> Iterator[None]:
    """Progress goes to this file: every stage of every seed is there already and says so again."""
    if log is None:
        yield
        return
    with open(log, "w", encoding="utf-8") as lines, redirect_stderr(lines):
        yield


def _timed(experiment: Experiment, lab: Lab, given: argparse.Namespace) -> Result:
    begun = time.monotonic()
    result = experiment.run(lab, **experiment.given(given))
    say(f"{result.title}: {clock(time.monotonic() - begun)}")
    return result


def _run_seeds(lab: Lab, at_once: int, logs: Path) -> None:
    """Everything of each seed, in a process and with a log of its own.

    Raises:
        UserError: some seed did not come to its end.
    """
    from maskdpo_ray.stream import share_ray

    # A Ray for each would take a tenth of a core for nothing.
    share_ray(lab.read(lab.seeds[0]).resources, drivers=min(at_once, len(lab.seeds)))
    logs.mkdir(parents=True, exist_ok=True)
    say(f"seeds {', '.join(map(str, lab.seeds))}, {at_once} at once: {logs}/seed-*.log")

    def run(seed: int) -> int:
        log, begun = logs / f"seed-{seed}.log", time.monotonic()
        # The last --seeds counts, and takes along the settings that stand behind the first.
        alone = ["--only-runs", *lab.settings, "--at-once", "1", "--seeds", str(seed)]
        with open(log, "a", encoding="utf-8") as lines:
            done = subprocess.run(
                [sys.executable, *sys.argv, *alone],
                stdout=lines,
                stderr=subprocess.STDOUT,
                check=False,
            )
        how = "done" if done.returncode == 0 else f"failed, see {lab.folder / log.name}"
        say(f"seed {seed} {how} after {clock(time.monotonic() - begun)}")
        return done.returncode

    with ThreadPoolExecutor(at_once) as pool:
        codes = list(pool.map(run, lab.seeds))
    if failed := [seed for seed, code in zip(lab.seeds, codes, strict=True) if code]:
        raise UserError(
            f"of seeds {', '.join(map(str, lab.seeds))} these did not come to their end: "
            f"{', '.join(map(str, failed))}; their words are in {lab.folder}/seed-*.log, and the "
            "same command goes on from here"
        )
