"""Which sentences to ask next, so that no more are asked than best and worst candidate depend on.

Exact: the pair, and the reason where there is none, are those of full annotation. A candidate is
left only when a *completely* annotated one is better than it can become, and another is worse,
whatever the verdicts on its open sentences would be: one whose annotation fails leaves the others
as they are. Two such candidates differ in score, so there is a pair, and nothing about the one
that was left can change it. Where there is none, every usable candidate has been annotated in full.

Of the open candidates those with the highest bound are asked first, and those with the lowest. One
of each at a time would ask nothing in vain, for as long as the order of the sentences within a
candidate is given: whoever could still pass all others has to be asked in any case. A few at once
need a few times fewer rounds and ask a little more (docs/annotators.md has the figures).
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from maskdpo_ray.preference.ranking import Tally, as_best, as_worst, tally
from maskdpo_ray.records import ERROR_VERDICT, SKIPPED_VERDICT

CANDIDATES_PER_SEAT = 8  # of the candidates one in so many is asked from either end in a round


def next_sentences(candidates: Sequence[Sequence[str]], verdicts: Mapping[str, str]) -> list[str]:
    """The distinct sentences of the next round; none once best and worst are known.

    Args:
        candidates: the sentences of each candidate, by their text. None for one that cannot take
            part.
        verdicts: on the sentences asked so far.
    """
    standings = _standings(candidates, verdicts)
    complete = {n: counts for n, counts in standings.items() if not counts.skipped}
    best = max((as_best(counts, n) for n, counts in complete.items()), default=(float("-inf"),))
    worst = min((as_worst(counts, n) for n, counts in complete.items()), default=(float("inf"),))
    opened = {n: counts for n, counts in standings.items() if counts.skipped}
    high = {n: key for n, counts in opened.items() if (key := as_best(counts, n)) > best}
    low = {n: key for n, counts in opened.items() if (key := as_worst(counts, n)) < worst}
    seats = max(1, len(candidates) // CANDIDATES_PER_SEAT)
    asked = sorted(high, key=high.__getitem__, reverse=True)[:seats]
    asked += sorted(low, key=low.__getitem__)[:seats]
    # What more contenders share tells more; then the first.
    shared = Counter(text for n in high.keys() | low.keys() for text in set(candidates[n]))
    texts = (
        max((text for text in candidates[n] if text not in verdicts), key=shared.__getitem__)
        for n in asked
    )
    return list(dict.fromkeys(texts))


def _standings(
    candidates: Sequence[Sequence[str]], verdicts: Mapping[str, str]
) -> dict[int, Tally]:
    """Of the candidates that can take part as far as is known."""
    standings = {}
    for n, texts in enumerate(candidates):
        found = [verdicts.get(text, SKIPPED_VERDICT) for text in texts]
        if found and ERROR_VERDICT not in found:
            standings[n] = tally(found)
    return standings
