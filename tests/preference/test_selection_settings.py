"""Settings of selection: what is refused together, and which stages depend on them."""

import pytest

from maskdpo_ray.config import AnnotationConfig, PreferenceConfig, build_config
from maskdpo_ray.errors import UserError
from maskdpo_ray.stages.annotating import verdicts_depend_on


def config(**sections):
    given = {"run_dir": "x", "world": {}, "annotation": {"annotator": "closed_world"}}
    return build_config(given | sections)


PAIRS = {
    "world": None,
    "model": {"path": "m"},
    "data": {"train": "pairs.jsonl", "format": "pairs"},
    "sampling": {"source": "input"},
    "annotation": {"annotator": "labels"},
}


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"preference": {"f1_k": 4}}, "f1_k is of select=f1@k: set that, or remove f1_k"),
        ({"preference": {"net_lambda": 2}}, "net_lambda is of select=net"),
        ({"preference": {"select": "net", "f1_k": 4}}, "f1_k is of select=f1@k"),
        ({"preference": {"select": "f1@k", "f1_k": 0}}, "preference.f1_k"),
        (PAIRS | {"preference": {"unverifiable": "mask"}}, "remove preference.unverifiable"),
        (PAIRS | {"preference": {"no_fact": "mask"}}, "remove preference.no_fact"),
        (PAIRS | {"preference": {"pairs_per_question": 2}}, "remove preference.pairs_per_question"),
        ({"preference": {"length_window": {"ratio": 0.5}}}, "preference.length_window.ratio"),
        ({"preference": {"length_window": {}}}, "preference.length_window.ratio"),
        ({"preference": {"max_repetition": 1}}, "preference.max_repetition"),
        (
            {
                "preference": {"length_window": {"ratio": 1.5}},
                "annotation": {"annotator": "closed_world", "prune": True},
            },
            "set annotation.prune=false",
        ),
    ],
)
def test_what_would_have_no_effect_is_refused(sections, words):
    with pytest.raises(UserError) as raised:
        config(**sections)
    assert words in str(raised.value) and "\n" not in str(raised.value)


def test_the_papers_is_the_default():
    preference = config().preference
    assert (preference.select, preference.no_fact, preference.unverifiable) == (
        "precision", "correct", "incorrect"
    )  # fmt: skip
    assert preference.selection() == {}


@pytest.mark.parametrize(
    "given",
    [
        {"select": "net"},
        {"select": "net", "net_lambda": 0.5},
        {"select": "f1@k"},
        {"select": "f1@k", "f1_k": 3},
        {"no_fact": "ignore"},
        {"unverifiable": "mask"},
        {"pairs_per_question": 2},
        {"max_repetition": 0.5},
    ],
)
def test_what_is_pruned_depends_on_the_selection_and_nothing_else_does(given):
    other = PreferenceConfig(**given)
    for prune in (False, True):
        annotation = AnnotationConfig.of(annotator="closed_world", prune=prune)
        papers = verdicts_depend_on(annotation, "annotation", PreferenceConfig())
        assert papers == verdicts_depend_on(annotation, "annotation")
        assert (verdicts_depend_on(annotation, "annotation", other) != papers) == prune
        of_weights = PreferenceConfig(no_fact="mask", eos="mask", pair_weight="gap", max_length=9)
        assert verdicts_depend_on(annotation, "annotation", of_weights) == papers
