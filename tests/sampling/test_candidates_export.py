"""Candidates go to a program of somebody else and come back as they were sampled."""

import asyncio
import json

import models
import pytest

from maskdpo_ray.config import AnnotationConfig, ModelConfig, PreferenceConfig, build_config
from maskdpo_ray.engine.chat import end_of_turn_id, response_text
from maskdpo_ray.errors import RowRejected, UserError
from maskdpo_ray.pipeline import report, run
from maskdpo_ray.preference.processor import PairBuilder
from maskdpo_ray.questions import read_questions
from maskdpo_ray.sampling.export import exported
from maskdpo_ray.sampling.factory import build_given
from maskdpo_ray.stages import Stages
from maskdpo_ray.stages.annotating import build_annotator

MODEL = ModelConfig(path=models.tiny_llama())


@pytest.fixture(scope="module")
def given():
    return build_given(MODEL)


@pytest.fixture(scope="module")
def sampled(given):
    """A question as the sampler leaves it. Its answers are tokenized in another way than a
    tokenizer would; the last was cut."""
    tokenizer, end = given._tokenizer, end_of_turn_id(given._tokenizer)

    def candidate(index: int, text: str, finish: str) -> dict:
        ids = [token for letter in text for token in tokenizer.encode(letter)]
        assert response_text(tokenizer, ids) == text
        return {
            "index": index, "seed": index, "model": "m", "response": text,
            "token_ids": [*ids, end] if finish == "stop" else ids, "finish_reason": finish,
            "decoding": "sampled", "sentences": [],
        }  # fmt: skip

    answers = [("Ada won. She moved.", "stop"), ("He lost. He", "length"), ("", "stop")]
    return {
        "id": "q", "topic": "Ada", "question": "Who?", "document": None, "language": "en",
        "prompt_ids": [1], "candidates": [candidate(n, *each) for n, each in enumerate(answers)],
    }  # fmt: skip


def came_back(row: dict, given, tmp_path, label) -> dict | RowRejected:
    """The question after somebody else's program has labelled it."""
    line = json.loads(json.dumps(exported(row)))
    for number, candidate in enumerate(line["candidates"]):
        for sentence in candidate["sentences"]:
            if (word := label(number, sentence["text"])) is not None:
                sentence["label"] = word
    (tmp_path / "labelled.jsonl").write_text(json.dumps(line))
    [(_, read)] = read_questions(tmp_path / "labelled.jsonl")
    return asyncio.run(given([read]))[0]


def as_sampled(row: dict) -> list[tuple]:
    keys = ("response", "token_ids", "finish_reason", "model")
    return [tuple(candidate[key] for key in keys) for candidate in row["candidates"]]


def test_answers_come_back_as_sampled(sampled, given, tmp_path):
    back = came_back(sampled, given, tmp_path, lambda number, text: "ok")
    assert as_sampled(back) == as_sampled(sampled)
    assert {back[key] for key in ("id", "topic", "question", "language")} == {
        sampled[key] for key in ("id", "topic", "question", "language")
    }


def test_pairs_from_labels_are_those_of_an_annotator_inside(sampled, given, tmp_path):
    inside = [
        {**candidate, "sentences": [
            {"start": each["start"], "end": each["end"], "verdict": verdict(n, each["text"]),
             "detail": "", "confidence": None}
            for each in exported(sampled)["candidates"][n]["sentences"]
        ]}
        for n, candidate in enumerate(sampled["candidates"])
    ]  # fmt: skip
    back = came_back(sampled, given, tmp_path, verdict)
    [labelled] = asyncio.run(build_annotator(AnnotationConfig.of(annotator="labels"))([back]))
    pairs = PairBuilder(MODEL, PreferenceConfig(max_length=256))
    rows = [{**sampled, "prompt_ids": back["prompt_ids"], "candidates": inside}, labelled]
    [[one], [other]] = asyncio.run(pairs(rows))
    learnt = [
        [(pair[side]["token_ids"], pair[side]["weights"]) for side in ("chosen", "rejected")]
        for pair in (one, other)
    ]
    assert learnt[0] == learnt[1]
    cut = other["rejected"]
    assert cut["token_ids"] == sampled["candidates"][1]["token_ids"], "no end of turn is learnt"


def verdict(number: int, text: str) -> str:
    return "ok" if number == 0 else "contradictory"


def test_what_nobody_labelled_is_not_labelled(sampled, given, tmp_path):
    back = came_back(sampled, given, tmp_path, lambda number, text: None)
    assert [candidate["sentences"] for candidate in back["candidates"]] == [[], [], []]
    [rejected] = asyncio.run(build_annotator(AnnotationConfig.of(annotator="labels"))([back]))
    assert rejected.reason == "labels_missing"


def test_a_text_that_was_cut_gets_no_end_of_turn(given):
    end = end_of_turn_id(given._tokenizer)
    ended = given.candidate(0, {"response": "He lost. He"})
    cut = given.candidate(0, {"response": "He lost. He", "finish_reason": "length"})
    assert ended["token_ids"] == [*cut["token_ids"], end]
    assert (ended["finish_reason"], cut["finish_reason"]) == ("input", "length")


@pytest.mark.parametrize("ids", [[5], [2**30], [1, 10**6]])
def test_ids_of_another_text_make_a_candidate_unusable(given, ids):
    out = given.candidate(0, {"response": "He lost.", "token_ids": ids})
    assert (out["response"], out["token_ids"]) == ("He lost.", [])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"token_ids": ["a"]}, "a token id of candidate 0 must be int, not str"),
        ({"token_ids": [-1]}, "candidate 0 has the token id -1"),
        ({"token_ids": "1"}, "token_ids of candidate 0 must be list"),
        ({"finish_reason": "end"}, "finish_reason of candidate 0 is 'end'; one of stop, length"),
        ({"sentences": [{"start": 0, "end": 2, "label": "ok"}, {"start": 2, "end": 3}]}, "label"),
    ],
)
def test_what_cannot_be_meant_is_rejected(changed, words, tmp_path):
    candidate = {"response": "He lost.", **changed}
    (tmp_path / "q.jsonl").write_text(json.dumps({"question": "?", "candidates": [candidate]}))
    [(_, rejected)] = read_questions(tmp_path / "q.jsonl")
    assert isinstance(rejected, RowRejected) and words in rejected.detail


def test_a_report_needs_no_annotator_either(tmp_path, capsys):
    (tmp_path / "q.jsonl").write_text('{"question": "Who?"}\n')
    given = {
        "run_dir": str(tmp_path / "run"), "model": {"path": models.tiny_llama()},
        "data": {"train": str(tmp_path / "q.jsonl")},
    }  # fmt: skip
    stages = Stages(build_config(given))
    stages.questions("train")
    report(Stages(build_config(given), look=True))
    assert "report:" in capsys.readouterr().err
    with pytest.raises(UserError, match="annotation is missing: set annotation.annotator"):
        run(stages)
