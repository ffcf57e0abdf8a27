"""A score that rose while answers came to say less is not shown without saying so."""

import pytest

from maskdpo_ray.report.build import build_report, score_system
from maskdpo_ray.report.card import evaluation_text
from maskdpo_ray.report.html import render_html
from maskdpo_ray.report.silence import silence_warnings
from maskdpo_ray.report.table import systems_table


def system(**figures) -> dict:
    whole = {"mean_tokens": 50.0, "mean_sentences": 4.0, "mean_correct": 2.0, "mean_ok": 1.0}
    return {"greedy": {**whole, **figures}}


@pytest.mark.parametrize(
    ("figures", "fell"),
    [
        ({}, None),
        ({"mean_tokens": 40.0, "mean_sentences": 3.2, "mean_correct": 1.6, "mean_ok": 0.8}, None),
        ({"mean_tokens": 39.9}, ["mean_tokens"]),
        ({"mean_sentences": 3.1, "mean_correct": 1.5}, ["mean_sentences", "mean_correct"]),
        ({"mean_correct": 2.4, "mean_ok": 0.2}, ["mean_ok"]),  # what states nothing is no merit
        ({"mean_ok": 0.0}, ["mean_ok"]),
        ({"mean_tokens": None}, None),
    ],
)
def test_a_fall_by_more_than_a_fifth_is_told(figures, fell):
    found = silence_warnings({"base": system(), "ours": system(**figures)}, {})
    assert [list(each["fell"]) for each in found] == ([fell] if fell else [])
    for each in found:
        assert (each["system"], each["decoding"]) == ("ours", "greedy")
        assert each["text"].startswith("ours says less than the base, greedy: an answer has ")


def test_what_the_base_does_not_have_cannot_fall():
    assert not silence_warnings({"base": system(mean_ok=0.0), "ours": system(mean_ok=0.0)}, {})
    assert not silence_warnings({"ours": system(mean_ok=0.1)}, {})
    lacking = {"base": {"greedy": None}, "ours": {"greedy": None, "sampled": None}}
    assert not silence_warnings(lacking, {})


def test_supported_facts_are_watched_where_there_are_any():
    facts = {name: {"greedy": {"mean_supported": n}} for name, n in (("base", 9.0), ("ours", 5.0))}
    [found] = silence_warnings({"base": system(), "ours": system()}, facts)
    assert found["fell"] == {"mean_supported": [9.0, 5.0]}
    assert "5.0 supported facts, not 9.0 (-44 %)" in found["text"]
    facts["ours"]["greedy"] = {"not_scored": "all abstain"}
    assert not silence_warnings({"base": system(), "ours": system()}, facts)


@pytest.fixture
def shorter(parts, answered) -> dict:
    """The report of a system that keeps one of the base's three sentences, the right one."""
    answers = {"base": [("ooc", "ooc")] * 4, "mask_dpo": [("o", "ooc")] * 4}
    parts["systems"] = {
        name: score_system(answered(texts), [1], 3, 200, 0)[0] for name, texts in answers.items()
    }
    parts["config"]["evaluation"] = {"factscore": None}
    return build_report(**parts)


def test_the_warning_stands_under_the_table_on_the_page_and_in_the_card(shorter):
    [warning] = shorter["warnings"]
    assert warning["fell"] == {
        "mean_sentences": [3, 1], "mean_correct": [2, 1], "mean_ok": [2, 1],
    }  # fmt: skip
    text = "1.0 sentences, not 3.0 (-67 %); 1.0 correct sentences, not 2.0 (-50 %)"
    assert text in warning["text"]
    lines = systems_table(shorter).splitlines()
    assert lines[6] == f"warning: {warning['text']}", "before anything else is shown"
    page = render_html(shorter, {}, [])
    assert page.index(warning["text"]) < page.index("What the answers consist of")
    card = evaluation_text(shorter, "mask_dpo")
    assert f"**Warning:** {warning['text']}" in card
    assert warning["text"] not in evaluation_text(shorter, "base")


def test_the_score_rises_by_silence_and_f1_at_k_does_not(shorter):
    base, ours = (shorter["systems"][name]["greedy"] for name in ("base", "mask_dpo"))
    assert ours["micro"] == 100 > base["micro"]
    assert ours["f1_at_k"]["f1"] == pytest.approx(50)
    assert base["f1_at_k"]["f1"] == pytest.approx(200 / 3)


def test_the_card_shows_the_system_beside_its_base_alone(report):
    report["systems"]["other"] = report["systems"]["mask_dpo"]
    text = evaluation_text(report, "mask_dpo")
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")]
    assert rows == ["system", "---", "base", "base", "mask_dpo", "mask_dpo"] * 2
    assert evaluation_text(report, "none") is None
