"""Annotated answers as arrays of counts, one entry per response."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from maskdpo_ray.evaluation.abstention import abstains
from maskdpo_ray.records import ERROR_VERDICT, Candidate, Question, is_correct


@dataclass(frozen=True)
class Responses:
    """Counts per response, all int64 of shape ``[responses]``.

    Attributes:
        question: index of the response's question, in the order of the rows.
        topic: index of that question's topic.
        correct: correct sentences, those without facts among them.
        incorrect: contradictory and unverifiable sentences.
        no_fact: sentences without facts.
        errors: sentences that the annotator failed on: neither correct nor incorrect.
        tokens: tokens as sampled; 0 of a text whose tokens nobody knows.
        abstained: 1 where the answer says that it does not know (``abstention.py``), else 0.
    """

    question: np.ndarray
    topic: np.ndarray
    correct: np.ndarray
    incorrect: np.ndarray
    no_fact: np.ndarray
    errors: np.ndarray
    tokens: np.ndarray
    abstained: np.ndarray

    def __len__(self) -> int:
        return len(self.question)

    def __getitem__(self, kept: np.ndarray) -> "Responses":
        return Responses(**{name: values[kept] for name, values in vars(self).items()})

    @property
    def judged(self) -> np.ndarray:
        """Sentences with a verdict."""
        return self.correct + self.incorrect

    @property
    def scored(self) -> np.ndarray:
        """Whether a response has a score: sentences, and a verdict on every one."""
        return (self.judged > 0) & (self.errors == 0)


def read_responses(rows: Iterable[Question], decoding: str) -> Responses:
    """The responses of one decoding (``greedy`` or ``sampled``) of annotated questions."""
    topics: dict[str, int] = {}
    table = []
    for number, row in enumerate(rows):
        topic = topics.setdefault(row["topic"], len(topics))
        for candidate in row["candidates"]:
            if candidate["decoding"] == decoding:
                verdicts = [sentence["verdict"] for sentence in candidate["sentences"]]
                judged = [verdict for verdict in verdicts if verdict != ERROR_VERDICT]
                correct = sum(map(is_correct, judged))
                table.append(
                    (
                        number,
                        topic,
                        correct,
                        len(judged) - correct,
                        verdicts.count("nofact"),
                        len(verdicts) - len(judged),
                        len(candidate["token_ids"]),
                        abstains(_opening(candidate), row["language"]),
                    )
                )
    columns = np.array(table, dtype=np.int64).reshape(-1, 8).T
    return Responses(*columns)


def _opening(candidate: Candidate) -> str:
    """The first sentence, which says whether it is an answer; it need not be split once more."""
    sentences = candidate["sentences"]
    return candidate["response"][: sentences[0]["end"]] if sentences else candidate["response"]
