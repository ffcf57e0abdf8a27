"""Which sentences to ask next, so that no more are asked than best and worst candidate depend on.

Exact: the pair, and the reason where there is none, are those of full annotation. A candidate is
left only when a *completely* annotated one that has a correct sentence is better than it can
become, and another that has an incorrect one is worse, whatever the verdicts on its open sentences
would be: one whose annotation fails, or that turns out to have nothing to check, leaves the others
as they are. Under every score a candidate with an open sentence can end higher than it can end
lower, so two such candidates differ in score, there is a pair, and nothing about the one that was
left can change it. Where there is none, every usable candidate has been annotated in full. Of
several pairs of a question (``pairs_per_question``) each takes one answer from either end, so then
as many different answers must be better, and as many worse.

Of the open candidates those with the highest bound are asked first, and those with the lowest. One
of each at a time would ask nothing in vain, for as long as the order of the sentences within a
candidate is given: whoever could still pass all others has to be asked in any case. A few at once
need a few times fewer rounds and ask a little more (docs/annotators.md has the figures).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from maskdpo_ray.preference.ranking import PAPER, Ranking, Tally
from maskdpo_ray.records import ERROR_VERDICT, SKIPPED_VERDICT

CANDIDATES_PER_SEAT = 8  # of the candidates one in so many is asked from either end in a round


def next_sentences(
    candidates: Sequence[Sequence[str]], verdicts: Mapping[str, str], ranking: Ranking = PAPER
) -> list[str]:
    """The distinct sentences of the next round; none once the pairs are known.

    Args:
        candidates: the sentences of each candidate, by their text. None for one that cannot take
            part.
        verdicts: on the sentences asked so far.
        ranking: how the candidates are compared.
    """
    standings = _standings(candidates, verdicts, ranking)
    complete = {n: counts for n, counts in standings.items() if not counts.skipped}
    pairs = ranking.settings.pairs_per_question
    tops = {n: ranking.as_best(counts, n) for n, counts in complete.items() if counts.correct}
    bottoms = {n: ranking.as_worst(counts, n) for n, counts in complete.items() if counts.incorrect}
    best = _nth(pairs, sorted(tops, key=tops.__getitem__, reverse=True), candidates)
    worst = _nth(pairs, sorted(bottoms, key=bottoms.__getitem__), candidates)
    # Until there are as many as pairs are wanted, every open candidate may still come before them.
    floor = (float("-inf"),) if best is None else tops[best]
    ceiling = (float("inf"),) if worst is None else bottoms[worst]
    opened = {n: counts for n, counts in standings.items() if counts.skipped}
    high = {n: key for n, counts in opened.items() if (key := ranking.as_best(counts, n)) > floor}
    low = {n: key for n, counts in opened.items() if (key := ranking.as_worst(counts, n)) < ceiling}
    seats = max(pairs, len(candidates) // CANDIDATES_PER_SEAT)
    asked = sorted(high, key=high.__getitem__, reverse=True)[:seats]
    asked += sorted(low, key=low.__getitem__)[:seats]
    # What more contenders share tells more; then the first.
    shared = Counter(text for n in high.keys() | low.keys() for text in set(candidates[n]))
    texts = (
        max((text for text in candidates[n] if text not in verdicts), key=shared.__getitem__)
        for n in asked
    )
    return list(dict.fromkeys(texts))


def _nth(count: int, order: Iterable[int], candidates: Sequence[Sequence[str]]) -> int | None:
    """The ``count``-th in this order of those that read differently."""
    seen: dict[tuple[str, ...], int] = {}
    for n in order:
        seen.setdefault(tuple(candidates[n]), n)
    return list(seen.values())[count - 1] if len(seen) >= count else None


def _standings(
    candidates: Sequence[Sequence[str]], verdicts: Mapping[str, str], ranking: Ranking
) -> dict[int, Tally]:
    """Of the candidates that can take part as far as is known."""
    standings = {}
    for n, texts in enumerate(candidates):
        found = [verdicts.get(text, SKIPPED_VERDICT) for text in texts]
        if found and ERROR_VERDICT not in found:
            standings[n] = ranking.tally(found)
    return standings
