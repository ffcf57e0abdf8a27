"""Questions that bring their answers along."""

import json

import pytest
from selections import best_and_worst

from maskdpo_ray.annotation.given_labels import check_labels
from maskdpo_ray.config import PreferenceConfig
from maskdpo_ray.experiments.ready_pairs import (
    decided,
    judged,
    larger_reward_pairs,
    with_answers,
)
from maskdpo_ray.questions import read_questions
from maskdpo_ray.sampling.given import GivenCandidates


def question(*rewards) -> dict:
    candidates = [
        {"index": n, "response": f"answer {n}", "reward": each} for n, each in enumerate(rewards)
    ]
    return {
        "id": "q", "topic": "t", "question": "Who?", "document": None, "language": "en",
        "candidates": candidates,
    }  # fmt: skip


def reward(candidate):
    return candidate["reward"]


def texts(pairs) -> set[tuple[str, ...]]:
    return {tuple(answer["response"] for answer in pair["candidates"]) for pair in pairs}


def test_every_pair_with_a_strictly_larger_reward():
    pairs = larger_reward_pairs(question(0.5, 1.0, 0.5, None), reward, 99, 0)
    assert texts(pairs) == {("answer 1", "answer 0"), ("answer 1", "answer 2")}
    assert {pair["id"] for pair in pairs} == {"q~1~0", "q~1~2"}


def test_so_many_of_one_question_at_most():
    row = question(0.0, 0.25, 0.5, 0.75, 1.0)
    everything = larger_reward_pairs(row, reward, 99, 0)
    assert len(everything) == 10
    some = larger_reward_pairs(row, reward, 4, 0)
    assert len(some) == 4 and texts(some) < texts(everything)
    assert texts(some) == texts(larger_reward_pairs(row, reward, 4, 0))
    assert texts(some) != texts(larger_reward_pairs(row, reward, 4, 1))


def read_back(tmp_path, row) -> dict:
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    ((_, made),) = read_questions(tmp_path / "rows.jsonl")
    return made


def test_a_run_reads_the_order_that_was_decided(tmp_path):
    made = read_back(tmp_path, decided(question(), "The better.", "The worse.", "q~1~2"))
    check_labels(made)
    for number, candidate in enumerate(made["candidates"]):
        candidate["token_ids"] = [number]
    assert made["id"] == "q~1~2"
    for unverifiable in ("incorrect", "mask", "correct"):
        for select in ("precision", "f1@k", "net"):
            chosen = PreferenceConfig(select=select, unverifiable=unverifiable, no_fact="ignore")
            assert best_and_worst(made["candidates"], chosen) == (0, 1)


@pytest.mark.parametrize("document", [None, "What is true."])
def test_answers_without_verdicts_are_for_an_annotator(tmp_path, document):
    made = read_back(tmp_path, with_answers({**question(), "document": document}, "One.", "Two."))
    assert [c["response"] for c in made["candidates"]] == ["One.", "Two."]
    assert all(not c["sentences"] for c in made["candidates"])
    assert (made["topic"], made["document"]) == ("t", document)


THOUGHT = "<think>\nWho was she?\n</think>\n\n"


def thinker(index: int, text: str, verdict: str) -> dict:
    sentences = [{"start": 0, "end": len(text), "verdict": verdict}]
    return {"index": index, "reasoning": THOUGHT, "response": text, "sentences": sentences,
            "reward": float(index)}  # fmt: skip


@pytest.mark.parametrize("make", ["judged", "rewarded"])
def test_an_answer_is_handed_on_with_its_reasoning(make, tmp_path, llama3_tokenizer):
    """The run that reads it tells the two apart again; labels stay where they were."""
    answers = [thinker(0, "She was a cook.", "contradictory"), thinker(1, "A countess.", "ok")]
    row = {**question(), "candidates": answers}
    if make == "judged":
        rows = [judged(row, *answers)]
    else:
        rows = larger_reward_pairs(row, reward, 9, 0)
    made = read_back(tmp_path, rows[0])
    filled = GivenCandidates(llama3_tokenizer, reasoning=("<think>", "</think>"))._fill(made)
    for candidate in filled["candidates"]:
        assert candidate["reasoning"] == THOUGHT and candidate["reasoning_tokens"] > 0
        (sentence,) = candidate["sentences"]
        assert (sentence["start"], sentence["end"]) == (0, len(candidate["response"]))
    verdicts = {c["response"]: c["sentences"][0]["verdict"] for c in filled["candidates"]}
    assert verdicts == {"She was a cook.": "contradictory", "A countess.": "ok"}
