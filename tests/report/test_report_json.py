import json

import pytest

from maskdpo_ray.report.build import build_report


def test_the_report_has_the_promised_keys(report):
    assert set(report) >= {
        "run",
        "seed",
        "versions",
        "pairs",
        "systems",
        "best_of_n",
        "seconds",
        "stages",
        "config",
    }
    assert set(report["pairs"]) == {"questions", "kept", "dropped"}
    for system in report["systems"].values():
        for decoding in ("greedy", "sampled"):
            assert set(system[decoding]) >= {
                "micro",
                "macro",
                "macro_ci95",
                "ci95",
                "correct",
                "incorrect",
                "no_fact",
                "errors",
                "mean_sentences",
                "mean_tokens",
            }
    assert set(report["best_of_n"]["base"]) == {"1", "2"}
    assert report["seconds"]["sample"] == 20.25


def test_it_is_strict_json_and_comes_back_the_same(report):
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_every_question_is_accounted_for_in_whichever_stage_it_was_lost(report):
    pairs = report["pairs"]
    assert pairs["dropped"] == {"empty": 1, "equal_scores": 3, "too_long": 2}
    assert pairs["questions"] == pairs["kept"] + sum(pairs["dropped"].values()) == 10
    assert report["unfinished_questions"] == 0


def test_in_the_middle_of_a_run_the_rest_is_unfinished(parts):
    begun = {"manifests": parts["manifests"][:2], "systems": {}, "best": {}}
    report = build_report(**parts | begun)
    assert report["pairs"] == {"questions": 10, "kept": 0, "dropped": {"empty": 1, "too_long": 1}}
    assert report["unfinished_questions"] == 8
    assert report["systems"] == report["best_of_n"] == {}


@pytest.mark.parametrize("system", ["base", "mask_dpo"])
def test_best_of_n_is_the_macro_figure_and_the_detail_holds_the_rest(report, system):
    detail = report["best_of_n_detail"][system]
    assert report["best_of_n"][system] == detail["macro"]
    assert set(detail) >= {"micro", "ci95", "short", "left_out"}
