"""The command line of ``maskdpo topics``."""

import argparse
from typing import Any

import yaml
from pydantic import ValidationError

from maskdpo_ray.config import TopicsConfig, parse_yaml
from maskdpo_ray.config.errors import explain
from maskdpo_ray.errors import UserError

TEXT = "the topics of a pool that are worth annotating for the questions one cares about"


def add_topics(verbs: Any) -> None:
    """Add the verb to those of a parser. Defaults are those of ``TopicsConfig``."""
    parser = verbs.add_parser(
        "topics",
        help=TEXT,
        description=f"Choose {TEXT}: docs/topics.md.",
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument
    add("pool", metavar="POOL", help="questions to choose from: as data.train (docs/data.md)")
    add("--for", required=True, metavar="TARGET", help="the questions one cares about")
    add("--budget", required=True, type=int, metavar="N", help="topics to choose")
    add("--out", required=True, metavar="FILE.jsonl", help="the chosen topics' questions")
    add("--model", help="the policy, or any model that embeds texts: folder, URL or hub id")
    add("--revision", help="branch, tag or commit of the model on the hub")
    add("--trust-remote-code", action="store_true")
    add("--dtype", help="bfloat16 (default on a GPU) or float32 (default on a CPU)")
    add("--embedding", help="policy (default), or random: the baseline")
    add("--seed", type=int, help="of --embedding random")
    add("--pooling", help="framed, mean, mean_all or last: docs/topics.md")
    add("--layer", type=int, help="hidden states of this layer; the last if left out")
    add("--text", help="what is embedded: topic (default) or topic+questions")
    add("--diversity", type=float, metavar="L", help="from 0 (default): nearest, to 1: unlike")
    add(
        "--column",
        action="append",
        metavar="OURS=THEIRS",
        help="a field under another name, e.g. topic=entity",
    )


def read_options(given: argparse.Namespace) -> TopicsConfig:
    """What was given, checked.

    Raises:
        UserError: an option has a value that it cannot have, or would have no effect.
    """
    values = {key: value for key, value in vars(given).items() if key not in ("verb", "column")}
    for key in ("pool", "for"):
        values[key] = _source(values[key])
    values["columns"] = dict(map(_column, getattr(given, "column", [])))
    try:
        return TopicsConfig.model_validate(values)
    except ValidationError as error:
        problems = [explain(problem, TopicsConfig, "--") for problem in error.errors()]
        raise UserError("; ".join(p.removeprefix("--: ") for p in problems)) from None


def _source(text: str) -> Any:
    """A path, or a mapping as in a configuration: ``{path: owner/name, split: validation}``."""
    if not text.startswith("{"):
        return text
    try:
        return parse_yaml(text)
    except yaml.YAMLError:
        raise UserError(f"{text!r} is no YAML mapping, e.g. {{path: owner/name}}") from None


def _column(text: str) -> tuple[str, str]:
    ours, separator, theirs = text.partition("=")
    if not separator or not ours or not theirs:
        raise UserError(f"--column {text!r} must read OURS=THEIRS, e.g. topic=entity")
    return ours, theirs
