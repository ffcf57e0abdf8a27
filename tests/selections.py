"""The ways to select pairs that property tests go through."""

from hypothesis import strategies as st

SELECTIONS = st.builds(
    lambda select, no_fact, unverifiable: {
        **select,
        "no_fact": no_fact,
        "unverifiable": unverifiable,
    },
    st.sampled_from(
        [
            {"select": "precision"},
            {"select": "f1@k"},
            {"select": "f1@k", "f1_k": 1},
            {"select": "f1@k", "f1_k": 4},
            {"select": "net"},
            {"select": "net", "net_lambda": 0.0},
            {"select": "net", "net_lambda": 0.1},
            {"select": "net", "net_lambda": 2.5},
        ]
    ),
    st.sampled_from(["correct", "mask", "ignore"]),
    st.sampled_from(["incorrect", "mask", "correct"]),
)
