"""Pairs that bring their weights along, through the graph; and what every run writes for others."""

import json
from pathlib import Path

import models
import pytest

from maskdpo_ray.config import build_config
from maskdpo_ray.errors import UserError
from maskdpo_ray.pipeline import VERBS
from maskdpo_ray.stages import Stages

ANSWERS = {
    "chosen": [("She worked as a baker. ", "ok"), ("She flew.", "contradictory")],
    "rejected": [("A king. ", "contradictory"), ("Tell me more. ", "nofact"), ("Ok.", "ok")],
}


def candidate(kind: str, name: str) -> dict:
    position, sentences, response = 0, [], ""
    for text, label in ANSWERS[kind]:
        response += text.replace("She", name)
        sentences.append({"start": position, "end": len(response), "label": label})
        position = len(response)
    return {"response": response, "sentences": sentences}


def configured(folder: Path, name: str, **sections) -> Path:
    tree = {
        "run_dir": f"{folder}/{name}",
        "model": {"path": models.tiny_llama(), "dtype": "float32", "system_prompt": "Be brief."},
        "preference": {"max_length": 128, "eos": "mask"},
        "training": {
            "learning_rate": 1e-3, "batch_size": 3, "epochs": 1, "checkpoint_every": 9,
            "zero_stage": 0, "holdout": 0.2, "anchor_weight": 0.5, "rejected_floor": 1.0,
        },
        "tracking": {"report_to": []},
        **sections,
    }  # fmt: skip
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(tree))
    return path


def curves(run_dir: Path) -> dict[str, list[dict]]:
    """Metrics of each system but for time and memory."""
    found = {}
    for path in run_dir.glob("train-*/*/metrics.jsonl"):
        lines = map(json.loads, path.read_text().splitlines())
        apart = ("seconds", "tokens_per_second", "memory_gib")
        found[path.parts[-3]] = [{k: v for k, v in s.items() if k not in apart} for s in lines]
    return found


def test_the_pairs_of_a_run_train_another_run_to_the_same_losses(maskdpo, tmp_path):
    people = ["Ada", "Bö", "Cy", "Dee", "她", "Ed", "Flo"]
    questions = tmp_path / "questions.jsonl"
    questions.write_text(
        "".join(
            json.dumps(
                {
                    "id": name,
                    "topic": name,
                    "question": f"Who is {name}?",
                    "candidates": [candidate(kind, name) for kind in ANSWERS],
                }
            )
            + "\n"
            for name in people
        )
    )
    first = configured(
        tmp_path,
        "first",
        data={"train": str(questions)},
        sampling={"source": "input"},
        annotation={"annotator": "labels"},
    )
    maskdpo("run", first)
    (exported,) = (tmp_path / "first").glob("pair/*/weighted_pairs.jsonl")
    rows = [json.loads(line) for line in exported.read_text().splitlines()]
    assert {row["id"] for row in rows} == set(people)
    assert {0.0, 1.0} == {weight for row in rows for weight in row["chosen_weights"]}

    data = {"train": str(exported), "format": "weighted_pairs"}
    with exported.open("a") as lines:
        lines.write(json.dumps({"prompt": "Who?"}) + "\n")
    said = maskdpo("run", configured(tmp_path, "second", data=data))
    for line in ("questions-train: 8 in, 7 out, 1 rejected (malformed_pair)", "pair: 7 in, 7 out"):
        assert f"{line}\n" in said
    learnt = curves(tmp_path / "second")
    assert len(learnt["train-mask_dpo"]) == 2 and "eval/loss" in learnt["train-mask_dpo"][-1]
    assert learnt == curves(tmp_path / "first"), "to the last digit"
    stages = {path.name for path in (tmp_path / "second").iterdir() if path.is_dir()}
    assert stages == {"questions-train", "pair", "reference", "train-mask_dpo"}
    (again,) = (tmp_path / "second").glob("pair/*/weighted_pairs.jsonl")
    assert exported.read_text().splitlines()[:-1] == again.read_text().splitlines()
    assert not list((tmp_path / "second").glob("pair/*/pairs.jsonl")), "there are no verdicts"
    page = (tmp_path / "second" / "report.html").read_text()
    assert "7 of 8 given pairs are learnt from" in page and "works as a baker" not in page

    # TRL reads these columns: docs/data.md.
    datasets = pytest.importorskip("datasets")
    columns = datasets.load_dataset("json", data_files=str(again), split="train")
    columns = columns.select_columns(["prompt", "chosen", "rejected"])
    for row in columns:
        assert [m["role"] for m in row["prompt"]] == ["system", "user"]
        assert [m["role"] for m in (*row["chosen"], *row["rejected"])] == ["assistant"] * 2
    assert columns[0]["chosen"][0]["content"] == "A king. Tell me more. Ok."


JUDGE = {"annotator": "judge", "model": "m"}


def built(tmp_path: Path, **sections):
    (tmp_path / "w.jsonl").write_text(
        json.dumps({"prompt": [5], "chosen": [6], "rejected": [7], "topic": "Ada"}) + "\n"
    )
    (tmp_path / "t.jsonl").write_text(json.dumps({"question": "Who is Bo?"}) + "\n")
    data = {"train": f"{tmp_path}/w.jsonl", "format": "weighted_pairs"}
    model = {"path": models.tiny_llama()}
    tree = {"run_dir": f"{tmp_path}/run", "model": model, "data": data}
    tree["data"] |= sections.pop("data", {})
    return build_config({**tree, **sections})


def test_the_answers_to_test_questions_are_examined_by_who_is_named(tmp_path):
    test = {"test": f"{tmp_path}/t.jsonl"}
    served = {"base_url": "http://host/v1", "model": "m", "constrain": "none"}
    examiner = {"annotator": "judge", "endpoint": served}
    config = built(tmp_path, data=test, evaluation={"annotation": examiner, "judges": {}})
    assert config.annotation is None and list(config.examiners) == [None]
    names = [store.name for store in Stages(config).stores()]
    assert names[:2] == ["questions-train", "pair"] and "evaluate-mask_dpo" in names
    assert not {"sample", "annotate"} & set(names)
    for verb, words in (
        ("sample", "nothing is sampled"), ("annotate", "or annotated"), ("judge-check", "no labels")
    ):  # fmt: skip
        with pytest.raises(UserError, match=words):
            VERBS[verb](Stages(config))
    (tmp_path / "t.jsonl").write_text(json.dumps({"question": "Ada?", "topic": "ada"}) + "\n")
    with pytest.raises(UserError, match="share a topic with data.train"):
        Stages(config, rerun=True).questions("test")


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"data": {"train": None}}, "there are none: give data.train"),
        ({"data": {"split": {"test": 0.1}}}, "format=weighted_pairs brings no test questions"),
        ({"data": {"columns": {"question": "prompt"}}}, "has fixed names"),
        ({"data": {"test": "t"}}, "set evaluation.annotation"),
        ({"sampling": {"source": "input"}}, "remove sampling.source"),
        ({"sampling": {"candidates": 4}}, "remove sampling.candidates"),
        ({"sampling": {"engine": {"max_model_len": 9}}}, "only to answer data.test"),
        ({"preference": {"no_fact": "mask"}}, "remove preference.no_fact"),
        ({"preference": {"questions": "q"}}, "remove preference.questions"),
        ({"annotation": JUDGE}, "nothing is annotated: remove annotation"),
        (
            {"annotation": JUDGE, "data": {"test": "t"}, "evaluation": {"annotation": JUDGE}},
            "nothing is annotated: remove annotation",
        ),
        (
            {"annotation": JUDGE | {"overrides": "labels.jsonl"}, "data": {"test": "t"}},
            "remove annotation.overrides",
        ),
        ({"rounds": 2}, "a round samples its own: set rounds=1"),
    ],
)
def test_what_such_a_run_would_ignore_is_refused(tmp_path, sections, words):
    with pytest.raises(UserError) as caught:
        built(tmp_path, **sections)
    assert words in str(caught.value)


def test_annotation_is_asked_for_where_something_is_annotated(tmp_path):
    with pytest.raises(UserError, match="annotation is missing: set annotation.annotator"):
        _ = built(tmp_path, data={"format": "questions"}).annotator
    alone = {"train": None, "test": "t", "format": "questions"}
    config = built(tmp_path, data=alone, systems={}, evaluation={"annotation": JUDGE})
    assert config.evaluation_annotation.annotator == "judge"
    with pytest.raises(UserError, match="nobody is there to judge new answers"):
        _ = built(tmp_path, data=alone, systems={}).evaluation_annotation
