"""Sentence boundaries against those of labelled answers: ours, NLTK's defaults, a plain regex.

    python benchmarks/sentences.py FOLDER

FOLDER holds ``factscore_bio.jsonl`` and ``tofueval.jsonl``. Topics are halved by a hash: our lists
were tuned on errors of the first half only, the second was never looked at.
"""

import argparse
import json
import re
import time
import zlib
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

from nltk.tokenize.punkt import PunktSentenceTokenizer

from maskdpo_ray.annotation.sentences import split_sentences
from maskdpo_ray.preference.token_spans import MaskError
from maskdpo_ray.preference.weights import tile_sentences

UNTRAINED = PunktSentenceTokenizer()
Answer = tuple[str, str, set[int]]  # half, text, where sentences after the first begin


def ours(text: str) -> set[int]:
    return {start for start, _ in split_sentences(text, "en")[1:]}


def nltk_defaults(text: str) -> set[int]:
    return {start for start, _ in list(UNTRAINED.span_tokenize(text))[1:]}


def plain_regex(text: str) -> set[int]:
    return {match.end() for match in re.finditer(r"(?<=[.!?])\s+", text)} - {len(text)}


SPLITTERS = {"ours": ours, "NLTK defaults": nltk_defaults, r"(?<=[.!?])\s+": plain_regex}


def answers(path: Path) -> Iterator[Answer]:
    """Answers whose every part was labelled."""
    for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        half = "held out" if zlib.crc32(row["topic"].encode()) % 2 else "tuned on"
        for candidate in row["candidates"]:
            sentences = candidate["sentences"]
            if not sentences or candidate.get("incomplete"):
                continue
            try:
                tile_sentences(candidate["response"], sentences)
            except MaskError:
                continue
            yield half, candidate["response"], {s["start"] for s in sentences[1:]}


def measure(split: Callable[[str], set[int]], group: list[Answer]) -> str:
    begun = time.perf_counter()
    found = [split(text) for _, text, _ in group]
    seconds = time.perf_counter() - begun
    hits = sum(len(f & human) for f, (_, _, human) in zip(found, group, strict=True))
    precision = hits / sum(map(len, found))
    recall = hits / sum(len(human) for _, _, human in group)
    exact = sum(f == human for f, (_, _, human) in zip(found, group, strict=True)) / len(group)
    f1 = 2 * precision * recall / (precision + recall)
    rate = len(group) / seconds
    return f"{precision:.4f} | {recall:.4f} | {f1:.4f} | {exact:.1%} | {rate:,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    print(f"nltk {version('nltk')}\n")
    columns = ("answers", "topics", "boundaries", "splitter", "precision", "recall", "F1")
    columns += ("answers exactly right", "answers/s")
    print(f"| {' | '.join(columns)} |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in ("factscore_bio", "tofueval"):
        everything = list(answers(folder / f"{name}.jsonl"))
        for half in ("tuned on", "held out"):
            group = [answer for answer in everything if answer[0] == half]
            boundaries = sum(len(human) for _, _, human in group)
            for splitter, split in SPLITTERS.items():
                split(group[0][1])  # what is built once is not timed
                shown = splitter.replace("|", r"\|")
                print(f"| {name} | {half} | {boundaries:,} | `{shown}` | {measure(split, group)} |")


if __name__ == "__main__":
    main()
