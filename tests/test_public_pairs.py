"""Preference pairs that exist already, in the published format: through the stages and out."""

import json

import models
import pyarrow.parquet as pq

from maskdpo_ray.cli import main

KINDS = {True: "no_hallucination", False: "hallucination"}


def side(role: str, sentences: list[tuple[str, bool]]) -> dict:
    return {
        role: [{"role": "assistant", "content": " ".join(text for text, _ in sentences)}],
        f"{role}_item": {
            "sents": [text for text, _ in sentences],
            "type": [KINDS[correct] for _, correct in sentences],
        },
    }


def pair(question: str, chosen: list, rejected: list) -> dict:
    prompt = [{"role": "user", "content": question}]
    return {"prompt": prompt, **side("chosen", chosen), **side("rejected", rejected)}


def test_pairs_of_the_public_format_come_out_as_they_went_in(ray_cluster, tmp_path, capsys):
    given = [
        pair(
            "Who is Ada?",
            [("She wrote notes.", True), ("She flew.", False)],
            [("She sang.", False), ("Nobody knows.", False)],
        ),
        pair("Wer ist Bö?", [("Ein Maler aus Köln.", True)], [("Ein König.", False)]),
        pair("Who is Cy?", [("He ran.", True)], [("He swam.", True)]),  # neither is better
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
    config = {
        "run_dir": f"{tmp_path}/run",
        "model": {"path": models.tiny_llama(), "dtype": "float32"},
        "data": {"train": f"{tmp_path}/pairs.jsonl", "format": "pairs"},
        "sampling": {"source": "input"},
        "annotation": {"annotator": "labels"},
        "preference": {"max_length": 512},
    }
    path = tmp_path / "c.yaml"
    path.write_text(json.dumps(config))
    for verb in ("sample", "annotate", "pair"):
        assert main([verb, str(path)]) == 0
    assert "1 rejected (equal_scores)" in capsys.readouterr().err
    (written,) = (tmp_path / "run").glob("pair/*/pairs.jsonl")
    lines = [json.loads(line) for line in written.read_text().splitlines()]
    assert sorted(lines, key=str) == sorted(given[:2], key=str)

    # A person finds that he did not swim: there is a pair, and nobody is asked again.
    (rejected,) = (tmp_path / "run").glob("pair/*/rejected-*.parquet")
    [of_cy] = pq.read_table(rejected)["id"].to_pylist()
    answer = "He swam."
    label = {"question_id": of_cy, "question": "Who is Cy?", "response": answer, "start": 0}
    labels = tmp_path / "review.jsonl"
    labels.write_text(json.dumps({**label, "end": len(answer), "label": "contradictory"}))
    changed = [str(path), f"annotation.overrides={labels}"]
    assert main(["pair", *changed]) == 2
    assert "annotation.overrides" in capsys.readouterr().err, "another run, so it is asked"
    assert main(["pair", *changed, "--rerun"]) == 0
    assert "3 in, 3 out" in capsys.readouterr().err
    assert len(list((tmp_path / "run" / "annotate").iterdir())) == 1
    assert main(["pair", str(path), f"annotation.overrides={tmp_path}/none.jsonl", "--rerun"]) == 2
    assert "none.jsonl" in capsys.readouterr().err
