"""Annotated answers as arrays of counts, one entry per response."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from maskdpo_ray.evaluation.abstention import COURTESIES, abstains
from maskdpo_ray.records import VERDICTS, Candidate, Question
from maskdpo_ray.sampling.counts import is_unfinished


@dataclass(frozen=True)
class Responses:
    """Counts per response, all int64 of shape ``[responses]``.

    Attributes:
        question: index of the response's question, in the order of the rows.
        topic: index of that question's topic.
        ok: sentences that the annotator found right.
        no_fact: sentences that state nothing that could be true or false.
        contradictory: sentences in conflict with the reference.
        unverifiable: sentences that the reference neither supports nor contradicts.
        errors: sentences that the annotator failed on: neither correct nor incorrect.
        tokens: tokens as sampled; 0 of a text whose tokens nobody knows.
        abstained: 1 where the answer says that it does not know (``abstention.py``), else 0.
        unfinished: 1 where it never left its reasoning, else 0.
    """

    question: np.ndarray
    topic: np.ndarray
    ok: np.ndarray
    no_fact: np.ndarray
    contradictory: np.ndarray
    unverifiable: np.ndarray
    errors: np.ndarray
    tokens: np.ndarray
    abstained: np.ndarray
    unfinished: np.ndarray

    def __len__(self) -> int:
        return len(self.question)

    def __getitem__(self, kept: np.ndarray) -> "Responses":
        return Responses(**{name: values[kept] for name, values in vars(self).items()})

    @property
    def correct(self) -> np.ndarray:
        """Sentences that are not wrong: right, or without a fact."""
        return self.ok + self.no_fact

    @property
    def incorrect(self) -> np.ndarray:
        """Contradictory and unverifiable sentences."""
        return self.contradictory + self.unverifiable

    @property
    def facts(self) -> np.ndarray:
        """Sentences that state a fact, right or not."""
        return self.ok + self.incorrect

    @property
    def judged(self) -> np.ndarray:
        """Sentences with a verdict."""
        return self.correct + self.incorrect

    @property
    def scored(self) -> np.ndarray:
        """Whether a response has a score: sentences, and a verdict on every one."""
        return (self.judged > 0) & (self.errors == 0)


def read_responses(rows: Iterable[Question], decoding: str) -> Responses:
    """The responses of one decoding (``greedy`` or ``sampled``) of annotated questions.

    Raises:
        ValueError: a verdict that is none of an annotator's.
    """
    topics: dict[str, int] = {}
    table = []
    for number, row in enumerate(rows):
        topic = topics.setdefault(row["topic"], len(topics))
        for candidate in row["candidates"]:
            if candidate["decoding"] == decoding:
                verdicts = [sentence["verdict"] for sentence in candidate["sentences"]]
                if unknown := set(verdicts) - set(VERDICTS):
                    raise ValueError(f"verdict {unknown.pop()!r}: an answer has one of {VERDICTS}")
                table.append(
                    (
                        number,
                        topic,
                        *(
                            verdicts.count(verdict)
                            for verdict in ("ok", "nofact", "contradictory", "unverifiable")
                        ),
                        verdicts.count("error"),
                        len(candidate["token_ids"]),
                        not is_unfinished(candidate)
                        and abstains(_opening(candidate), row["language"]),
                        is_unfinished(candidate),
                    )
                )
    columns = np.array(table, dtype=np.int64).reshape(-1, 10).T
    return Responses(*columns)


def _opening(candidate: Candidate) -> str:
    """The first sentences, which say whether it is an answer."""
    sentences = candidate["sentences"][:COURTESIES]
    return candidate["response"][: sentences[-1]["end"]] if sentences else candidate["response"]
