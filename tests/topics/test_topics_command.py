"""``maskdpo topics`` from files to files, with the policy's own embedding."""

import json
from collections import defaultdict

import models
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from maskdpo_ray.cli import main
from maskdpo_ray.config import ModelConfig
from maskdpo_ray.questions import read_questions
from maskdpo_ray.topics.embedding import ModelEmbedding

PEOPLE = ["Ada", "Bo", "Cy", "Dee", "Eve", "Flo", "Gus", "Hal", "Ida", "Jo", "Kit", "Lea"]
POOL = [
    {"entity": f"{name} the baker", "prompt": f"{what} {name}?", "document": f"{name} bakes."}
    for what in ("Who is", "Where lives")
    for name in PEOPLE
]
TARGETS = [
    {"entity": "Ada the maker", "prompt": "What makes Ada?"},
    {"entity": "Hal the banker", "prompt": "Which bank has Hal?"},
]


@pytest.fixture
def files(tmp_path):
    pq.write_table(pa.Table.from_pylist(POOL), tmp_path / "pool.parquet")
    lines = "".join(json.dumps(row) + "\n" for row in TARGETS)
    (tmp_path / "targets.jsonl").write_text(lines)
    return tmp_path


def arguments(folder, *more: str, budget: int = 4) -> list[str]:
    pool, targets, out = (folder / n for n in ("pool.parquet", "targets.jsonl", "chosen.jsonl"))
    named = ["--column", "topic=entity", "--column", "question=prompt"]
    policy = [] if "random" in more else ["--model", models.tiny_llama(), "--dtype", "float32"]
    fixed = [str(pool), "--for", str(targets), "--budget", str(budget), "--out", str(out)]
    return ["topics", *fixed, *named, *policy, *more]


def chosen(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "chosen.jsonl").read_text().splitlines()]


def refused(capsys, *arguments: str) -> str:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_the_nearest_topics_come_out_whole(files, capsys):
    assert main(arguments(files)) == 0
    embed = ModelEmbedding(ModelConfig(path=models.tiny_llama(), dtype="float32"))
    targets = embed.vectors([row["entity"] for row in TARGETS])
    distances = {
        f"{name} the baker": 1 - (embed.vectors([f"{name} the baker"]) @ targets.T).max()
        for name in PEOPLE
    }
    wanted = sorted(distances, key=distances.get)[:4]
    rows = chosen(files)
    questions = defaultdict(list)
    for row in rows:
        questions[row["topic"]].append(row["question"])
        assert row["distance"] == pytest.approx(distances[row["topic"]], abs=2e-6)
    assert list(questions) == wanted
    for topic, asked in questions.items():
        assert asked == [row["prompt"] for row in POOL if row["entity"] == topic]
    summary = json.loads((files / "chosen.summary.json").read_text())
    assert [topic["topic"] for topic in summary["chosen"]] == wanted
    assert summary["pool"]["topics"] == 12 and summary["questions"] == 8
    assert summary["embedding"]["pooling"] == "framed"
    assert summary["embedding"]["identity"].startswith("sha256:")
    assert summary["distance"]["chosen"]["most"] <= summary["distance"]["pool"]["most"]
    assert "4 of 12 topics with 8 questions" in capsys.readouterr().out


def test_what_comes_out_is_a_file_of_questions(files):
    assert main(arguments(files)) == 0
    rows = [row for _, row in read_questions(files / "chosen.jsonl")]
    assert len(rows) == 8
    assert all(row["document"].endswith("bakes.") for row in rows)
    assert [row["id"] for row in rows] == [row["id"] for row in chosen(files)]


def test_the_same_twice_and_a_larger_budget_adds(files):
    assert main(arguments(files, "--diversity", "0.5")) == 0
    first = chosen(files)
    assert main(arguments(files, "--diversity", "0.5")) == 0
    assert chosen(files) == first
    assert main(arguments(files, "--diversity", "0.5", budget=9)) == 0
    assert chosen(files)[: len(first)] == first
    assert main(arguments(files)) == 0
    assert {row["topic"] for row in chosen(files)} != {row["topic"] for row in first}


def test_random_needs_no_model_and_follows_its_seed(files):
    found = []
    for seed in ("0", "0", "1"):
        assert main(arguments(files, "--embedding", "random", "--seed", seed)) == 0
        found.append(chosen(files))
    assert found[0] == found[1]
    assert {row["topic"] for row in found[0]} != {row["topic"] for row in found[2]}


def test_a_topic_or_question_of_the_targets_is_never_chosen(files, capsys):
    shared = [
        {"entity": " ADA the baker", "prompt": "New?"},
        {"entity": "B", "prompt": "who is  bo?"},
    ]
    lines = "".join(json.dumps(row) + "\n" for row in shared)
    (files / "targets.jsonl").write_text(lines)
    assert main(arguments(files, budget=10)) == 0
    assert "2 topics of the pool are left out" in capsys.readouterr().err
    topics = {row["topic"] for row in chosen(files)}
    assert len(topics) == 10 and not topics & {"Ada the baker", "Bo the baker"}
    summary = json.loads((files / "chosen.summary.json").read_text())
    assert summary["left_out"] == ["Ada the baker", "Bo the baker"]
    assert main(arguments(files, budget=11)) == 2
    assert "has 10 topics to choose from" in capsys.readouterr().err


def test_rejected_rows_are_counted_and_questions_may_be_embedded_too(files):
    rows = [*POOL, {"entity": "Mo", "prompt": " ", "document": None}]
    pq.write_table(pa.Table.from_pylist(rows), files / "pool.parquet")
    assert main(arguments(files, "--text", "topic+questions")) == 0
    summary = json.loads((files / "chosen.summary.json").read_text())
    assert summary["pool"]["rejected"] == {"empty_question": 1}
    assert summary["pool"]["questions"] == 24
    assert summary["embedding"]["text"] == "topic+questions"
    embed = ModelEmbedding(ModelConfig(path=models.tiny_llama(), dtype="float32"))
    first = summary["chosen"][0]
    texts = [
        "\n".join([first["topic"], *(r["prompt"] for r in POOL if r["entity"] == first["topic"])]),
        *(f"{row['entity']}\n{row['prompt']}" for row in TARGETS),
    ]
    vectors = embed.vectors(texts)
    assert first["distance"] == pytest.approx(1 - np.max(vectors[1:] @ vectors[0]), abs=2e-6)


def test_what_cannot_be_done_is_one_line(files, capsys):
    assert "no question file at" in refused(
        capsys, "topics", f"{files}/none.jsonl", *arguments(files)[2:]
    )
    column = arguments(files, "--column", "topic=subject")
    assert "--column.topic: " in refused(capsys, *column)
    assert "--model is missing" in refused(capsys, *arguments(files)[:-4])
    assert "--seed is of --embedding random" in refused(capsys, *arguments(files, "--seed", "1"))
    policy = arguments(files, "--embedding", "random", "--layer", "1")
    assert "--layer is of a model's embedding" in refused(capsys, *policy)
    assert "must read OURS=THEIRS" in refused(capsys, *arguments(files, "--column", "topic"))
    assert "--model /none" in refused(capsys, *arguments(files, "--model", "/none")).replace(
        "'", ""
    )


def test_candidates_are_written_as_they_were_read(files, tmp_path):
    answer = {
        "response": "A b.",
        "model": "m",
        "sentences": [{"start": 0, "end": 4, "label": "contradictory"}],
    }
    rows = [{"topic": n, "question": f"{n}?", "candidates": [answer]} for n in ("Ada", "Bo")]
    pool = tmp_path / "pool.jsonl"
    pool.write_text("".join(json.dumps(row) + "\n" for row in rows))
    target = tmp_path / "target.jsonl"
    target.write_text('{"question": "Who?"}\n')
    given = [str(pool), "--for", str(target), "--budget", "2", "--embedding", "random"]
    assert main(["topics", *given, "--out", f"{tmp_path}/chosen.jsonl"]) == 0
    again = dict(read_questions(tmp_path / "chosen.jsonl"))
    assert again == dict(read_questions(pool))
    assert chosen(tmp_path)[0]["candidates"] == [answer]
