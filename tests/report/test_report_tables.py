from maskdpo_ray.report.html import render_html
from maskdpo_ray.report.table import (
    agreement_table,
    aligned,
    best_of_n_rows,
    count_rows,
    detail_rows,
    factscore_rows,
    factscore_table,
    score_rows,
    stage_rows,
    system_rows,
    systems_table,
)


def test_the_table_shows_scores_intervals_and_best_of_n_of_every_system(report):
    base = report["systems"]["base"]
    scores, details = systems_table(report).split("\n\n")
    header, rule, *rows = scores.splitlines()
    assert [row.split()[:2] for row in rows[:4]] == [
        [name, decoding] for name in ("base", "mask_dpo") for decoding in ("greedy", "sampled")
    ]
    for row, decoding in zip(rows, ("greedy", "sampled"), strict=False):
        low, high = base[decoding]["ci95"]
        assert f"{base[decoding]['micro']:.1f} {low:.1f}-{high:.1f}" in " ".join(row.split())
    assert rows[1].split()[-2:] == [f"{report['best_of_n']['base'][n]:.1f}" for n in "12"]
    assert header.split()[-6:] == ["best", "of", "1", "best", "of", "2"]
    assert set(rule) == {"-"}
    assert details.splitlines()[2].split()[:2] == ["base", "greedy"]


def test_sentences_stand_apart_by_verdict_and_the_score_without_those_that_state_nothing(report):
    """Greedy answers of the base are oc, cu and n, of the other oo, oc and n."""
    header, base, _, ours, _ = detail_rows(report)
    cells = [dict(zip(header, row, strict=True)) for row in (base, ours)]
    kinds = ("ok", "wrong", "unverifiable", "no fact", "correct each", "with a fact")
    assert [cells[0][kind] for kind in kinds] == ["1", "2", "1", "1", "0.7", "0.3"]
    assert [cells[1][kind] for kind in kinds] == ["3", "1", "0", "1", "1.3", "1.0"]
    header, base, *_ = score_rows(report)
    found = dict(zip(header, base, strict=True))
    assert (found["score"], found["facts only"]) == ("40.0", "25.0")


def test_f1_at_k_stands_beside_the_score_where_k_is_known(report):
    header, base, *_ = score_rows(report)
    found = dict(zip(header, base, strict=True))
    # P 1/2 and R_2 1/2 of the first answer, nothing right in the others.
    assert (found["F1@2"], found["recall@2"], found["precision"]) == ("16.7", "16.7", "25.0")
    for system in report["systems"].values():
        for score in system.values():
            score["f1_at_k"] = None
    assert score_rows(report)[0][-1] == "95 %"
    assert len(set(map(len, score_rows(report)))) == 1


def test_columns_are_aligned_to_the_right(report):
    header, _, *rows = systems_table(report).split("\n\n")[0].splitlines()
    end = header.index("score") + len("score")
    assert all(row[end - 1].isdigit() and row[end] == " " for row in rows[:4])
    assert len(rows[1]) == len(header)


def test_names_in_chinese_take_two_columns_a_character(report):
    report["systems"]["政策"] = report["systems"]["base"]
    lines = system_rows(report)
    widths = {
        sum(2 if ord(char) > 0x2FFF else 1 for char in line.split(" greedy")[0])
        for line in aligned(lines, names=2).splitlines()
        if " greedy" in line
    }
    assert len(widths) == 1


def test_a_system_without_best_of_n_has_empty_cells(report):
    del report["best_of_n"]["mask_dpo"]
    _, greedy, base, _, ours = system_rows(report)
    assert ours[-2:] == greedy[-2:] == ["", ""] and all(base[-2:])


def test_answers_that_could_not_be_scored_are_shown(report):
    header, *rows = count_rows(report)
    sampled = dict(zip(header, rows[1], strict=True))
    assert (sampled["system"], sampled["answers"]) == ("base", "sampled")
    assert (sampled["responses"], sampled["no verdict"], sampled["errors"]) == ("9", "2", "1")
    low, high = report["systems"]["base"]["sampled"]["macro_ci95"]
    assert sampled["95 %"] == f"{low:.1f}-{high:.1f}", "of the macro score"
    header, *rows = best_of_n_rows(report)
    assert dict(zip(header, rows[0], strict=True))["responses left out"] == "2"


def test_stages_show_what_was_rejected_and_why(report):
    stages = {row[0]: row[1:] for row in stage_rows(report)}
    assert stages["pair"] == ["8", "4", "2.0", "3 equal_scores, 1 too_long"]
    assert stages["annotate"] == ["8", "8", "30.0", ""]
    assert stages["train-mask_dpo"] == ["", "3 steps", "40.0", ""]


def test_annotators_against_labels_stand_in_one_table():
    figures = dict.fromkeys(("precision", "recall", "f1", "accuracy"), [0.5, 0.25, 0.75])
    counts = {
        "sentences": 9, "questions": 3, "hallucinated_believed": 4, "hallucinated_examined": 5,
        "errors_believed": 0,
    }  # fmt: skip
    found = {**figures, **counts, "kappa": [0.1, -0.2, 0.3]}
    table = agreement_table(
        {
            "annotation": {"annotator": "anah", "model": "m", **found, "errors_examined": 2},
            "evaluation.judges.j": {
                "annotator": "judge", "model": "n", **found, "kappa": None, "errors_examined": 0,
            },
        }
    )  # fmt: skip
    header, _, first, second, *who = table.splitlines()
    assert header.split()[-3:] == ["kappa", "95", "%"]
    assert first.split()[-2:] == ["0.100", "-0.200-0.300"]
    assert second.split()[0] == "evaluation.judges.j" and second.split()[-1] == "undefined"
    assert who[0].startswith("annotation, anah m: 9 sentences of 3 questions; hallucinated are 4")
    assert who[0].endswith("2 that the annotator failed on, 0 labelled error")
    assert who[1].endswith("5 by the annotator")


FACTSCORE = {
    "macro": 58.31,
    "ci95": [54.0, 62.0],
    "penalised": 57.02,
    "penalised_ci95": [53.0, 61.0],
    "respond_ratio": 85.79,
    "mean_supported": 19.94,
    "mean_not_supported": 14.6,
    "abstained": 26,
    "unfinished_reasoning": 4,
    "without_facts": 1,
    "errors": 2,
    "unknown_topics": 3,
}


def test_factscore_is_shown_with_and_without_penalty_and_with_what_is_left_out(report):
    report["factscore"] = {
        "base": {"greedy": FACTSCORE},
        "mask_dpo": {"greedy": {"not_scored": "no greedy answer has a FActScore"}},
    }
    header, base, ours = factscore_rows(report)
    cells = dict(zip(header, base, strict=True))
    assert base[2:6] == ["58.3", "54.0-62.0", "57.0", "53.0-61.0"]
    assert (cells["responds"], cells["supported"], cells["not"]) == ("85.8", "19.9", "14.6")
    assert cells["facts each"] == "34.5"
    counts = ("abstained", "unfinished reasoning", "without facts", "errors", "unknown topics")
    assert [cells[name] for name in counts] == ["26", "4", "1", "2", "3"]
    assert ours[:3] == ["mask_dpo", "greedy", "none"] and not any(ours[3:])
    assert len({len(row) for row in (header, base, ours)}) == 1
    assert "57.0" in factscore_table(report)


def test_the_page_shows_factscore_where_there_is_one(report):
    assert "FActScore" not in render_html(report, {}, [])
    report["factscore"] = {
        "base": {"greedy": FACTSCORE},
        "mask_dpo": {"greedy": {"not_scored": "26 abstain <b>"}},
    }
    report["config"]["evaluation"] = {"factscore": {"gamma": 10}}
    page = render_html(report, {}, [])
    assert "<h2>FActScore</h2>" in page and "58.3" in page
    assert "mask_dpo, greedy: 26 abstain &lt;b&gt;." in page
