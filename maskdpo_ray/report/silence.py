"""What a score that rose by silence looks like: answers that say less than those of the base."""

from collections.abc import Mapping
from typing import Any

BASE = "base"
FALL = 0.2  # of the base's figure: less than that may be chance
WATCHED = {
    "mean_tokens": "tokens",
    "mean_sentences": "sentences",
    "mean_correct": "correct sentences",
    "mean_ok": "correct sentences with a fact",
}


def silence_warnings(
    systems: Mapping[str, Mapping[str, Any]], factscore: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Where answers are shorter, or hold less that is right, than the base's by more than a fifth.

    Args:
        systems, factscore: as of ``build_report``.

    Returns:
        For each system and decoding with any: ``system``, ``decoding``, ``fell`` (from a figure's
        key to ``[base, system]``, per answer) and ``text``, a line to show under the scores.
    """
    found = []
    for name, scores in systems.items():
        for decoding, score in scores.items():
            base = systems.get(BASE, {}).get(decoding)
            if name == BASE or not (score and base):
                continue
            told = _fallen(base, score, WATCHED)
            facts = [factscore.get(each, {}).get(decoding) or {} for each in (BASE, name)]
            told |= _fallen(*facts, {"mean_supported": "supported facts"})
            if told:
                parts = [
                    f"{now:.1f} {what}, not {before:.1f} ({100 * (now / before - 1):.0f} %)"
                    for what, before, now in told.values()
                ]
                found.append(
                    {
                        "system": name,
                        "decoding": decoding,
                        "fell": {key: [before, now] for key, (_, before, now) in told.items()},
                        "text": (
                            f"{name} says less than the base, {decoding}: an answer has "
                            f"{'; '.join(parts)}. Its score may have risen by silence: do not "
                            "believe it without these."
                        ),
                    }
                )
    return found


def _fallen(
    base: Mapping[str, Any], score: Mapping[str, Any], names: Mapping[str, str]
) -> dict[str, tuple[str, float, float]]:
    """Of the figures that fell by more than ``FALL`` what they are of, before and now."""
    both = {key: (what, base.get(key), score.get(key)) for key, what in names.items()}
    return {
        key: (what, before, now)
        for key, (what, before, now) in both.items()
        if before and now is not None and now < (1 - FALL) * before
    }
