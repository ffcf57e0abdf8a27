"""An annotator for answers about countries: rules, no model.

    annotation:
      annotator: maskdpo_ray.world.countries.annotator:Countries
      facts: FOLDER/facts.json

A sentence is read for what it says of capitals, borders, languages, currencies and places
(``reading/``). One wrong claim makes it ``contradictory``. Otherwise it is ``ok`` where all that
it says was read and is right, ``nofact`` where it says nothing, and ``unverifiable`` where
something is left that no rule reads: what cannot be told is not taken for right. ``detail`` names
the facts.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from maskdpo_ray.annotation import AnnotationConfig, Annotator, Verdict
from maskdpo_ray.config.section import Content
from maskdpo_ray.errors import RowRejected
from maskdpo_ray.storage import open_file
from maskdpo_ray.world.countries.reading.sentence import Reader

RULES = [Path(__file__), *sorted(Path(__file__).with_name("reading").glob("*.py"))]


class Settings(AnnotationConfig):
    """Facts about countries."""

    facts: Content[str]
    """`facts.json` of a folder that `python -m maskdpo_ray.world.countries` wrote."""


class Countries(Annotator):
    """Rules for answers about countries; what they cannot tell is unverifiable."""

    Settings = Settings
    # Another rule, other verdicts.
    version = hashlib.sha256(b"".join(file.read_bytes() for file in RULES)).hexdigest()
    failures = ()

    def __init__(self, settings: Settings) -> None:
        with open_file(settings.facts) as file:
            self._reader = Reader(json.loads(file.read()))

    def verdict(self, question: Any, sentence: str) -> Verdict:
        """Verdict on one sentence.

        Raises:
            RowRejected: the question's topic is no country of these facts.
        """
        topic = question["topic"]
        if topic not in self._reader.lexicon.topics:
            raise RowRejected(
                "unknown_topic",
                f"question {question['id']!r} asks about {topic!r}, which is no country of "
                "annotation.facts: questions and facts must be of one world",
            )
        return self._reader.read(topic, question["question"], sentence)
