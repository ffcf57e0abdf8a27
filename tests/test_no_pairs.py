"""A run that ends with no pair at all says so, and its report stands."""

import json

import models
import pytest

from maskdpo_ray.cli import main

OK = [{"start": 0, "end": 8, "label": "ok"}]


@pytest.mark.parametrize(
    ("answers", "reason", "lost"),
    [
        (["She ran.", "He swam."], "equal_scores", {"equal_scores": 2}),
        (["She ran."], "too_few_candidates", {"too_few_candidates": 2}),
    ],
)
def test_no_pair_is_told_with_its_reasons(ray_cluster, tmp_path, capsys, answers, reason, lost):
    path = configured(tmp_path, [{"response": text, "sentences": OK} for text in answers])
    for _ in range(2):
        assert main(["run", str(path)]) == 2
        error = capsys.readouterr().err
        assert "maskdpo: no preference pair to learn from" in error
        assert f"2 rejected ({reason})" in error
        assert f"2 rejected ({reason}), first: " in error, "with what was said of one"
        report = json.loads((tmp_path / "run" / "report.json").read_text())
        assert report["pairs"] == {"questions": 2, "kept": 0, "dropped": lost}
        assert report["unfinished_questions"] == 0
    assert main(["train", str(path)]) == 2
    assert "no preference pair to learn from" in capsys.readouterr().err


def test_stages_one_at_a_time_after_one_that_rejected_every_question(ray_cluster, tmp_path):
    path = configured(tmp_path, [])
    for verb in ("sample", "annotate", "pair", "report"):
        assert main([verb, str(path)]) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["pairs"] == {"questions": 2, "kept": 0, "dropped": {"too_few_candidates": 2}}
    assert report["stages"]["pair"] == {"in": 0, "out": 0, "rejected": {}}


def configured(tmp_path, candidates):
    """The configuration of two questions that have these candidates."""
    row = {"topic": "t", "question": "What did they do?", "candidates": candidates}
    questions = tmp_path / "q.jsonl"
    questions.write_text("".join(json.dumps({**row, "id": name}) + "\n" for name in "ab"))
    config = {
        "run_dir": f"{tmp_path}/run",
        "model": {"path": models.tiny_llama(), "dtype": "float32"},
        "data": {"train": str(questions)},
        "sampling": {"source": "input"},
        "annotation": {"annotator": "labels"},
        "preference": {"max_length": 512},
    }
    path = tmp_path / "c.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML
    return path
