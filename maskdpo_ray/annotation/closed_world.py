"""The annotator of the embedded closed world: it knows the truth."""

from maskdpo_ray.annotation.annotator import Verdict
from maskdpo_ray.errors import RowRejected
from maskdpo_ray.records import Question
from maskdpo_ray.world.annotator import closed_world_verdict
from maskdpo_ray.world.facts import Facts


class ClosedWorldAnnotator:
    """Exact verdicts, without a model."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts

    async def verdict(self, question: Question, sentence: str) -> Verdict:
        """Verdict on one sentence.

        Raises:
            RowRejected: the question's topic is nobody in this world.
        """
        topic = question["topic"]
        if topic not in self._facts:
            raise RowRejected(
                "unknown_topic",
                f"question {question['id']!r} asks about {topic!r}, who is nobody in this closed "
                f"world of {len(self._facts)} people: questions and facts must be of one world",
            )
        return Verdict(*closed_world_verdict(self._facts, topic, sentence))
