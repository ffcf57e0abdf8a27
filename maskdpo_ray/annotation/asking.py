"""One question to an annotator of anybody's, and what becomes of its failures."""

from collections.abc import Callable, Mapping, Sequence
from inspect import isawaitable
from numbers import Real
from typing import Any

from maskdpo_ray.annotation.annotator import Mark, Verdict
from maskdpo_ray.annotation.marks import verdicts_of_marks
from maskdpo_ray.annotation.sentences import unit_kind
from maskdpo_ray.errors import RowRejected, UserError
from maskdpo_ray.records import ERROR_VERDICT, VERDICTS, Question

Span = tuple[int, int]
CODE = Verdict("nofact", "code: a fence states nothing")
ROUNDING = 1e-3  # of a probability in half precision
HOPELESS = 8  # failures in a row from the first, after which nothing good can be expected


class Asking:
    """Calls an annotator. What it raises about a sentence is that sentence's ``error``.

    Raises:
        UserError: it has failed on everything that it was asked.
    """

    def __init__(self, annotator: Any) -> None:
        self._annotator = annotator
        self._failures = getattr(annotator, "failures", ())
        self._failed, self._answered = 0, False

    async def sentence(self, question: Question, text: str) -> Verdict:
        """The verdict on one sentence."""

        async def ask() -> list[Verdict]:
            said = await _called(self._annotator.verdict, {**question}, text)
            return [self._read(said, question)]

        return (await self._guarded(ask, 1))[0]

    async def answer(self, question: Question, response: str, spans: list[Span]) -> list[Verdict]:
        """The verdicts on the sentences of one answer."""
        texts = [response[start:end].strip() for start, end in spans]
        at = getattr(self._annotator, "verdicts_at", None)  # one that maps marks itself

        async def ask() -> list[Verdict]:
            if at:
                return await at(question, response, spans)
            said = await _called(self._annotator.verdicts, {**question}, response, texts)
            if isinstance(said, str | bytes | Mapping):
                raise ValueError(f"a list of verdicts or marks is wanted, not {said!r:.99}")
            said = list(said)
            if all(isinstance(each, Mark) for each in said):
                return list(map(_checked, verdicts_of_marks(said, response, spans)))
            if len(said) != len(spans):
                raise ValueError(f"{len(said)} verdicts on {len(spans)} sentences")
            return [self._read(each, question) for each in said]

        return await self._guarded(ask, len(spans))

    async def _guarded(self, ask: Callable[[], Any], sentences: int) -> Sequence[Verdict]:
        try:
            said = await ask()
        except (RowRejected, UserError):
            raise
        except self._failures as error:
            words = _unicode(f"{type(error).__name__}: {error}")
            said = [Verdict(ERROR_VERDICT, words)] * sentences
        if self._failures and not self._answered:
            self._count(said)
        return said

    def _count(self, said: Sequence[Verdict]) -> None:
        self._answered = any(each.verdict != ERROR_VERDICT for each in said)
        self._failed += len(said)
        if not self._answered and self._failed >= HOPELESS:
            raise UserError(
                f"the annotator failed on all of the first {self._failed} sentences; the last: "
                f"{said[-1].detail}"
            )

    def _read(self, said: Any, question: Question) -> Verdict:
        verdict = Verdict(*said) if isinstance(said, tuple | list) else Verdict(said)
        if not isinstance(verdict.verdict, str) or verdict.verdict not in VERDICTS:
            raise ValueError(
                f"{type(self._annotator).__name__} answered {verdict.verdict!r:.99} on question "
                f"{question['id']!r}; a verdict is one of {', '.join(VERDICTS)}"
            )
        return _checked(verdict)


def _checked(verdict: Verdict) -> Verdict:
    """The verdict as it can be stored. Raises ``ValueError`` where it cannot."""
    detail, confidence = verdict.detail, verdict.confidence
    if not isinstance(detail, str | None):
        raise ValueError(f"the detail of a verdict is a text, not {type(detail).__name__}")
    if confidence is not None:
        number = isinstance(confidence, Real) and not isinstance(confidence, bool)
        if not (number and 0 <= confidence <= 1 + ROUNDING):
            raise ValueError(f"a confidence is a probability, not {confidence!r:.99}")
        confidence = min(float(confidence), 1.0)
    return Verdict(verdict.verdict, _unicode(detail or ""), confidence)


def _unicode(text: str) -> str:
    """The text with what no UTF-8 can hold escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def known_unasked(text: str) -> Verdict | None:
    """The verdict on a sentence that no annotator of sentences is asked about."""
    if not text:
        return Verdict(ERROR_VERDICT, "nothing but white space")
    return CODE if unit_kind(text) == "code" else None


async def _called(call: Callable[..., Any], *arguments: Any) -> Any:
    said = call(*arguments)
    return await said if isawaitable(said) else said
