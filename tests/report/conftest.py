"""A report as a run of two systems makes it, and an annotated pair to show in it."""

from collections.abc import Callable

import pytest

from maskdpo_ray.report.build import build_report, score_system

LETTERS = {"o": "ok", "n": "nofact", "c": "contradictory", "u": "unverifiable", "e": "error"}
ANSWERS = {
    "base": [("oc", "oo", "cc", "e"), ("cu", "on", "c", "o"), ("n", "oc", "ccc", "")],
    "mask_dpo": [("oo", "oo", "oc", "o"), ("oc", "on", "o", "o"), ("n", "o", "oc", "c")],
}


def candidate(answer: str, decoding: str) -> dict:
    sentences = [{"verdict": LETTERS[letter], "end": 9} for letter in answer]
    response = "She sang." * len(answer)
    return {
        "decoding": decoding, "response": response, "token_ids": [7] * 8, "sentences": sentences
    }  # fmt: skip


def rows(answers: list[tuple[str, ...]]) -> list[dict]:
    """Questions, one topic each; the first answer of each is the greedy one."""
    return [
        {
            "topic": str(number),
            "language": "en",
            "candidates": [
                candidate(greedy, "greedy"),
                *(candidate(answer, "sampled") for answer in sampled),
            ],
        }
        for number, (greedy, *sampled) in enumerate(answers)
    ]


@pytest.fixture
def answered() -> Callable[[list[tuple[str, ...]]], list[dict]]:
    """``rows``."""
    return rows


def manifest(stage: str, coming: int, going: int, seconds: float, **rejected: int) -> dict:
    counts = {"in": coming, "out": going, "rejected": rejected}
    return {"stage": stage, "counts": counts, "seconds": seconds}


MANIFESTS = [
    manifest("questions-train", 10, 9, 1.0, empty=1),
    manifest("sample", 9, 8, 20.25, too_long=1),
    manifest("annotate", 8, 8, 30.0),
    manifest("pair", 8, 4, 2.0, equal_scores=3, too_long=1),
    {"stage": "train-mask_dpo", "counts": {"steps": 3}, "seconds": 40.0},
]


@pytest.fixture
def parts() -> dict:
    """The arguments of ``build_report``."""
    scored = {name: score_system(rows(texts), [1, 2], 2, 200, 0) for name, texts in ANSWERS.items()}
    return {
        "run": "runs/sample-0",
        "seed": 0,
        "versions": {"maskdpo-ray": "0.1.0", "ray": "2.60.0"},
        "config": {
            "run_dir": "runs/sample-0",
            "data": {"format": "questions"},
            "training": {"beta": 0.1},
        },
        "manifests": MANIFESTS,
        "systems": {name: scores for name, (scores, _) in scored.items()},
        "best": {name: best for name, (_, best) in scored.items()},
        "judges": {},
        "human_labels": {},
        "not_scored": {},
        "factscore": {},
        "win_rate": {},
        "short_form": {},
        "lm_eval": {},
    }


@pytest.fixture
def report(parts) -> dict:
    return build_report(**parts)


@pytest.fixture
def training() -> dict[str, list[dict]]:
    keys = (
        "loss",
        "rewards/margins",
        "rewards/chosen",
        "rewards/accuracies",
        "kept/chosen",
        "kept/rejected",
    )
    return {
        "mask_dpo": [
            {"step": step, "grad_norm": 1.0, **{key: 0.1 * step for key in keys}}
            for step in (1, 2, 3)
        ]
    }


def spelled(text: str, verdicts: list[str], ends: list[int], weights: list[float]) -> dict:
    """One side of a pair, a token per character and the end of the turn last."""
    starts = [0, *ends[:-1]]
    spans = [(n, n + 1) for n in range(len(weights) - 1)]
    return {
        "index": 0,
        "response": text,
        "token_ids": list(range(len(weights))),
        "weights": weights,
        "token_spans": [*spans, (len(spans), len(spans))],
        "score": 0.5,
        "sentences": [
            {"start": start, "end": end, "verdict": verdict, "detail": f"{verdict} 'because' <b>"}
            for start, end, verdict in zip(starts, ends, verdicts, strict=True)
        ],
    }


@pytest.fixture
def pair() -> dict:
    text, ends = "A b. C d.", [5, 9]
    first, second = [1.0] * 5 + [0.0] * 4 + [1.0], [0.0] * 5 + [1.0] * 5
    return {
        "id": "q1",
        "topic": "Ada",
        "question": "Who was Ada?",
        "chosen": spelled(text, ["ok", "contradictory"], ends, first),
        "rejected": spelled(text, ["nofact", "unverifiable"], ends, second),
    }
