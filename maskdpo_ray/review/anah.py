"""The public ANAH annotations as labelled sentences.

A row of the data set ``opencompass/anah`` is a topic: ``name``, ``documents``, questions
(``selected_questions``), for each of two models its answers (``GPT3.5_answers_D``,
``InternLM_answers``) and what people wrote about each sentence of them (``human_*_ann``): a
reference fragment, the type of the hallucination and its correction, behind markers in the
language of the row.
"""

import re
from collections.abc import Iterator
from typing import Any

from maskdpo_ray.annotation.language import language_of
from maskdpo_ray.annotation.sentences import split_sentences

_ANNOTATED = re.compile(r"human_(?P<answers>.+)_ann")
_QUESTIONS = ("selected_questions", "selected_quetsions", "questions")  # the card misspells it
# The type stands behind its marker; a sentence without facts has a marker of its own.
_TYPES = (
    ("nofact", re.compile(r"<\s*(?:no facts?|无事实)\s*>", re.IGNORECASE)),
    ("type", re.compile(r"<\s*(?:hallucination|幻觉)\s*>\s*(?P<type>[^\n<.。]*)", re.IGNORECASE)),
)
_VERDICTS = {
    "none": "ok",
    "no": "ok",
    "no hallucination": "ok",
    "无": "ok",
    "无幻觉": "ok",
    "contradictory": "contradictory",
    "contradiction": "contradictory",
    "矛盾": "contradictory",
    "unverifiable": "unverifiable",
    "无法验证": "unverifiable",
    "no fact": "nofact",
    "nofact": "nofact",
    "无事实": "nofact",
}

Sentence = tuple[dict[str, Any], str]


def is_annotated(row: dict[str, Any]) -> bool:
    return any(map(_ANNOTATED.fullmatch, row))


def verdict_of(annotation: str) -> str | None:
    """The verdict that a person's annotation of a sentence says; None where it says none, or
    several."""
    found = set()
    for name, pattern in _TYPES:
        for match in pattern.finditer(annotation):
            said = match["type"].strip().lower() if name == "type" else name
            found.add(_VERDICTS.get(said))
    return found.pop() if len(found) == 1 else None


def sentences(row: dict[str, Any]) -> Iterator[Sentence | str]:
    """The labelled sentences of a topic as ``Labelled`` takes them, or the reason why one, or an
    answer's, cannot be used."""
    questions = next((row[key] for key in _QUESTIONS if key in row), [])
    documents = row.get("documents") or ""
    document = "\n\n".join(documents) if isinstance(documents, list) else str(documents)
    for column in filter(_ANNOTATED.fullmatch, row):
        name = _ANNOTATED.fullmatch(column)["answers"]
        answers = row.get(name) or row.get(f"{name}_D") or []
        for number, (question, answer, annotations) in enumerate(
            zip(_listed(questions), _listed(answers), _listed(row[column]), strict=False)
        ):
            told = {
                "question_id": f"{row.get('name')}/{number}",
                "topic": row.get("name"),
                "question": question,
                "document": document,
                "system": name,
            }
            yield from _of_answer(told, answer, annotations)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _of_answer(told: dict[str, Any], answer: Any, annotations: Any) -> Iterator[Sentence | str]:
    """An answer is a text, or the list of its sentences; its annotations are a list, or a text
    with one a paragraph."""
    if isinstance(annotations, str):
        annotations = [part for part in re.split(r"\n\s*\n", annotations) if part.strip()]
    if isinstance(answer, list):
        texts = [str(sentence).strip() for sentence in answer]
        response, spans, position = " ".join(texts), [], 0
        for text in texts:
            spans.append((position, position + len(text)))
            position += len(text) + 1
    else:
        response = str(answer)
        spans = split_sentences(response, language_of(response, "en"))
    if len(spans) != len(annotations):
        yield "an answer with more or fewer sentences than annotations"
        return
    language = language_of(response, "en")
    for (start, end), annotation in zip(spans, annotations, strict=True):
        if verdict := verdict_of(str(annotation)):
            row = {**told, "language": language, "response": response, "start": start, "end": end}
            yield row, verdict
        else:
            yield "an annotation without a type"
