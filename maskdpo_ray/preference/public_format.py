"""The public JSONL format of Mask-DPO training data (docs/method.md, section 4).

One pair a line: ``prompt``, ``chosen`` and ``rejected`` are lists of chat messages,
``chosen_item`` and ``rejected_item`` hold the sentences of the answer as ``sents`` and, one for
each, ``type``. A type is coarser than a verdict:

    ok, nofact                    -> no_hallucination -> ok
    contradictory, unverifiable   -> hallucination    -> unverifiable

Written and read back, a pair keeps its texts, its sentences and which of them are correct; whether
an incorrect one contradicts the facts or only lacks support is lost, and so are topic and
document, which the format does not hold.
"""

from typing import Any

from maskdpo_ray.errors import RowRejected
from maskdpo_ray.preference.token_spans import MaskError
from maskdpo_ray.preference.weights import tile_sentences
from maskdpo_ray.records import Candidate, Pair, Question, Sentence, Side, is_correct

VERDICT_OF_TYPE = {"no_hallucination": "ok", "hallucination": "unverifiable"}


def to_public(pair: Pair) -> dict[str, Any]:
    """A pair as one record. Sentences carry no white space around them.

    Raises:
        ValueError: a verdict that is ``error`` or unknown.
    """
    chosen, rejected = pair["chosen"], pair["rejected"]
    return {
        "prompt": [{"role": "user", "content": pair["question"]}],
        "chosen": [{"role": "assistant", "content": chosen["response"]}],
        "chosen_item": _item(chosen),
        "rejected": [{"role": "assistant", "content": rejected["response"]}],
        "rejected_item": _item(rejected),
    }


def _item(side: Side) -> dict[str, list[str]]:
    sentences = side["sentences"]
    return {
        "sents": [side["response"][s["start"] : s["end"]].strip() for s in sentences],
        "type": [
            "no_hallucination" if is_correct(s["verdict"]) else "hallucination" for s in sentences
        ],
    }


def from_public(
    record: dict[str, Any], index: int, language: str = "en", place: str | None = None
) -> Question:
    """A record as a question with two candidates, the chosen one first, their verdicts filled in.

    The topic is the question itself. Token ids come later, from the policy's tokenizer; best and
    worst are found again from the verdicts, as for any other question.

    Args:
        index: of the record in its file, from 0; it makes the ``id`` (``public_id``).
        place: of the record, for errors; by default its line, from 1.

    Raises:
        RowRejected: ``malformed_pair``, naming place and sentence, where a key is missing, the
            prompt is not one user's message, or sentences and types do not fit the answer.
    """
    place = place or f"line {index + 1}"
    question = _message(record, "prompt", "user", place)
    return {
        "id": public_id(index),
        "topic": question,
        "question": question,
        "document": None,
        "language": language,
        "candidates": [
            _candidate(record, name, n, place) for n, name in enumerate(("chosen", "rejected"))
        ],
    }


def public_id(index: int) -> str:
    """The name of a record, which has none of its own: its position in the file, from 0."""
    return f"public-{index:06}"


def _malformed(detail: str) -> RowRejected:
    return RowRejected("malformed_pair", detail)


def _message(record: dict[str, Any], key: str, role: str, place: str) -> str:
    match record.get(key):
        case [{"role": found, "content": str(content)}] if found == role:
            return content
    raise _malformed(
        f"{place}: {key!r} must be a list of one message of role {role!r}; put a system prompt "
        "into model.system_prompt, and leave out conversations of several turns"
    )


def _candidate(record: dict[str, Any], name: str, index: int, place: str) -> Candidate:
    response = _message(record, name, "assistant", place)
    key = f"{name}_item"
    match record.get(key):
        case {"sents": list(sents), "type": list(types)} if len(sents) == len(types) > 0:
            pass
        case _:
            raise _malformed(f"{place}: {key!r} must hold as many 'sents' as 'type', at least 1")
    sentences: list[Sentence] = []
    position = 0
    for number, (sent, kind) in enumerate(zip(sents, types, strict=True)):
        where = f"{place}: sentence {number} of {key!r}"
        if not isinstance(kind, str) or kind not in VERDICT_OF_TYPE:
            raise _malformed(f"{where} has type {kind!r}; known: {', '.join(VERDICT_OF_TYPE)}")
        text = sent.strip() if isinstance(sent, str) else ""
        start = response.find(text, position)
        if not text or start < 0 or response[position:start].strip():
            raise _malformed(
                f"{where} {sent!r} does not stand in the answer where it should, at character "
                f"{position} {response[position : position + 40]!r}: sentences must follow one "
                "another with nothing but white space between"
            )
        position = start + len(text)
        sentences.append(
            {
                "start": start,
                "end": position,
                "verdict": VERDICT_OF_TYPE[kind],
                "detail": f"given as {kind}",
            }
        )
    try:
        tiled = tile_sentences(response, sentences)
    except MaskError as error:
        raise _malformed(f"{place}: {key!r}: {error.detail}") from None
    return {
        "index": index,
        "seed": 0,
        "model": "input",
        "response": response,
        "token_ids": [],
        "finish_reason": "input",
        "decoding": "input",
        "sentences": tiled,
    }
