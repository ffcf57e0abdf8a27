import json
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice

import pytest
import torch

from maskdpo_ray.world.annotator import closed_world_verdict
from maskdpo_ray.world.facts import make_people
from maskdpo_ray.world.policy import (
    NOT_A_TARGET,
    PolicySettings,
    collate,
    encode,
    encyclopedia,
    pretrain,
    set_gradient,
    train_tokenizer,
)

PEOPLE = make_people(30, seed=5)
TINY = PolicySettings(
    vocabulary=500, hidden=64, layers=1, heads=2, steps=4, batch=8, warmup_steps=1
)
PAGES = list(islice(encyclopedia(PEOPLE, seed=0), 500))


def read_jsonl(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([text for page in PAGES for text in page], TINY)


def test_the_encyclopedia_writes_more_about_famous_people():
    pages = Counter()
    for question, _ in islice(encyclopedia(PEOPLE, seed=1), 20_000):
        pages.update(person.name for person in PEOPLE if person.name in question)
    total = sum(person.fame for person in PEOPLE)
    for person in PEOPLE:
        assert pages[person.name] / 20_000 == pytest.approx(person.fame / total, abs=0.01)


def test_prompt_and_response_are_the_chat_template(tokenizer):
    for question, answer in PAGES[:50]:
        prompt, response = encode(tokenizer, question, answer)
        conversation = [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
        text = tokenizer.apply_chat_template(conversation, tokenize=False)
        assert tokenizer.decode(prompt + response) == text
        assert tokenizer.apply_chat_template(conversation, return_dict=False) == prompt + response
        assert response[-1] == tokenizer.eos_token_id


def test_the_tokenizer_spells_any_text(tokenizer):
    for text in (" two  spaces\n\n", "Ångström 诗人 🙂!", PAGES[0][1]):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_the_loss_is_on_the_answers_alone():
    ids, labels = collate([([5, 6, 7], [8, 2]), ([5], [9, 9, 9, 2, 4])], pad_id=0)
    assert ids.tolist() == [[5, 6, 7, 8, 2, 0], [5, 9, 9, 9, 2, 4]]
    blank = NOT_A_TARGET
    assert labels.tolist() == [[blank, blank, blank, 8, 2, blank], [blank, 9, 9, 9, 2, 4]]


def test_micro_batches_add_up_to_the_batch(tokenizer):
    model = pretrain(tokenizer, iter(PAGES), replace(TINY, steps=1), 0, print)
    batch = [encode(tokenizer, *page) for page in PAGES[:10]]

    def loss_and_gradient(micro_batch: int, map=map) -> tuple[float, torch.Tensor]:
        loss = set_gradient(model, batch, micro_batch, map)
        return loss, torch.cat([p.grad.flatten() for p in model.parameters()])

    whole_loss, whole = loss_and_gradient(10)
    loss, parts = loss_and_gradient(3)
    assert loss == pytest.approx(whole_loss, rel=1e-5)
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)

    with ThreadPoolExecutor(3) as pool:
        for _ in range(5):
            at_once = loss_and_gradient(3, pool.map)
            assert at_once[0] == loss and torch.equal(at_once[1], parts)

    ids, labels = collate(batch, tokenizer.pad_token_id)
    assert whole_loss == pytest.approx(model(input_ids=ids, labels=labels).loss.item(), rel=1e-5)


def test_a_seed_is_a_policy(tokenizer):
    def weights(seed: int) -> torch.Tensor:
        model = pretrain(tokenizer, iter(PAGES), TINY, seed, lambda line: None)
        return torch.cat([p.flatten() for p in model.parameters()])

    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)


def test_pretraining_learns_and_reports(tokenizer):
    lines = []
    pretrain(tokenizer, iter(PAGES), replace(TINY, steps=30), 0, lines.append)
    first, last = (float(line.split("loss ")[1].split()[0]) for line in (lines[0], lines[-1]))
    assert lines[0].startswith("pre-training step 1/30") and lines[-1].endswith("0 s left")
    assert last < first - 1


GENERATE = """
import json, sys
from transformers import AutoTokenizer
from vllm import LLM, SamplingParams

policy, questions = sys.argv[1], json.loads(sys.argv[2])
tokenizer = AutoTokenizer.from_pretrained(policy)
engine = LLM(
    policy, dtype="float32", enforce_eager=True, enable_chunked_prefill=False,
    distributed_executor_backend="uni", max_model_len=512, max_num_batched_tokens=2048,
)
prompts = [
    {"prompt_token_ids": tokenizer.apply_chat_template(
        [{"role": "user", "content": q}], add_generation_prompt=True, return_dict=False)}
    for q in questions
]
outputs = engine.generate(prompts, SamplingParams(temperature=0, max_tokens=60), use_tqdm=False)
print("ANSWERS" + json.dumps([list(o.outputs[0].token_ids) for o in outputs]))
"""


def test_vllm_loads_the_policy_and_answers_as_transformers_does(small_world):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rows = read_jsonl(small_world / "train.jsonl")
    policy = str(small_world / "policy")
    tokenizer = AutoTokenizer.from_pretrained(policy)
    model = AutoModelForCausalLM.from_pretrained(policy, dtype="float32")
    expected = []
    for row in rows[:6]:
        prompt, _ = encode(tokenizer, row["question"], "")
        output = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=60)
        expected.append(output[0, len(prompt) :].tolist())
    environment = os.environ | {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "OMP_NUM_THREADS": "1",
    }
    run = subprocess.run(
        [sys.executable, "-c", GENERATE, policy, json.dumps([row["question"] for row in rows[:6]])],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    line = next(line for line in run.stdout.splitlines() if line.startswith("ANSWERS"))
    assert json.loads(line.removeprefix("ANSWERS")) == expected


def test_the_small_policy_speaks_in_sentences_of_its_world(small_world):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    facts = json.loads((small_world / "facts.json").read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(small_world / "policy")
    model = AutoModelForCausalLM.from_pretrained(small_world / "policy")
    verdicts = Counter()
    for row in read_jsonl(small_world / "train.jsonl"):
        prompt, _ = encode(tokenizer, row["question"], "")
        output = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=120)
        answer = tokenizer.decode(output[0, len(prompt) :], skip_special_tokens=True)
        for sentence in answer.split(".")[:-1]:
            verdicts[closed_world_verdict(facts, row["topic"], sentence + ".")[0]] += 1
    total = sum(verdicts.values())
    assert verdicts["unverifiable"] < 0.3 * total
    assert verdicts["ok"] > 0.1 * total and verdicts["contradictory"] > 0.1 * total
