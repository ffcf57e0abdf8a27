"""Answers that exist already: a file, matched to the test questions, into a store of a run.

One object a row: ``id`` or ``question`` (or both), and ``response``, one answer that is held
against the greedy ones, or ``responses``, a list that is held against the sampled ones (or both).
Where people have labelled an answer, ``sentences`` beside its ``response`` are their labels, as in
a file of questions; in ``responses`` such an answer is an object with both. Other keys are left
alone. A row belongs to the question with its id, or else to all questions with its text.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from maskdpo_ray.engine.chat import check_unicode, end_of_turn_id
from maskdpo_ray.errors import RowRejected, UserError
from maskdpo_ray.preference.token_spans import MaskError
from maskdpo_ray.preference.weights import tile_sentences
from maskdpo_ray.progress import say
from maskdpo_ray.questions import labelled_sentences
from maskdpo_ray.records import VERDICTS, Candidate, Question, Sentence
from maskdpo_ray.rundir import StageStore
from maskdpo_ray.sources import Source

ROWS_PER_PART = 512
NAMED = 5  # unmatched rows that a message names


class Answer(NamedTuple):
    """One answer, and what people say of its sentences, if they do."""

    text: str
    sentences: list[Sentence]


@dataclass(frozen=True)
class Answers:
    """One row of the file; ``place`` says which."""

    place: str
    id: str | None
    question: str | None
    response: Answer | None
    responses: list[Answer]

    @property
    def name(self) -> str:
        """The id, or else the beginning of the question; what no UTF-8 can hold is escaped."""
        name = self.id if self.id is not None else str(self.question).strip()[:80]
        return name.encode("utf-8", "backslashreplace").decode()


def read_answers(path: str) -> Iterator[Answers]:
    """The rows of a file of answers.

    Raises:
        UserError: the file is missing or empty, or a row is not of the form above; names the row.
    """
    found = False
    for place, row in Source(path, what="answer", key="responses").rows():
        found = True
        yield _parse(row, place)
    if not found:
        raise UserError(f"{path} holds no answer")


def _parse(row: dict[str, Any], place: str) -> Answers:
    if type(row.get("id")) is int:
        row["id"] = str(row["id"])
    named = {key: row[key] for key in ("id", "question") if row.get(key) is not None}
    if not named:
        raise UserError(f"{place} has neither 'id' nor 'question': which question does it answer?")
    if "response" not in row and "responses" not in row:
        raise UserError(f"{place} has neither 'response', a text, nor 'responses', a list of texts")
    several = row.get("responses", [])
    if not isinstance(several, list):
        raise UserError(f"{place}: 'responses' must be a list, not {type(several).__name__}")
    if not several and "response" not in row:
        raise UserError(f"{place}: 'responses' is empty; give an answer that was refused as \"\"")
    if row.get("sentences") and "response" not in row:
        raise UserError(f"{place} has 'sentences', which label 'response', and no 'response'")
    for key, text in named.items():
        _check_text(text, key, place)
    response = _answer(row, "response", place) if "response" in row else None
    responses = [
        _answer(given if isinstance(given, dict) else {"response": given}, f"responses[{n}]", place)
        for n, given in enumerate(several)
    ]
    return Answers(place, named.get("id"), named.get("question"), response, responses)


def _answer(given: dict[str, Any], key: str, place: str) -> Answer:
    text = given.get("response")
    _check_text(text, key, place)
    try:
        sentences = labelled_sentences(text, given.get("sentences"), repr(key))
        sentences = tile_sentences(text, sentences)
    except KeyError as error:
        raise UserError(f"{place}: a sentence of {key!r} has no key {error}") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{place}: {error}") from None
    except MaskError as error:
        raise UserError(f"{place}: sentences of {key!r}: {error}") from None
    if wrong := [each["verdict"] for each in sentences if each["verdict"] not in VERDICTS]:
        raise UserError(
            f"{place}: a sentence of {key!r} is labelled {wrong[0]!r}; a label is one of "
            f"{', '.join(VERDICTS)}"
        )
    return Answer(text, sentences)


def _check_text(text: Any, key: str, place: str) -> None:
    if not isinstance(text, str):
        raise UserError(
            f"{place}: {key!r} must be a string, not {type(text).__name__} (an answer that was "
            'refused is "")'
        )


def match(
    answers: Iterable[Answers], questions: Iterable[tuple[str, str]], path: str
) -> tuple[dict[str, Answers], list[str]]:
    """The row of each question that has one, by the question's id; and what belongs to none.

    Args:
        questions: id and text of each.
        path: names the file in errors.

    Raises:
        UserError: no row belongs to a question, or two belong to the same.
    """
    by_text: dict[str, list[str]] = {}
    known = dict(questions)
    for row_id, text in known.items():
        by_text.setdefault(text.strip(), []).append(row_id)
    found: dict[str, Answers] = {}
    unmatched: list[Answers] = []
    for each in answers:
        ids = [each.id] if each.id in known else by_text.get((each.question or "").strip(), [])
        for row_id in ids:
            if row_id in found:
                raise UserError(
                    f"{each.place}: question {row_id!r} is answered in {found[row_id].place} "
                    "already; put all its answers into one 'responses'"
                )
            found[row_id] = each
        if not ids:
            unmatched.append(each)
    if not found:
        first_id, first_text = next(iter(known.items()))
        raise UserError(
            f"{path}: none of its {len(unmatched)} rows answers a test question, by id or by text "
            f"(first row: {unmatched[0].name!r}; first question: id {first_id!r}, {first_text!r})"
        )
    return found, [each.name for each in unmatched]


def import_answers(
    path: str,
    name: str,
    questions: StageStore,
    store: StageStore,
    tokenizer: Any,
    group: int,
    versions: dict,
) -> None:
    """Bring a file of answers into ``store``; nothing to do where that happened already.

    A question without an answer is rejected (``response_missing``). Lines that belong to no
    question are said, counted among the store's counts, and named in its manifest.

    Args:
        name: of the system whose answers they are.
        questions: the finished test questions.
        tokenizer: the policy's, which tells how long answers are; None where there is no policy.

    Raises:
        UserError: see ``read_answers`` and ``match``.
    """
    for line in store.drop_damaged():
        say(line)
    if store.complete and not store.lacks_rows():
        return
    begun = time.perf_counter()
    texts = ((row["id"], row["question"]) for row in questions.rows())
    found, unmatched = match(read_answers(path), texts, path)
    end = tokenizer and end_of_turn_id(tokenizer)
    store.begin(versions)
    ids: list[str] = []
    rows = questions.rows()
    while batch := list(islice(rows, ROWS_PER_PART)):
        outcomes = [_answered(row, found.get(row["id"]), name, tokenizer, end) for row in batch]
        new = [row["id"] for row in batch]
        store.write_outcomes(new, outcomes, group)
        ids += new
    store.finish_rows(ids, time.perf_counter() - begun)
    if unmatched:
        counts = store.manifest()["counts"] | {"unmatched": len(unmatched)}
        store.finish(counts, 0.0, unmatched=unmatched)
        first = ", ".join(map(repr, unmatched[:NAMED]))
        more = ", ..." if len(unmatched) > NAMED else ""
        say(f"{path}: {len(unmatched)} lines answer no test question: {first}{more}")
    if missing := store.rejected_rows():
        first = ", ".join(repr(row["id"]) for row in missing[:NAMED])
        more = ", ..." if len(missing) > NAMED else ""
        say(f"{path}: {len(missing)} test questions have no usable answer: {first}{more}")


def _answered(
    row: Question, answers: Answers | None, name: str, tokenizer: Any, end: int | None
) -> Question | RowRejected:
    if answers is None:
        return RowRejected(
            "response_missing",
            f"question {row['id']!r}: no line has this id or text: add one, with an empty response "
            "where the model gave none",
        )
    greedy = [] if answers.response is None else [answers.response]
    try:
        for each in (*greedy, *answers.responses):
            check_unicode(each.text, answers.place)
    except RowRejected as rejected:
        return rejected
    candidates: list[Candidate] = []
    for index, (text, sentences) in enumerate((*greedy, *answers.responses)):
        ids = [*tokenizer.encode(text, add_special_tokens=False), end] if tokenizer else []
        candidates.append(
            {
                "index": index,
                "seed": 0,
                "model": name,
                "response": text,
                "token_ids": ids,  # for the length alone: nothing is learnt from them
                "finish_reason": "input",
                "decoding": "greedy" if index < len(greedy) else "sampled",
                "sentences": sentences,  # of people; who examines it asks about the same ones
            }
        )
    return {**row, "candidates": candidates}
