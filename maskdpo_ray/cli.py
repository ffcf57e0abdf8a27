"""The ``maskdpo`` command. Settings are read and checked before anything heavy is imported."""

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from maskdpo_ray import __version__
from maskdpo_ray.config import Config, read_config
from maskdpo_ray.errors import UserError
from maskdpo_ray.topics.options import add_topics, read_options

ENGINES = ("ray", "vllm", "torch", "transformers", "deepspeed")  # of the extras `cpu` and `gpu`
REAL = "real"  # the word that names the other demo
DEMO_CONFIG = Path(__file__).parent / "world" / "demo.yaml"

VERBS = {
    "run": "the whole graph: sample, annotate, pair, reference, train, evaluate, report",
    "sample": "K candidates per question",
    "annotate": "a verdict for every sentence of every candidate",
    "pair": "best and worst candidate of each question, with token weights",
    "reference": "log-probabilities of the pairs under the frozen base",
    "train": "masked DPO, for every system of the configuration",
    "evaluate": "sentence score of base, trained systems and further models on held-out topics",
    "best-of-n": "the same answers, as expected best of N",
    "judge-check": "all annotators against human labels in data.train: precision, recall, kappa",
    "report": "report.json and report.html of what is done",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 2 something a person must mend."""
    given = _parse(arguments)
    try:
        if given.verb == "topics":
            options = read_options(given)
            from maskdpo_ray.topics.command import choose_topics

            choose_topics(options)
            return 0
        if given.verb == "knowledge":
            return _knowledge(given.out, given.pages, not given.without_search)
        if given.verb == "annotators":
            return _annotators()
        if given.verb == "import-labels":
            from maskdpo_ray.review.command import write_questions

            write_questions(given.files, given.out)
            return 0
        real = given.verb == "demo" and REAL in given.overrides
        if real:
            from maskdpo_ray.world.countries.demo import prepare, real_config

            config = real_config([each for each in given.overrides if each != REAL])
        elif given.verb == "demo":
            config = read_config(DEMO_CONFIG, given.overrides)
        else:
            config = _config(given.config, given.overrides)
        _refuse_relative_path_in_job(config)
        from maskdpo_ray.driver_lock import DriverLock
        from maskdpo_ray.pipeline import VERBS as PIPELINE
        from maskdpo_ray.stages import Stages
        from maskdpo_ray.storage import Folder

        verb = "run" if given.verb == "demo" else given.verb
        look = verb in ("report", "review")  # while the run goes on
        if look and given.rerun:
            raise UserError(f"a {verb} redoes nothing: remove --rerun")
        with nullcontext() if look else DriverLock(Folder(config.run_dir)):
            if real:
                prepare(config)
            stages = Stages(config, given.rerun, look)
            if verb == "review":
                from maskdpo_ray.review.command import write_answers, write_review

                if given.answers:
                    write_answers(stages)
                else:
                    write_review(stages, given.most, given.doubt)
            else:
                PIPELINE[verb](stages)
    except UserError as error:
        print(f"maskdpo: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name not in ENGINES:
            raise
        print(
            f"maskdpo: {error.name} is not installed: this command needs the engines, "
            "pip install 'maskdpo-ray[gpu]' (or [cpu])",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("maskdpo: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Overrides may stand before and after options: argparse alone takes them in one piece."""
    parser = _parser()
    given, rest = parser.parse_known_args(arguments)
    takes_overrides = "overrides" in given
    bad = [w for w in rest if not takes_overrides or w.startswith("-") or "=" not in w]
    if bad:
        parser.error(f"unrecognized arguments: {' '.join(bad)}")
    if takes_overrides:
        given.overrides += rest
    return given


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="maskdpo", description="Sentence-masked DPO as one job graph on Ray."
    )
    parser.add_argument("--version", action="version", version=f"maskdpo-ray {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, text in VERBS.items():
        sub = verbs.add_parser(verb, help=text, description=text)
        sub.add_argument("config", metavar="CONFIG", help="YAML file, or a run directory")
        _add_common(sub)
    _add_review(verbs)
    demo = verbs.add_parser(
        "demo",
        help="the whole graph on the embedded closed world; needs no download. `demo real`: on a "
        "real model and real facts",
        description="The whole graph on the embedded closed world: no download, no GPU. With the "
        "word `real`: SmolLM2-135M-Instruct asked about countries (docs/real.md).",
    )
    _add_common(demo)
    add_topics(verbs)
    knowledge = verbs.add_parser(
        "knowledge",
        help="a database of pages, from JSON lines, Parquet or a Wikipedia dump",
        description="A database of pages to hold sentences (annotation.knowledge) and facts "
        '(FActScore) against, from rows {"title", "text"} or a Wikipedia dump (pages-articles).',
    )
    knowledge.add_argument("out", metavar="OUT.db", help="the database to make")
    knowledge.add_argument(
        "pages",
        metavar="PAGES",
        nargs="+",
        help=".jsonl, .parquet, .xml, .xml.bz2 or another .db; several are put together",
    )
    knowledge.add_argument(
        "--without-search",
        action="store_true",
        help="no search over all pages: smaller, and every topic needs a page of its title",
    )
    verbs.add_parser("annotators", help="who can annotate, and with which settings")
    return parser


def _annotators() -> int:
    from maskdpo_ray.annotation.registry import annotator_named, known

    for name in known():
        try:
            annotator = annotator_named(name)
        except ValueError as error:  # a package that is broken hides no other
            print(f"{name}: {error}")
            continue
        settings = ", ".join(key for key in annotator.Settings.model_fields if key != "annotator")
        said = (annotator.__doc__ or f"of {annotator.__module__}").partition("\n")[0]
        print(f"{name}: {said} ({settings})")
    return 0


def _add_review(verbs: Any) -> None:
    text = "the sentences that examiners dispute most, for people to label: docs/review.md"
    review = verbs.add_parser("review", help=text, description=text)
    review.add_argument("config", metavar="CONFIG", help="YAML file, or a run directory")
    review.add_argument("--most", type=_positive, default=200, metavar="N", help="sentences (200)")
    review.add_argument(
        "--doubt",
        type=_share,
        default=0.2,
        help="a verdict less confident than 1 - DOUBT is in dispute (0.2)",
    )
    review.add_argument(
        "--answers",
        action="store_true",
        help="instead, pages of all answers: each sentence, its verdict, what is behind it",
    )
    _add_common(review)
    text = "labels that people gave, as questions for judge-check: docs/review.md"
    labels = verbs.add_parser("import-labels", help=text, description=text)
    labels.add_argument("out", metavar="OUT.jsonl", help="the questions to write")
    labels.add_argument(
        "files",
        metavar="FILE",
        nargs="+",
        help="a review file, a Label Studio export, or the public ANAH annotations",
    )


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return value


def _share(text: str) -> float:
    if not 0 <= (value := float(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return value


def _knowledge(out: str, pages: list[str], search: bool) -> int:
    from maskdpo_ray.knowledge.database import build_knowledge

    counts = build_knowledge(out, pages, lambda line: print(line, file=sys.stderr), search)
    made = counts.pop("pages")
    left_out = ", ".join(f"{count} {reason}" for reason, count in counts.items())
    print(f"{out}: {made} pages" + (f"; left out: {left_out}" if left_out else ""))
    return 0


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="settings that replace the file's"
    )
    parser.add_argument(
        "--rerun",
        action="store_true",
        help="take over a run directory of another configuration; "
        "stages that do not depend on the change stay",
    )


def _config(source: str, overrides: list[str]) -> Config:
    """From a configuration file, or from a run directory made before."""
    if not os.path.isdir(source) and "://" not in source:
        return read_config(source, overrides)
    from maskdpo_ray.rundir import read_run_config

    config = read_run_config(source, overrides)
    if config is None:
        raise UserError(f"{source} is no run directory: it holds no config.yaml")
    return config


def _refuse_relative_path_in_job(config: Config) -> None:
    if os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") and not (
        "://" in config.run_dir or os.path.isabs(config.run_dir)
    ):
        raise UserError(
            f"run_dir {config.run_dir!r} is relative, and a submitted job runs in a copy of its "
            "working directory that is deleted afterwards: give an absolute path or a URL"
        )
