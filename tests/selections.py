"""The ways to select pairs that property tests go through, and the one pair of a question."""

from hypothesis import strategies as st

from maskdpo_ray.preference.pairs import build_pairs
from maskdpo_ray.preference.select import select_pairs

SELECTIONS = st.fixed_dictionaries(
    {
        "no_fact": st.sampled_from(["correct", "mask", "ignore"]),
        "unverifiable": st.sampled_from(["incorrect", "mask", "correct"]),
        "pairs_per_question": st.sampled_from([1, 1, 2, 3]),
    }
).flatmap(
    lambda given: st.sampled_from(
        [
            given | {"select": "precision"},
            given | {"select": "f1@k"},
            given | {"select": "f1@k", "f1_k": 1},
            given | {"select": "f1@k", "f1_k": 4},
            given | {"select": "net"},
            given | {"select": "net", "net_lambda": 0.0},
            given | {"select": "net", "net_lambda": 0.1},
            given | {"select": "net", "net_lambda": 2.5},
        ]
    )
)


def best_and_worst(candidates, settings=None):
    """The one pair that is selected, as positions."""
    (pair,) = select_pairs(candidates, settings)
    return pair.best, pair.worst


def build_pair(row, tokenizer, prompt_ids, settings):
    """The one pair of a question."""
    (pair,) = build_pairs(row, tokenizer, prompt_ids, settings)
    return pair
