import asyncio

import numpy as np
import pytest
import torch

from maskdpo_ray.errors import RowRejected, UserError
from maskdpo_ray.training.model import load_policy, local_snapshot
from maskdpo_ray.training.reference import ReferenceProcessor


@pytest.fixture(scope="module")
def processor(model_config, settings) -> ReferenceProcessor:
    return ReferenceProcessor(model_config, settings)


def test_every_response_token_has_one_whatever_its_weight(processor, pairs):
    rows = asyncio.run(processor(pairs))
    assert [row["id"] for row in rows] == [pair["digest"] for pair in pairs]
    for row, pair in zip(rows, pairs, strict=True):
        for side in ("chosen", "rejected"):
            assert len(row[side]) == len(pair[side]["token_ids"])
            assert max(row[side]) < 0


def test_a_missing_answer_has_none(processor, pairs):
    """The last of an odd number of candidates stands alone in its row (preference/unpaired.py)."""
    lonely = pairs[0] | {"rejected": pairs[0]["rejected"] | {"token_ids": []}}
    both, alone = asyncio.run(processor([pairs[0], lonely]))
    assert alone["rejected"] == []
    assert alone["chosen"] == pytest.approx(both["chosen"], abs=1e-5)


def test_they_are_the_log_softmax_of_the_model(processor, pairs, model_config):
    model = load_policy(model_config).eval()
    (row,) = asyncio.run(processor(pairs[:1]))
    prompt, answer = pairs[0]["prompt_ids"], pairs[0]["rejected"]["token_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([prompt + answer])).logits[0]
    expected = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, torch.tensor(answer)[:, None])
    assert row["rejected"] == pytest.approx(expected.flatten().tolist(), abs=1e-5)


def test_neighbours_in_the_batch_do_not_matter(processor, pairs):
    together = asyncio.run(processor(pairs))
    alone = [asyncio.run(processor([pair]))[0] for pair in pairs]
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_allclose(a["chosen"], b["chosen"], atol=1e-5)
        np.testing.assert_allclose(a["rejected"], b["rejected"], atol=1e-5)


def test_calls_run_side_by_side(processor, pairs):
    async def both():
        return await asyncio.gather(processor(pairs[:3]), processor(pairs[3:6]))

    first, second = asyncio.run(both())
    assert [r["id"] for r in first + second] == [p["digest"] for p in pairs[:6]]


def test_a_pair_beyond_the_model_is_rejected_by_name(processor, pairs, make_pair):
    long = make_pair(99, prompt=100, chosen=60)
    before, rejected, after = asyncio.run(processor([pairs[0], long, pairs[1]]))
    assert isinstance(rejected, RowRejected) and rejected.reason == "longer_than_model"
    assert "'pair-099' has 160 tokens" in rejected.detail
    assert (before["id"], after["id"]) == (pairs[0]["digest"], pairs[1]["digest"])


def test_dropout_is_off(model_config):
    assert load_policy(model_config).train().config.attention_dropout == 0.0


@pytest.mark.parametrize("path", ["/nowhere/model", "a folder/that/is not there"])
def test_an_unreachable_model_is_one_line(path):
    with pytest.raises(UserError, match="does not exist on this node") as raised:
        local_snapshot(path)
    assert "\n" not in str(raised.value)


def test_a_folder_without_a_model_says_so(tmp_path):
    with pytest.raises(UserError, match="it has no config.json"):
        local_snapshot(str(tmp_path))
