"""A second policy of a world."""

import json
import shutil

import pytest

from maskdpo_ray.world.other_policy import build_other_policy


@pytest.fixture(scope="module")
def other(small_world, tmp_path_factory):
    world = shutil.copytree(small_world, tmp_path_factory.mktemp("world") / "small")
    return build_other_policy(world)


def test_it_speaks_like_the_first_and_says_other_things(other, small_world):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from maskdpo_ray.world.annotator import readings

    answers = {}
    for folder in (small_world / "policy", other):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder)
        said = []
        for line in (small_world / "test.jsonl").read_text().splitlines()[:8]:
            prompt = tokenizer.apply_chat_template(
                [{"role": "user", "content": json.loads(line)["question"]}],
                add_generation_prompt=True, return_tensors="pt", return_dict=True,
            )  # fmt: skip
            with torch.inference_mode():
                ids = model.generate(**prompt, do_sample=False, max_new_tokens=30)
            answer = ids[0, prompt["input_ids"].shape[1] :]
            text = tokenizer.decode(answer, skip_special_tokens=True)
            said.append(text.partition(".")[0] + ".")
        answers[folder] = said
    first, second = answers.values()
    assert first != second
    known = [any(pattern.fullmatch(text) for _, pattern in readings()) for text in second]
    assert sum(known) >= 6, second


def test_it_is_built_once(other):
    made = (other / "model.safetensors").stat().st_mtime_ns
    assert build_other_policy(other.parent) == other
    assert (other / "model.safetensors").stat().st_mtime_ns == made
