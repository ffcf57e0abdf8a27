"""The rows of the graph: one row per question from beginning to end.

A row is a plain dict with the keys of the ``TypedDict`` classes below and is stored under the
Arrow schema of the same stage. Each stage adds to the row what it found out and changes nothing
that stands there already, so a row read back from any stage tells its whole history.
"""

from typing import NotRequired, TypedDict

import pyarrow as pa

from maskdpo_ray.verdicts import (  # noqa: F401 (a row is read with these words)
    CORRECT_VERDICTS,
    ERROR_VERDICT,
    FACT_VERDICTS,
    INCORRECT_VERDICTS,
    JUDGED,
    SKIPPED_VERDICT,
    VERDICTS,
    is_correct,
)

QUESTION_ID = "question_id"  # names the question that a row is of, where one may give several rows
NO_SENTENCE = -1  # owner of a token that stands in no sentence, as the end of turn


class Sentence(TypedDict):
    """One sentence of a response. ``response[start:end]`` is its text, white space included."""

    start: int  # character (code point) offset, inclusive
    end: int  # character offset, exclusive
    verdict: str  # one of VERDICTS, or SKIPPED_VERDICT
    detail: str  # why: the annotator's raw replies, or the reason of an ``error``
    confidence: NotRequired[float | None]  # probability of the verdict, where its annotator tells


class Candidate(TypedDict):
    """One answer of the policy. ``token_ids`` are the truth; ``reasoning + response`` is their
    decoded text, and all but a few figures are of the response alone (``engine/reasoning.py``)."""

    index: int  # position among the K candidates of its question
    seed: int  # sampling seed of this candidate; 0 where the answer came with the input
    model: str  # what wrote the answer
    reasoning: NotRequired[str | None]  # before the response, its markers included
    reasoning_tokens: NotRequired[int | None]  # of token_ids
    response: str
    token_ids: list[int]  # as sampled, end-of-turn token included when it was sampled
    finish_reason: str  # "stop", "length", or "input"
    decoding: str  # "sampled", "greedy", or "input"; of a given test answer what it is held against
    sentences: list[Sentence]  # tile the response; empty until annotated


class Question(TypedDict):
    """What a run starts from."""

    id: str
    topic: str
    question: str
    document: str | None
    language: str  # "en" or "zh"
    prompt_ids: NotRequired[list[int]]  # what the candidates were sampled from; of given ones, too
    candidates: list[Candidate]  # empty until sampled


class Side(TypedDict):
    """One side of a preference pair, aligned per token."""

    index: int  # which candidate
    reasoning: NotRequired[str | None]  # as in Candidate
    response: str
    token_ids: list[int]
    weights: list[float]  # one per token: 1 learns from it, 0 does not, or something between
    owners: list[int]  # one per token: position in ``sentences`` of its own, or NO_SENTENCE
    # One per token: what it weighs in a correct sentence, whatever the side; None: not known.
    correct: NotRequired[list[float] | None]
    sentences: list[Sentence]  # empty where nobody judged: a weighted pair from outside
    # Share of correct sentences among those that count (preference/verdicts.py); None as above.
    score: float | None


class Pair(TypedDict):
    """A preference pair. ``prompt_ids`` are the ids the policy was sampled from."""

    id: str  # that of its question, with "#" and a number where a question may give several
    question_id: str
    topic: str
    question: str
    prompt_ids: list[int]
    chosen: Side
    rejected: Side
    digest: str  # names the token ids of prompt and both responses: the key of the reference
    weight: float  # a factor on the pair's loss, above zero; 1 as a rule
    dropped: list[str]  # with a question's first pair: why others of it were dropped


class Message(TypedDict):
    """One message of a conversation."""

    role: str
    content: str


class LearntSpan(TypedDict):
    """Characters of an answer that are learnt from: ``response[start:end]``."""

    start: int
    end: int
    weight: float  # of each of its tokens
    correct: float | None  # of each of its tokens in the anchor (``Side``); None: not known


class WeightedSide(TypedDict):
    """One answer of a weighted pair as it came: text, token ids, or both, and what is learnt."""

    response: str | None
    token_ids: list[int] | None
    weights: list[float] | None  # one per token id
    owners: list[int] | None  # one per token id, as in Side
    correct: list[float] | None  # one per token id, as in Side
    spans: list[LearntSpan] | None


class WeightedPair(TypedDict):
    """A pair that brings its weights along: nothing of it is selected or judged."""

    id: str
    topic: str
    question: str  # what the user said last; empty where only the prompt's token ids are known
    prompt: list[Message] | None
    prompt_ids: list[int] | None  # this or ``prompt`` is there
    chosen: WeightedSide
    rejected: WeightedSide
    weight: float


class Fact(TypedDict):
    """One atomic fact of a sentence."""

    text: str
    verdict: str  # one of FACT_VERDICTS
    detail: str  # JSON: the verifier's raw reply, the positions of the passages it was shown


class StatedFacts(TypedDict):
    """One sentence of an answer and the facts that it states."""

    start: int  # character (code point) offset, inclusive
    end: int  # character offset, exclusive
    facts: list[Fact]  # empty for a sentence that states nothing
    error: bool  # the fact writer failed on this sentence: nobody knows its facts
    detail: str  # JSON: the fact writer's raw reply and what of it was dropped


class ExaminedAnswer(TypedDict):
    """One answer, fact by fact."""

    index: int  # position among the candidates of its question
    response: str
    decoding: str  # "sampled" or "greedy"
    abstained: bool  # the answer says that it does not know
    # Tile the response; empty where it abstains, or is empty as it never left its reasoning.
    sentences: list[StatedFacts]


class FactRow(TypedDict):
    """A question and its answers, examined fact by fact."""

    id: str
    topic: str
    question: str
    language: str
    answers: list[ExaminedAnswer]


class DuelRow(TypedDict):
    """A question and which of two answers a judge preferred."""

    id: str
    topic: str
    question: str
    response: str  # of the system
    base_response: str
    shown_first: str  # "win", "loss", "tie" or "error": the system's answer stood first
    shown_second: str  # the same where it stood second
    detail: str  # JSON: both replies


class GradedAnswer(TypedDict):
    """A short answer, graded by reference answers."""

    index: int  # position among the candidates of its question
    decoding: str  # "sampled" or "greedy"
    response: str
    grade: str  # "correct", "incorrect", "not_attempted" or "error"
    detail: str  # the judge's raw reply; empty without a judge


class GradedRow(TypedDict):
    """A question, its reference answers, and the grades of the answers to it."""

    id: str
    topic: str
    question: str
    references: list[str]
    answers: list[GradedAnswer]


class TaskRow(TypedDict):
    """A task of lm-evaluation-harness."""

    id: str  # the task's name
    found: str  # JSON: what the harness found


class Rejected(TypedDict):
    """A row that left the graph: kept beside the output, counted under ``reason``."""

    id: str
    reason: str  # a short slug that the report counts by
    detail: str  # names what was wrong with this row, and the remedy


_STRING, _INTS, _FLOATS = pa.string(), pa.list_(pa.int32()), pa.list_(pa.float32())

SENTENCE = pa.struct(
    [
        ("start", pa.int32()),
        ("end", pa.int32()),
        ("verdict", _STRING),
        ("detail", _STRING),
        ("confidence", pa.float32()),
    ]
)
CANDIDATE = pa.struct(
    [
        ("index", pa.int32()),
        ("seed", pa.int64()),
        ("model", _STRING),
        ("reasoning", _STRING),
        ("reasoning_tokens", pa.int32()),
        ("response", _STRING),
        ("token_ids", _INTS),
        ("finish_reason", _STRING),
        ("decoding", _STRING),
        ("sentences", pa.list_(SENTENCE)),
    ]
)
SIDE = pa.struct(
    [
        ("index", pa.int32()),
        ("reasoning", _STRING),
        ("response", _STRING),
        ("token_ids", _INTS),
        ("weights", _FLOATS),
        ("owners", _INTS),
        ("correct", _FLOATS),
        ("sentences", pa.list_(SENTENCE)),
        ("score", pa.float64()),
    ]
)
QUESTION_SCHEMA = pa.schema(
    [
        ("id", _STRING),
        ("topic", _STRING),
        ("question", _STRING),
        ("document", _STRING),
        ("language", _STRING),
        ("prompt_ids", _INTS),
        ("candidates", pa.list_(CANDIDATE)),
    ]
)
PAIR_SCHEMA = pa.schema(
    [
        ("id", _STRING),
        (QUESTION_ID, _STRING),
        ("topic", _STRING),
        ("question", _STRING),
        ("prompt_ids", _INTS),
        ("chosen", SIDE),
        ("rejected", SIDE),
        ("digest", _STRING),
        ("weight", pa.float64()),
        ("dropped", pa.list_(_STRING)),
    ]
)
MESSAGE = pa.struct([("role", _STRING), ("content", _STRING)])
LEARNT_SPAN = pa.struct(
    [
        ("start", pa.int32()),
        ("end", pa.int32()),
        ("weight", pa.float64()),
        ("correct", pa.float64()),
    ]
)
WEIGHTED_SIDE = pa.struct(
    [
        ("response", _STRING),
        ("token_ids", _INTS),
        ("weights", _FLOATS),
        ("owners", _INTS),
        ("correct", _FLOATS),
        ("spans", pa.list_(LEARNT_SPAN)),
    ]
)
WEIGHTED_SCHEMA = pa.schema(
    [
        ("id", _STRING),
        ("topic", _STRING),
        ("question", _STRING),
        ("prompt", pa.list_(MESSAGE)),
        ("prompt_ids", _INTS),
        ("chosen", WEIGHTED_SIDE),
        ("rejected", WEIGHTED_SIDE),
        ("weight", pa.float64()),
    ]
)
FACT = pa.struct([("text", _STRING), ("verdict", _STRING), ("detail", _STRING)])
STATED_FACTS = pa.struct(
    [
        ("start", pa.int32()),
        ("end", pa.int32()),
        ("facts", pa.list_(FACT)),
        ("error", pa.bool_()),
        ("detail", _STRING),
    ]
)
EXAMINED_ANSWER = pa.struct(
    [
        ("index", pa.int32()),
        ("response", _STRING),
        ("decoding", _STRING),
        ("abstained", pa.bool_()),
        ("sentences", pa.list_(STATED_FACTS)),
    ]
)
FACT_SCHEMA = pa.schema(
    [
        ("id", _STRING),
        ("topic", _STRING),
        ("question", _STRING),
        ("language", _STRING),
        ("answers", pa.list_(EXAMINED_ANSWER)),
    ]
)
_DUEL = ("id", "topic", "question", "response", "base_response", "shown_first", "shown_second")
DUEL_SCHEMA = pa.schema([(name, _STRING) for name in (*_DUEL, "detail")])
GRADED_ANSWER = pa.struct(
    [
        ("index", pa.int32()),
        ("decoding", _STRING),
        ("response", _STRING),
        ("grade", _STRING),
        ("detail", _STRING),
    ]
)
GRADED_SCHEMA = pa.schema(
    [
        ("id", _STRING),
        ("topic", _STRING),
        ("question", _STRING),
        ("references", pa.list_(_STRING)),
        ("answers", pa.list_(GRADED_ANSWER)),
    ]
)
NAME_SCHEMA = pa.schema([("id", _STRING)])
TASK_SCHEMA = pa.schema([("id", _STRING), ("found", _STRING)])
# ``id`` is the pair's digest; log-probs for every token of the response, whatever its weight.
REFERENCE_SCHEMA = pa.schema([("id", _STRING), ("chosen", _FLOATS), ("rejected", _FLOATS)])
REJECTED_SCHEMA = pa.schema([("id", _STRING), ("reason", _STRING), ("detail", _STRING)])
