"""Labels that people gave to sentences, read from the forms that they come in.

A review file with ``label`` filled in; a Label Studio export (JSON, or JSON-MIN, whose rows are
those of the review with the choice beside them); the public ANAH annotations (``anah.py``).
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from maskdpo_ray.errors import UserError
from maskdpo_ray.review import anah
from maskdpo_ray.review.label_studio import LABEL, WORDS, is_task, labels_of
from maskdpo_ray.sources import Source

NEEDED = {"question_id": str, "question": str, "response": str, "start": int, "end": int}


class Labelled(NamedTuple):
    """A labelled sentence of an answer."""

    row: dict[str, Any]  # keys of ``NEEDED``, and those of a question that it came with
    verdict: str

    @property
    def key(self) -> tuple[str, str]:
        """What the label is of: a question, and the sentence in whichever answers say it."""
        start, end = self.row["start"], self.row["end"]
        return self.row["question_id"], self.row["response"][start:end].strip()


def read_labels(path: str) -> tuple[list[Labelled], Counter[str]]:
    """The labels of a file, and how many rows or sentences gave none, by reason.

    Raises:
        UserError: the file cannot be read or is of no form that is known, or a label is no verdict.
    """
    labels: list[Labelled] = []
    without: Counter[str] = Counter()
    for place, row in Source(path, what="row", key="labels").rows():
        if anah.is_annotated(row):
            for sentence in anah.sentences(row):
                if isinstance(sentence, str):
                    without[sentence] += 1
                else:
                    labels.append(Labelled(*sentence))
            continue
        data = row["data"] if is_task(row) else row
        if missing := [key for key in NEEDED if key not in data]:
            raise UserError(
                f"{place} has no {missing[0]!r}: give a file of `maskdpo review`, what Label "
                "Studio exports of its tasks as JSON, or the public ANAH annotations"
            )
        _check(data, place)
        found = labels_of(row) if is_task(row) else {row.get(LABEL)} - {None}
        found = {str(label).strip().lower() for label in found} - {""}
        if bad := sorted(found - set(WORDS)):
            raise UserError(f"{place} is labelled {bad[0]!r}; a label is one of {', '.join(WORDS)}")
        if len(found) == 1:
            labels.append(Labelled(data, found.pop()))
        else:
            without["labelled differently" if found else "not labelled"] += 1
    return labels, without


def _check(row: dict[str, Any], place: str) -> None:
    """Raise ``UserError`` unless the row names a sentence of its response."""
    for key, kind in NEEDED.items():
        if type(row[key]) is not kind:
            of = type(row[key]).__name__
            raise UserError(f"{place}: {key!r} must be {kind.__name__}, not {of}")
    start, end, length = row["start"], row["end"], len(row["response"])
    if not 0 <= start < end <= length:
        raise UserError(
            f"{place}: no sentence of {length} characters of response stands at {start}:{end}: "
            "leave start, end and response as `maskdpo review` wrote them"
        )


def verdict_of_each(labels: Iterable[Labelled]) -> dict[tuple[str, str], str]:
    """The label of every (question id, sentence).

    Raises:
        UserError: a sentence has two labels.
    """
    found: dict[tuple[str, str], str] = {}
    for label in labels:
        if found.setdefault(label.key, label.verdict) != label.verdict:
            question, sentence = label.key
            raise UserError(
                f"question {question!r}: {sentence!r} is labelled {found[label.key]!r} and "
                f"{label.verdict!r}: settle on one"
            )
    return found


def as_questions(labels: Iterable[Labelled]) -> Iterator[dict[str, Any]]:
    """Rows of a question file (docs/data.md) whose candidates are the labelled answers, for
    ``maskdpo judge-check``: a question once, each of its answers with the sentences labelled."""
    questions: dict[str, dict[str, Any]] = {}
    answers: dict[str, dict[str, dict[str, Any]]] = {}
    for row, verdict in labels:
        key = row["question_id"]
        keys = ("topic", "question", "document", "language")
        given = {name: row[name] for name in keys if row.get(name) is not None}
        questions.setdefault(key, {"id": key, **given})
        answer = answers.setdefault(key, {}).setdefault(
            row["response"], {"response": row["response"], "model": row.get("system") or "unknown"}
        )
        sentences = answer.setdefault("sentences", [])
        sentences.append({"start": row["start"], "end": row["end"], "label": verdict})
    for key, question in questions.items():
        candidates = list(answers[key].values())
        for candidate in candidates:
            candidate["sentences"].sort(key=lambda sentence: sentence["start"])
        yield {**question, "candidates": candidates}


def digest(verdicts: dict[tuple[str, str], str]) -> str:
    """A name for these labels, in whatever order they came."""
    text = repr(sorted(verdicts.items()))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
