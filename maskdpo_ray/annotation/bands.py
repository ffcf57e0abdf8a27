"""From which confidence on a verdict stands."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator

from maskdpo_ray.annotation.annotator import Verdict
from maskdpo_ray.verdicts import ERROR_VERDICT, JUDGED

DIGITS = 6  # a stored confidence has no more, and must decide as it did when it was said


def _band(value: Any) -> Any:
    """A number, or one for each verdict that may stand."""
    numbers = value.values() if isinstance(value, dict) else [value]
    if not all(type(n) in (int, float) and 0 <= n <= 1 for n in numbers):
        raise ValueError("a number from 0 to 1, or one for each verdict that may stand")
    if isinstance(value, dict) and not (value and set(value) <= set(JUDGED)):
        raise ValueError(f"a band is of verdicts ({', '.join(JUDGED)})")
    return value


Band = Annotated[float | dict[str, float], BeforeValidator(_band)]


def stands(said: Verdict, band: float | Mapping[str, float]) -> bool:
    """Whether a verdict is sure enough: its confidence is at least the band's, for this verdict.
    An error never stands, nor a verdict whose confidence is not known, nor one that a band by
    verdicts does not name."""
    least = band.get(said.verdict) if isinstance(band, Mapping) else band
    if said.verdict == ERROR_VERDICT or said.confidence is None or least is None:
        return False
    return round(float(said.confidence), DIGITS) >= round(least, DIGITS)
