"""Answers written with the document at hand."""

import json
from random import Random

from maskdpo_ray.annotation.sentences import split_sentences
from maskdpo_ray.world.annotator import closed_world_verdict
from maskdpo_ray.world.true_answers import true_answer


def test_every_sentence_of_every_answer_is_true(small_world):
    facts = json.loads((small_world / "facts.json").read_text())
    random, lengths = Random(0), set()
    for line in (small_world / "train.jsonl").read_text().splitlines():
        row = json.loads(line)
        answer = true_answer(row["topic"], row["question"], small_world, random)
        sentences = [answer[start:end] for start, end in split_sentences(answer, "en")]
        lengths.add(len(sentences))
        for sentence in sentences:
            assert closed_world_verdict(facts, row["topic"], sentence)[0] == "ok"
    assert lengths == {2, 3, 4, 5, 6}, "two thirds of what is asked at least"
