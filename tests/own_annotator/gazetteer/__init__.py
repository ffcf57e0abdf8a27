"""Checks sentences against a list of what is known of each topic."""

import json
from pathlib import Path

from maskdpo_ray.annotation import AnnotationConfig, Annotator, Verdict
from maskdpo_ray.config.section import Content


class Settings(AnnotationConfig):
    facts: Content[str]
    """JSON file: topic -> kind of fact -> value."""
    strict: bool = False
    """A sentence that names no value at all is `unverifiable`, not `nofact`."""


class Gazetteer(Annotator):
    Settings = Settings

    def __init__(self, settings):
        self.strict = settings.strict
        self.facts = json.loads(Path(settings.facts).read_text())
        self.known = {value for facts in self.facts.values() for value in facts.values()}

    def verdict(self, question, sentence):
        words = set(sentence.strip(".").split())
        for kind, value in self.facts[question["topic"]].items():
            if value in words:
                return Verdict("ok", f"{kind} is {value}", 0.9)
        if wrong := words & self.known:
            return Verdict("contradictory", f"{min(wrong)} is somebody else's", 0.9)
        return "unverifiable" if self.strict else "nofact"
