"""How much an answer says again and again: what a policy does that has lost its way."""

from collections.abc import Hashable, Sequence

from maskdpo_ray.records import Candidate

TOKENS = 4  # of a run, as in seq-rep-4 (arXiv:1908.04319)


def repetition(candidate: Candidate) -> float:
    """The share of a candidate's sentences, or of its runs of four tokens, that say what one before
    them says already: the larger of the two, at least 0 and below 1.

    Sentences are told by their letters, whatever their case, so the items of a numbered list can be
    the same one. Tokens are the policy's own: what is said again need not end a sentence, nor be
    written with spaces. Sentences need no verdict yet.
    """
    response = candidate["response"]
    ids = candidate["token_ids"][candidate.get("reasoning_tokens") or 0 :]
    sentences = [_letters(response[s["start"] : s["end"]]) for s in candidate["sentences"]]
    runs = [tuple(ids[n : n + TOKENS]) for n in range(len(ids) - TOKENS + 1)]
    return max(_said_again(sentences), _said_again(runs))


def _letters(text: str) -> str:
    return "".join(filter(str.isalpha, text)).casefold() or text.strip()


def _said_again(items: Sequence[Hashable]) -> float:
    return 1 - len(set(items)) / len(items) if items else 0.0
