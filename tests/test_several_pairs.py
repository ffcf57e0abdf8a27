"""Questions that give several pairs, through the stages and into training: every count adds up."""

import json

import models

from maskdpo_ray.cli import main
from maskdpo_ray.config import read_config
from maskdpo_ray.stages import Stages

ANSWERS = {
    "both": ["oo", "on", "ou", "uu", "ouu", "uuu"],
    "one": ["o", "u", "e"],
    "none": ["o", "oo"],
}


def candidate(letters: str, number: int) -> dict:
    """Answers of sentences that say different things."""
    names = {"o": "ok", "n": "nofact", "u": "unverifiable", "e": "error"}
    words = [f"She {word} {number}." for word in ("ran", "swam", "sang")[: len(letters)]]
    text, sentences = " ".join(words), []
    for word, letter in zip(words, letters, strict=True):
        start = text.index(word)
        sentences.append({"start": start, "end": start + len(word), "label": names[letter]})
    return {"response": text, "sentences": sentences}


def configured(tmp_path, name, systems=None, **preference):
    rows = [
        {
            "id": name,
            "topic": f"topic {name}",
            "question": f"Who is {name}?",
            "candidates": [candidate(letters, n) for n, letters in enumerate(answers)],
        }
        for name, answers in ANSWERS.items()
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "run_dir": f"{tmp_path}/run",
        "model": {"path": models.tiny_llama(), "dtype": "float32"},
        "data": {"train": f"{tmp_path}/q.jsonl"},
        "sampling": {"source": "input"},
        "annotation": {"annotator": "labels"},
        "preference": {"max_length": 512, "pairs_per_question": 2, **preference},
        "training": {"max_steps": 1, "holdout": 0.3, "zero_stage": 0},
        **({"systems": systems} if systems else {}),
    }
    path = tmp_path / f"{name}.yaml"
    path.write_text(json.dumps(config))
    return path


def test_several_pairs_of_a_question_are_counted_referred_to_and_learnt(ray_cluster, tmp_path):
    path = configured(tmp_path, "whole", pair_weight="gap")
    assert main(["run", str(path)]) == 0
    stages = Stages(read_config(path))
    rows = {row["id"]: row for row in stages.pair().store.rows()}
    assert {i: row["question_id"] for i, row in rows.items()} == {
        "both#1": "both", "both#2": "both", "one#1": "one"
    }  # fmt: skip
    assert [row["weight"] for _, row in sorted(rows.items())] == [1.0, 1.0, 1.0]
    counts = {"in": 3, "out": 2, "rejected": {"equal_scores": 1}, "pairs": 3}
    assert stages.pair().store.manifest()["counts"] == counts
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["pairs"] == {"questions": 3, "kept": 2, "dropped": {"equal_scores": 1}}
    assert report["unfinished_questions"] == 0
    assert report["stages"]["pair"] == counts | {"left_out": {"error": 1}}
    references = stages.reference().store
    assert references.manifest()["counts"] == {"in": 3, "out": 3, "rejected": {}}
    assert {row["id"] for row in references.rows()} == {row["digest"] for row in rows.values()}
    (metrics,) = stages.train("mask_dpo").folder.read("metrics.jsonl").splitlines()
    assert json.loads(metrics)["step"] == 1
    (public,) = (tmp_path / "run").glob("pair/*/pairs.jsonl")
    assert len(public.read_text().splitlines()) == 3

    part = tmp_path / "part.jsonl"
    part.write_text('{"id": "both", "question": "Who is both?"}\n')
    settings = [f"preference.questions={part}", "--rerun"]
    assert main(["pair", str(path), *settings]) == 0
    some = Stages(read_config(path, settings[:1]), rerun=True).pair().store
    assert {row["id"]: row for row in some.rows()} == {
        i: row for i, row in rows.items() if row["question_id"] == "both"
    }
    assert some.manifest()["counts"] == {
        "in": 3, "out": 1, "rejected": {"not_selected": 2}, "pairs": 2
    }  # fmt: skip


def test_systems_learn_from_pairs_of_their_own(ray_cluster, tmp_path):
    """One graph, one sampling and one reference; only a system with other pairs has its own."""
    net = {"preference": {"select": "net", "net_lambda": 2.0, "pairs_per_question": 1}}
    systems = {
        "mask_dpo": {},
        "net": net,
        "hinge": net | {"loss": "hinge"},
    }
    path = configured(tmp_path, "whole", systems)
    assert main(["run", str(path)]) == 0
    stages = Stages(read_config(path))
    assert {name: stage.store.name for name, stage in stages.pairings(stages.base).items()} == {
        "mask_dpo": "pair", "net": "pair-for-net"
    }  # fmt: skip
    own = stages.pair(system="hinge").store
    assert str(own.folder) == str(stages.pair(system="net").store.folder)
    assert sorted(row["id"] for row in own.rows()) == ["both", "one"]
    assert {row["chosen"]["index"] for row in own.rows() if row["id"] == "both"} == {0}
    known = {row["id"] for row in stages.reference().store.rows()}
    for system, count in (("mask_dpo", 3), ("net", 2), ("hinge", 2)):
        digests = {row["digest"] for row in stages.pair(system=system).store.rows()}
        assert len(digests) == count and digests <= known
        assert stages.train(system).complete
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["stages"]["pair-for-net"]["left_out"] == {"error": 1}
    assert len(list((tmp_path / "run").glob("pair-for-net/*/weighted_pairs.jsonl"))) == 1
    # Again: nothing is left to do.
    keys = {store.name: store.key for store in stages.stores()}
    assert main(["run", str(path)]) == 0
    assert {store.name: store.key for store in Stages(read_config(path)).stores()} == keys
