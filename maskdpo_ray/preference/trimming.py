"""The chosen answer without the incorrect sentences at its end (an extension, docs/method.md).

They weigh nothing on the chosen side, yet the end of turn behind them is learnt: the policy learns
to end after a made-up sentence. Without them it learns to end where it has no more to say that is
right, instead of saying it.
"""

from maskdpo_ray.config import PreferenceConfig
from maskdpo_ray.preference.token_spans import Span
from maskdpo_ray.preference.verdicts import learnt_as
from maskdpo_ray.preference.weights import silent_at_end
from maskdpo_ray.records import Side


def without_wrong_end(side: Side, spans: list[Span], settings: PreferenceConfig) -> Side:
    """A side up to its last sentence that is not learnt as incorrect, then its own end of turn.

    An answer that was cut while it was sampled has no end of turn, and gets none. The score stays
    that of the whole answer, which selection compared.

    Args:
        side: of a pair, with a sentence that is not incorrect.
        spans: of its tokens in the response (``token_spans``).
    """
    sentences = list(side["sentences"])
    while sentences and learnt_as(sentences[-1]["verdict"], settings) < 0:
        sentences.pop()
    kept, tokens = len(sentences), len(spans)
    first_left_out = next((n for n, owner in enumerate(side["owners"]) if owner >= kept), tokens)
    if first_left_out == tokens:
        return side
    end = spans[first_left_out - 1][1]
    sentences[-1] = {**sentences[-1], "end": end}
    positions = [*range(first_left_out), *range(tokens - silent_at_end(spans), tokens)]
    aligned = ("token_ids", "weights", "owners", "correct")
    return {
        **side,
        **{name: [side[name][n] for n in positions] for name in aligned},
        "response": side["response"][:end],
        "sentences": sentences,
    }
