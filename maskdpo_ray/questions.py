"""Questions in: rows of a source, checked one by one, into the first store of a run.

A row holds ``question`` and optionally ``id``, ``topic``, ``document``, ``language`` (``en`` unless
said) and ``candidates``, a list of ``{"response", "model"?, "token_ids"?, "finish_reason"?,
"sentences"?}`` whose sentences are ``{"start", "end", "label"}``. Other keys are left alone. A row
without ``id`` is named by its content. The topic of a row without one, or with a blank one, is the
opening of its document, so that the questions about a document stay together; without a document it
is the question itself (the released evaluation's input need have neither id nor topic).
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from maskdpo_ray.config import ColumnsConfig, DataConfig
from maskdpo_ray.digests import fingerprint
from maskdpo_ray.errors import RowRejected, UserError
from maskdpo_ray.preference.public_format import from_public, public_id
from maskdpo_ray.preference.weighted_format import from_weighted
from maskdpo_ray.progress import say
from maskdpo_ray.records import Candidate, Question, Sentence, WeightedPair
from maskdpo_ray.rundir import StageStore
from maskdpo_ray.sources import Source
from maskdpo_ray.splits import comparable, part_of
from maskdpo_ray.texts import LANGUAGES, is_blank

ROWS_PER_PART = 512
OPENING = 100  # characters of a document that may name its topic

Outcome = tuple[str, Question | RowRejected]
FINISH_REASONS = ("stop", "length")  # of what was sampled: whether it ended or was cut


def read_questions(
    source: Source | str | Path,
    limit: int | None = None,
    wanted: Callable[[str], bool] | None = None,
) -> Iterator[Outcome]:
    """Each row's id with the row, or with the reason why it cannot be used.

    Args:
        limit: read this many rows at most.
        wanted: of the rows read, only those whose topic it takes.

    Raises:
        UserError: the source is missing, empty or not what its name says, a key is missing or has
            the wrong type, or an id stands twice; the message names the row.
    """
    if not isinstance(source, Source):
        source = Source(source, ColumnsConfig())
    seen: dict[str, str] = {}
    for place, record in islice(source.rows(), limit):
        row = _checked(record, place)
        # What cannot be written cannot name a row: it leaves the run under its escaped form.
        row_id = _writable(row["id"])
        if row_id in seen:
            if record.get("id") is not None or record.get("candidates"):
                raise UserError(
                    f"{place}: id {row_id!r} stands in {seen[row_id]} already; "
                    "give every question its own id"
                )
            # Named by its content, it says nothing new; files of questions alone repeat some.
            if wanted is None or wanted(row["topic"]):
                again = fingerprint(row_id, place.removeprefix(f"{source} "))
                yield again, RowRejected("repeated", f"{place}: the same as {seen[row_id]}")
            continue
        seen[row_id] = place.removeprefix(f"{source} ")
        if wanted is None or wanted(row["topic"]):
            yield row_id, _normalise(row, place)
    if not seen:
        raise UserError(f"{source} holds no question")


def row_id(record: dict[str, Any], place: str) -> str:
    """The id under which a record becomes a question.

    Raises:
        UserError: as ``read_questions``.
    """
    return _writable(_checked(record, place)["id"])


def _checked(record: dict[str, Any], place: str) -> dict[str, Any]:
    """The record with an id and a topic, its texts known to be texts."""
    optional = ("topic", "document", "language")
    row = {key: value for key, value in record.items() if key not in optional or value is not None}
    if isinstance(topic := row.get("topic"), str) and is_blank(topic):
        del row["topic"]  # one blank name for all would make them one topic
    if isinstance(row.get("id"), int) and not isinstance(row["id"], bool):
        row["id"] = str(row["id"])
    for key in ("question", "id", "topic", "document", "language"):
        if key in row and not isinstance(row[key], str):
            raise UserError(f"{place}: {key!r} must be a string, not {type(row[key]).__name__}")
    if "id" not in row:
        named = (row.get("topic", row["question"]), row["question"], row.get("document") or "")
        row["id"] = fingerprint(*map(_writable, named))
    if is_blank(row["id"]):
        raise UserError(f"{place}: 'id' is empty; give every question its own id")
    if "topic" not in row:
        row["topic"] = _opening(row.get("document") or "") or row["question"]
    return row


def _opening(document: str) -> str:
    """The first line of a document that is not blank, or what fits of it."""
    first = next(filter(None, map(str.strip, document.splitlines())), "")
    return first[:OPENING].rstrip()


def _writable(text: str) -> str:
    """The text, what no UTF-8 can hold escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def _normalise(row: dict[str, Any], place: str) -> Question | RowRejected:
    language = row.get("language") or "en"
    if language not in LANGUAGES:
        return RowRejected(
            "unknown_language", f"{place}: language {language!r}; known: {', '.join(LANGUAGES)}"
        )
    given = row.get("candidates") or []
    try:
        if not isinstance(given, list):
            raise TypeError(f"'candidates' must be a list, not {type(given).__name__}")
        candidates = [_candidate(index, each) for index, each in enumerate(given)]
    except KeyError as error:
        return RowRejected("malformed_candidate", f"{place}: a candidate has no key {error}")
    except (TypeError, ValueError) as error:
        return RowRejected("malformed_candidate", f"{place}: {error}")
    return _readable(
        {
            "id": row["id"],
            "topic": row["topic"],
            "question": row["question"],
            "document": row.get("document"),
            "language": language,
            "candidates": candidates,
        },
        place,
    )


def _readable(row: Question, place: str) -> Question | RowRejected:
    """The row, unless it has nothing to ask or text that is no Unicode."""
    texts = [row["id"], row["topic"], row["question"], row["document"] or ""]
    for candidate in row["candidates"]:
        texts += [candidate["response"], candidate["model"]]
        texts += [sentence["verdict"] for sentence in candidate["sentences"]]
    if any("\ud800" <= char <= "\udfff" for text in texts for char in text):
        return RowRejected("not_unicode", f"{place}: a lone surrogate; re-encode the text")
    if is_blank(row["question"]):
        return RowRejected("empty_question", f"{place}: the question is empty")
    return row


def _candidate(index: int, given: Any) -> Candidate:
    if not isinstance(given, dict):
        raise TypeError(f"candidate {index} must be an object, not {type(given).__name__}")
    response = _typed(given["response"], str, f"response of candidate {index}")
    return {
        "index": index,
        "seed": 0,
        "model": _typed(given.get("model") or "input", str, f"model of candidate {index}"),
        "response": response,
        "token_ids": _token_ids(given.get("token_ids"), f"candidate {index}"),
        "finish_reason": _finish_reason(given.get("finish_reason"), f"candidate {index}"),
        "decoding": "input",
        "sentences": labelled_sentences(response, given.get("sentences"), f"candidate {index}"),
    }


def _token_ids(given: Any, of: str) -> list[int]:
    """The ids that an answer was sampled as, its end of turn included; empty where none came."""
    token_ids = _typed(given or [], list, f"token_ids of {of}")
    for token in token_ids:
        if _typed(token, int, f"a token id of {of}") not in range(2**31):
            raise ValueError(f"{of} has the token id {token}")
    return token_ids


def _finish_reason(given: Any, of: str) -> str:
    if given not in (None, *FINISH_REASONS):
        raise ValueError(f"finish_reason of {of} is {given!r}; one of {', '.join(FINISH_REASONS)}")
    return given or "input"


def labelled_sentences(response: str, given: Any, of: str) -> list[Sentence]:
    """The sentences of a response that come with a label, ``{"start", "end", "label"}`` each, and
    ``confidence`` where who labelled tells it; none where they are all as exported
    (``sampling.export``), without a label.

    Args:
        given: their list; None and an empty one are no labels.
        of: names the response in errors.

    Raises:
        KeyError, TypeError, ValueError: a sentence lacks a key, or has a wrong type or place.
    """
    sentences = _typed(given or [], list, f"sentences of {of}")
    for sentence in sentences:
        _typed(sentence, dict, f"a sentence of {of}")
    if all("text" in each and each.get("label") is None for each in sentences):
        return []  # as they are exported
    for sentence in sentences:
        _typed(sentence["label"], str, f"a label of {of}")
        for end in ("start", "end"):
            _typed(sentence[end], int, f"{end} of a sentence of {of}")
        if not 0 <= sentence["start"] <= sentence["end"] <= len(response):
            raise ValueError(
                f"{of} of {len(response)} characters has a sentence at "
                f"{sentence['start']}:{sentence['end']}"
            )
        sure = sentence.get("confidence")
        if not (sure is None or type(sure) in (int, float) and 0 <= sure <= 1):
            raise ValueError(f"{of} has a label of confidence {sure!r}: a number from 0 to 1")
    return [
        {
            "start": sentence["start"],
            "end": sentence["end"],
            "verdict": sentence["label"],
            "detail": "given with the input",
            **_confidence(sentence),
        }
        for sentence in sentences
    ]


def _confidence(sentence: Mapping[str, Any]) -> dict[str, float]:
    """Of a label, where it is known."""
    sure = sentence.get("confidence")
    return {} if sure is None else {"confidence": float(sure)}


def _typed(value: Any, kind: type, what: str) -> Any:
    """The value, if it is of its kind: text made of something else would be trained on."""
    if type(value) is not kind:
        raise TypeError(f"{what} must be {kind.__name__}, not {type(value).__name__}")
    return value


def as_input(row: Question) -> dict[str, Any]:
    """A question as it may stand in a JSONL file: read again, it is the same question."""
    given = {key: value for key, value in row.items() if value is not None and value != []}
    if row["candidates"]:
        given["candidates"] = [
            {
                "response": candidate["response"],
                "model": candidate["model"],
                **_as_sampled(candidate),
                "sentences": [
                    {
                        "start": each["start"],
                        "end": each["end"],
                        "label": each["verdict"],
                        **_confidence(each),
                    }
                    for each in candidate["sentences"]
                ],
            }
            for candidate in row["candidates"]
        ]
    return given


def _as_sampled(candidate: Candidate) -> dict[str, Any]:
    """What a text does not tell: the ids it was sampled as, and whether it was cut."""
    found: dict[str, Any] = {}
    if candidate["token_ids"]:
        found["token_ids"] = candidate["token_ids"]
    if candidate["finish_reason"] in FINISH_REASONS:
        found["finish_reason"] = candidate["finish_reason"]
    return found


def read_pairs(source: Source | str | Path, limit: int | None = None) -> Iterator[Outcome]:
    """Preference pairs in the public format, as questions with two labelled candidates.

    Raises:
        UserError: the source is missing or empty.
    """
    if not isinstance(source, Source):
        source = Source(source, what="pair")
    count = 0
    for place, record in islice(source.rows(), limit):
        row_id = public_id(count)
        try:
            row = from_public(record, count, place=place)
            yield row_id, _readable(row, f"{place}, pair {row_id!r}")
        except RowRejected as rejected:
            yield row_id, rejected
        count += 1
    if not count:
        raise UserError(f"{source} holds no pair")


def read_weighted(
    source: Source | str | Path, limit: int | None = None
) -> Iterator[tuple[str, WeightedPair | RowRejected]]:
    """Weighted pairs, each under its own id or else its position in the source.

    Raises:
        UserError: the source is missing or empty.
    """
    if not isinstance(source, Source):
        source = Source(source, what="pair")
    seen: dict[str, str] = {}
    count = 0
    for place, record in islice(source.rows(), limit):
        row_id, problem = _pair_id(record.get("id"), count)
        count += 1
        if row_id in seen:
            again = fingerprint(row_id, place)
            detail = f"{place}: id {row_id!r} stands in {seen[row_id]} already: give it its own"
            yield again, RowRejected("repeated_id", detail)
            continue
        seen[row_id] = place
        if problem:
            yield row_id, RowRejected("malformed_pair", f"{place}: {problem}")
            continue
        try:
            yield row_id, from_weighted(record, row_id, place)
        except RowRejected as rejected:
            yield row_id, rejected
    if not count:
        raise UserError(f"{source} holds no pair")


def _pair_id(given: Any, position: int) -> tuple[str, str | None]:
    """What a pair is called, and what is wrong with the name that it came with."""
    own = f"pair-{position:06}"
    if given is None:
        return own, None
    if type(given) not in (str, int):
        return own, f"'id' must be a string, not {type(given).__name__}"
    name = _writable(str(given))
    return (
        (name, None) if not is_blank(name) else (own, "'id' is empty; leave it out, or give a name")
    )


def source_of(data: DataConfig, split: str) -> Source:
    """Where the questions, or pairs, of ``train`` or ``test`` are read.

    Raises:
        UserError: the configuration names none.
    """
    given = data.source(split)
    if given is None:
        raise UserError(f"data.{split} is missing: a file or data set of questions")
    key = f"data.{'train' if data.split else split}"
    if split == "train" and data.brings_pairs:
        return Source(given, None, "train", "pair", key)
    columns_key = f"{key}.columns" if given.columns else "data.columns"
    default = "train" if data.split else split
    return Source(given, given.columns or data.columns, default, "question", key, columns_key)


def import_questions(
    source: Source | str,
    data: DataConfig,
    store: StageStore,
    group: int,
    versions: dict,
    split: str = "train",
) -> None:
    """Bring the questions of ``train`` or ``test`` into ``store``; nothing to do where that
    happened already.

    Raises:
        UserError: the source cannot be used, or holds no topic for this part of a split.
    """
    for line in store.drop_damaged():
        say(line)
    if store.complete and not store.lacks_rows():
        return
    begun = time.perf_counter()
    ids: list[str] = []
    rows = _read(source, data, split)
    while batch := list(islice(rows, ROWS_PER_PART)):
        if not ids:  # a file that is refused at its head leaves no trace
            store.begin(versions)
        new = [row_id for row_id, _ in batch]
        store.write_outcomes(new, [row for _, row in batch], group)
        ids += new
    if not ids:
        raise UserError(
            f"data.split: none of the topics of {source} falls to {split} with a test share of "
            f"{data.split.test:g}: choose another share or seed"
        )
    store.finish_rows(ids, time.perf_counter() - begun)


def _read(source: Source | str, data: DataConfig, split: str) -> Iterator[Outcome]:
    if split == "train" and data.brings_pairs:
        read = read_weighted if data.format == "weighted_pairs" else read_pairs
        return read(source, data.limit)
    taken = data.split
    wanted = taken and (lambda topic: part_of(topic, taken) == split)
    return read_questions(source, data.limit, wanted)


def usable_questions(data: DataConfig, split: str) -> Iterator[Question]:
    """The questions of ``train`` or ``test`` as a run imports them, those it rejects left out.

    Raises:
        UserError: the source cannot be used.
    """
    rows = _read(source_of(data, split), data, split)
    return (row for _, row in rows if not isinstance(row, RowRejected))


def check_disjoint(
    train: Iterable[Question], test: Iterable[Question], split: bool = False
) -> None:
    """No topic and no question of the test rows may be trained on (paper, section 2.2).

    Args:
        train, test: rows with their id, topic and question.
        split: both come from one source, by topic.

    Raises:
        UserError: names what overlaps.
    """
    trained_on: dict[str, set[str]] = {"topic": set(), "question": set()}
    for row in train:  # of many rows, with documents and answers perhaps, none is kept
        for what, known in trained_on.items():
            known.add(comparable(row[what]))
    tested_on = list(test)
    for what, known in trained_on.items():
        shared = [row for row in tested_on if comparable(row[what]) in known]
        if not shared:
            continue
        example = f"first {shared[0][what]!r} (id {shared[0]['id']})"
        if split:
            raise UserError(
                f"data.split: {len(shared)} test rows share a {what} with training rows of "
                f"another topic, {example}; give rows with one {what} one topic"
            )
        raise UserError(
            f"data.test: {len(shared)} rows share a {what} with data.train, {example}; "
            "remove them from one file"
        )
