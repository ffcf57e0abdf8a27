"""Answers that exist already: a file, matched to the test questions, into a store of a run.

One object a row: ``id`` or ``question`` (or both), and ``response``, one answer that is held
against the greedy ones, or ``responses``, a list that is held against the sampled ones (or both).
Where people have labelled an answer, ``sentences`` beside its ``response`` are their labels, as in
a file of questions; in ``responses`` such an answer is an object with both. ``candidates`` is
another name of ``responses``, so that a file of labelled questions is one of answers too. Other
keys are left alone. A row belongs to the question with its id, or else to all questions with its
text.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from maskdpo_ray.engine.chat import check_unicode, end_of_turn_id
from maskdpo_ray.engine.reasoning import read_text
from maskdpo_ray.errors import RowRejected, UserError
from maskdpo_ray.preference.token_spans import MaskError
from maskdpo_ray.preference.weights import tile_sentences
from maskdpo_ray.progress import say
from maskdpo_ray.questions import labelled_sentences
from maskdpo_ray.records import VERDICTS, Candidate, Question, Sentence
from maskdpo_ray.rundir import StageStore
from maskdpo_ray.sampling.given import shifted
from maskdpo_ray.sources import Source

ROWS_PER_PART = 512
NAMED = 5  # unmatched rows that a message names


class Answer(NamedTuple):
    """One answer, and what people say of its sentences, if they do."""

    text: str
    sentences: list[Sentence]
    left_out: str = ""  # why labels that it came with are not among them


@dataclass(frozen=True)
class Answers:
    """One row of the file; ``place`` says which."""

    place: str
    id: str | None
    question: str | None
    response: Answer | None
    responses: list[Answer]

    @property
    def every(self) -> list[Answer]:
        return [*([self.response] if self.response else []), *self.responses]

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
    list_key = "responses" if "responses" in row or "candidates" not in row else "candidates"
    if "response" not in row and list_key not in row:
        raise UserError(f"{place} has neither 'response', a text, nor 'responses', a list of texts")
    several = row.get(list_key, [])
    if not isinstance(several, list):
        raise UserError(f"{place}: {list_key!r} must be a list, not {type(several).__name__}")
    if not several and "response" not in row:
        raise UserError(f'{place}: {list_key!r} is empty; give an answer that was refused as ""')
    if row.get("sentences") and "response" not in row:
        raise UserError(f"{place} has 'sentences', which label 'response', and no 'response'")
    for key, text in named.items():
        _check_text(text, key, place)
    response = _answer(row, "response", place) if "response" in row else None
    responses = [
        _answer(
            given if isinstance(given, dict) else {"response": given}, f"{list_key}[{n}]", place
        )
        for n, given in enumerate(several)
    ]
    return Answers(place, named.get("id"), named.get("question"), response, responses)


def _answer(given: dict[str, Any], key: str, place: str) -> Answer:
    text = given.get("response")
    _check_text(text, key, place)
    try:
        sentences = labelled_sentences(text, given.get("sentences"), repr(key))
    except KeyError as error:
        raise UserError(f"{place}: a sentence of {key!r} has no key {error}") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{place}: {error}") from None
    if wrong := [each["verdict"] for each in sentences if each["verdict"] not in VERDICTS]:
        raise UserError(
            f"{place}: a sentence of {key!r} is labelled {wrong[0]!r}; a label is one of "
            f"{', '.join(VERDICTS)}"
        )
    try:
        return Answer(text, tile_sentences(text, sentences))
    except MaskError as error:  # as with labelled questions, one answer does not stop the others
        return Answer(text, [], f"{place}: sentences of {key!r}: {error}")


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
    left_out = [each.left_out for row in found.values() for each in row.every if each.left_out]
    more_counts = {"unmatched": len(unmatched), "answers without their labels": len(left_out)}
    if more_counts := {what: count for what, count in more_counts.items() if count}:
        store.finish(store.manifest()["counts"] | more_counts, 0.0, unmatched=unmatched)
    if left_out:
        say(f"{path}: labels of {len(left_out)} answers are left out, the first: {left_out[0]}")
    if unmatched:
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
    try:
        for each in answers.every:
            check_unicode(each.text, answers.place)
    except RowRejected as rejected:
        return rejected
    candidates: list[Candidate] = []
    for index, (text, sentences, _) in enumerate(answers.every):
        answer = read_text(text)
        ids = [*tokenizer.encode(text, add_special_tokens=False), end] if tokenizer else []
        candidates.append(
            {
                "index": index,
                "seed": 0,
                "model": name,
                "reasoning": answer.reasoning,
                "response": answer.response,
                "token_ids": ids,  # for the length alone: nothing is learnt from them
                "finish_reason": "input",
                "decoding": "greedy" if answers.response and not index else "sampled",
                # Of people; who examines it asks about the same ones.
                "sentences": shifted(sentences, len(answer.reasoning)),
            }
        )
    return {**row, "candidates": candidates}
