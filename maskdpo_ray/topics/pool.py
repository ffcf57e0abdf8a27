"""Questions gathered by topic."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from maskdpo_ray.errors import RowRejected, UserError
from maskdpo_ray.questions import read_questions
from maskdpo_ray.records import Question
from maskdpo_ray.sources import Source
from maskdpo_ray.splits import comparable


@dataclass
class Topic:
    """A topic with all its questions, in their order."""

    key: str  # the name as it is compared; decides between equals
    name: str  # as it first stands in the data
    questions: list[Question] = field(default_factory=list)

    def text(self, of: Literal["topic", "topic+questions"] = "topic") -> str:
        """What stands for the topic: its name, or its name and its questions, one a line."""
        questions = [row["question"] for row in self.questions] if of == "topic+questions" else []
        return "\n".join([self.name, *questions])


def read_topics(source: Source) -> tuple[list[Topic], dict[str, int]]:
    """The topics of a source, ordered by key, and how many rows were rejected for which reason.

    Raises:
        UserError: the source cannot be read, or no row of it can be used.
    """
    rows, rejected = [], Counter()
    for _, outcome in read_questions(source):
        if isinstance(outcome, RowRejected):
            rejected[outcome.reason] += 1
            last = outcome
        else:
            rows.append(outcome)
    if not rows:
        raise UserError(f"{source}: every question was rejected, the last one with {last}")
    return gathered(rows), dict(rejected)


def gathered(rows: Iterable[Question]) -> list[Topic]:
    """The topics of rows, ordered by key."""
    topics: dict[str, Topic] = {}
    for row in rows:
        key = comparable(row["topic"])
        topics.setdefault(key, Topic(key, row["topic"].strip())).questions.append(row)
    return [topics[key] for key in sorted(topics)]


def without_targets(pool: list[Topic], targets: list[Topic]) -> tuple[list[Topic], list[Topic]]:
    """The topics that may be trained on, and those that share their name or a question with a
    target: trained on, they would make its evaluation worthless (paper, section 2.2)."""
    names = {topic.key for topic in targets}
    asked = {comparable(row["question"]) for topic in targets for row in topic.questions}

    def shared(topic: Topic) -> bool:
        return topic.key in names or any(
            comparable(row["question"]) in asked for row in topic.questions
        )

    return [t for t in pool if not shared(t)], [t for t in pool if shared(t)]
