"""Annotators of a few lines, as members of others: what a third party might write."""

import asyncio

from maskdpo_ray.annotation import AnnotationConfig, Annotator, Mark, Verdict
from maskdpo_ray.errors import RowRejected

ASKED = []  # by name, in order


class Settings(AnnotationConfig):
    name: str = "first"
    says: dict[str, str] = {}
    """Sentence -> verdict, and behind a space its confidence; `raise` and `refuse` are no
    verdicts."""
    cost: int | None = None


class Knows(Annotator):
    """Says of a sentence what its settings say; `ok` of any other, without a doubt."""

    Settings = Settings
    tells_confidence = True

    async def verdict(self, question, sentence):
        ASKED.append((self.settings.name, sentence))
        await asyncio.sleep(0)
        return self.said(sentence)

    def said(self, sentence):
        default = "ok 1" if self.tells_confidence else "ok"
        word, _, confidence = self.settings.says.get(sentence, default).partition(" ")
        if word == "raise":
            raise KeyError(sentence)
        if word == "refuse":
            raise RowRejected("document_missing", "none")
        cost = self.settings.cost
        detail = f'{{"tokens": {cost}}}' if cost is not None else f"{self.settings.name} says so"
        return Verdict(word, detail, float(confidence) if confidence else None)


class Unsure(Knows):
    """Tells no confidence."""

    tells_confidence = False


class NeedsDocument(Knows):
    needs = {"document"}


class Marks(Annotator):
    """Marks the words of its settings in a whole answer."""

    Settings = Settings
    tells_confidence = True

    def verdicts(self, question, response, sentences):
        ASKED.append((self.settings.name, response))
        found = []
        for word, said in self.settings.says.items():
            verdict, _, confidence = said.partition(" ")
            start = response.find(word)
            if start >= 0:
                found.append(Mark(start, start + len(word), verdict, "marked", float(confidence)))
        return found
