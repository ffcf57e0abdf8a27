import copy
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from maskdpo_ray.errors import UserError
from maskdpo_ray.training import head
from maskdpo_ray.training.exact import measure_head
from maskdpo_ray.training.head import LogProbHead, selected_log_probs
from maskdpo_ray.training.logprobs import LogProbModel


def tensors(positions: int, bias: bool = False) -> tuple:
    generator = torch.Generator().manual_seed(positions)
    made = [
        torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in ((positions, 6), (11, 6), (11,))
    ]
    targets = torch.randint(0, 11, (positions,), generator=generator)
    hidden, weight, offset = made
    return hidden, targets, weight, offset if bias else None


def plain(hidden, targets, weight, bias):
    logits = torch.nn.functional.linear(hidden, weight, bias)
    return logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1)


@pytest.mark.parametrize("positions", [0, 1, 3, 4, 5, 8, 13])
@pytest.mark.parametrize("bias", [False, True])
def test_gradients_equal_those_of_full_logits(positions, bias):
    """Chunks of four: none, one short, exactly one, one and a bit, two, many."""
    inputs = tensors(positions, bias)
    upstream = torch.linspace(-1, 2, positions, dtype=torch.float64)
    wanted_of = [tensor for tensor in inputs if tensor is not None and tensor.requires_grad]
    ours = selected_log_probs(*inputs, chunk=4)
    theirs = plain(*inputs)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)
    for got, wanted in zip(
        torch.autograd.grad(ours, wanted_of, upstream),
        torch.autograd.grad(theirs, wanted_of, upstream),
        strict=True,
    ):
        assert torch.allclose(got, wanted, rtol=0, atol=1e-9)


def test_gradcheck():
    hidden, targets, weight, bias = tensors(5, bias=True)
    assert torch.autograd.gradcheck(
        lambda *t: selected_log_probs(t[0], targets, t[1], t[2], 2), (hidden, weight, bias)
    )


def test_a_frozen_head_gets_no_gradient():
    hidden, targets, weight, _ = tensors(5)
    selected_log_probs(hidden, targets, weight.detach(), None, 2).sum().backward()
    assert hidden.grad.abs().sum() > 0 and weight.grad is None


def test_bfloat16_gives_fp32_log_probs():
    hidden, targets, weight, _ = tensors(6)
    low = selected_log_probs(hidden.bfloat16(), targets, weight.bfloat16(), None, 4)
    assert low.dtype == torch.float32
    assert torch.allclose(low.double(), plain(hidden, targets, weight, None), atol=0.1)


@pytest.mark.parametrize("bias", [False, True])
def test_bfloat16_is_the_same_whether_tiles_are_kept(bias, monkeypatch):
    """Logits are kept as they are, rounded once: an exp of them would lose digits."""
    monkeypatch.setitem(head._POSITIONS, "cpu", 2)
    found = []
    for most in (0, 2**20):
        hidden, targets, weight, offset = tensors(6, bias)
        low = [t.detach().bfloat16().requires_grad_() for t in (hidden, weight)]
        low += [offset.detach().bfloat16().requires_grad_()] if bias else []
        with (
            mock.patch.object(head, "_KEPT_BYTES", most),
            mock.patch.object(head, "_logits", wraps=head._logits) as projected,
        ):
            out = selected_log_probs(low[0], targets, *low[1:])
            upstream = torch.linspace(-1, 1, len(out))
            grads = torch.autograd.grad(out, low, upstream, retain_graph=True)
            again = torch.autograd.grad(out, low, upstream)
        assert all(map(torch.equal, grads, again))
        found.append([projected.call_count, out, *grads])
    assert found[0][0] == 3 * found[1][0], "once, and again in each of two backward passes"
    for ours, theirs in zip(found[0][1:], found[1][1:], strict=True):
        assert torch.equal(ours, theirs)


def test_the_weight_gets_one_gradient_however_many_chunks():
    """ZeRO's reduction hooks count on it."""
    hidden, targets, weight, _ = tensors(13)
    fired = []
    weight.register_post_accumulate_grad_hook(lambda _: fired.append(1))
    selected_log_probs(hidden, targets, weight, None, 2).sum().backward()
    assert len(fired) == 1


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("words", [None, 13])
@pytest.mark.parametrize("mask", ["ones", "some", "one side empty", "one row empty"])
def test_model_matches_full_logits(tiny_llama, pairs, mask, words, in_place, monkeypatch):
    """Through the whole model, tied embeddings included, in float64; the whole vocabulary at once
    or in tiles, gradients handed over or added where they arise."""
    from maskdpo_ray.training.batches import collate
    from maskdpo_ray.training.reference import _unmasked

    plain_model, ours = double_model(tiny_llama), double_model(tiny_llama)
    group = [_unmasked(pair) for pair in pairs[:3]]
    for number, pair in enumerate(group):
        if mask == "some":
            pair.chosen.weights[::2] = 0
            pair.rejected.weights[1::3] = 0
        if mask.endswith("empty") and number == 1:
            pair.chosen.weights[:] = 0
        if mask == "one row empty" and number == 1:
            pair.rejected.weights[:] = 0
    batch = collate(group)
    if words:
        monkeypatch.setitem(head._TILE_BYTES, "cpu", 4 * 7 * words)
    model = LogProbModel(ours, 7)
    if in_place:
        model.accumulate_in_place()
    log_probs = model(**batch.inputs())
    log_probs.sum().backward()

    logits = plain_model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
    ).logits
    expected = logits.flatten(0, 1).log_softmax(-1)[batch.positions, batch.targets]
    expected.sum().backward()
    assert torch.allclose(log_probs, expected, rtol=0, atol=1e-9)
    wanted = dict(plain_model.named_parameters())
    for name, parameter in ours.named_parameters():
        assert torch.allclose(parameter.grad, wanted[name].grad, rtol=0, atol=1e-9), name


def test_names_and_tied_weights_stay(tiny_llama):
    from transformers import AutoModelForCausalLM

    policy = AutoModelForCausalLM.from_pretrained(tiny_llama, attention_dropout=0.0)
    before = list(policy.state_dict())
    LogProbModel(policy, 4)
    assert list(policy.state_dict()) == before
    assert policy.lm_head.weight is policy.model.embed_tokens.weight
    assert isinstance(policy.lm_head, LogProbHead)


TINY = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
}


def llama(change=None, **config):
    """A model whose logits are changed in a way that no setting tells."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    policy = LlamaForCausalLM(LlamaConfig(**{**TINY, **config}))
    if change:
        policy.register_forward_hook(lambda _, given, out: type(out)(logits=change(out.logits)))
    return policy


def granite():
    from transformers import GraniteConfig, GraniteForCausalLM

    return GraniteForCausalLM(GraniteConfig(**TINY, logits_scaling=8.0))


def inkling():
    """Scales what its head reads."""
    from transformers import InklingForCausalLM, InklingTextConfig

    return InklingForCausalLM(InklingTextConfig(**TINY, head_dim=16))


def gemma2(**settings):
    from transformers import Gemma2Config, Gemma2ForCausalLM

    return Gemma2ForCausalLM(
        Gemma2Config(**TINY, head_dim=16, attn_implementation="eager", **settings)
    )


def cohere():
    from transformers import CohereConfig, CohereForCausalLM

    return CohereForCausalLM(CohereConfig(**TINY, logit_scale=0.0625, pad_token_id=0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("make", "scale", "cap", "read"),
    [
        (granite, 1 / 8, None, 1.0),
        (cohere, 1 / 16, None, 1.0),
        (inkling, 1.0, None, 1 / 24),
        (gemma2, 1.0, 30.0, 1.0),
        (lambda: gemma2(final_logit_softcapping=0.5), 1.0, 0.5, 1.0),
        (lambda: llama(lambda logits: logits * 1.1), 1.1, None, 1.0),
        (lambda: llama(lambda logits: 5 * (2 * logits / 5).tanh()), 2.0, 5.0, 1.0),
    ],
    ids=["granite", "cohere", "inkling", "gemma2", "bent", "scaled", "both"],
)
def test_what_a_model_does_to_its_logits_is_measured_and_learnt_through(
    make, scale, cap, read, dtype
):
    """However small the logits are: those of fresh weights stay far below a cap of 30."""
    torch.manual_seed(0)
    if make is inkling and dtype == torch.float64:
        pytest.skip("its experts' kernel has no float64")
    policy = make().to(dtype).eval()
    shape = measure_head(policy, policy.get_output_embeddings())
    close = {"rel": 1e-6 if dtype != torch.bfloat16 else 1e-2}
    assert shape.scale == pytest.approx(scale, **close)
    assert shape.cap == (None if cap is None else pytest.approx(cap, **close))
    assert shape.read == pytest.approx(read, **close)
    if dtype != torch.float64:
        if (make, dtype) != (inkling, torch.bfloat16):  # rounding decides which expert is asked
            LogProbModel(policy, 4)
        return
    ids = torch.arange(1, 9)[None]
    scores = policy(ids, use_cache=False).logits[0].log_softmax(-1)
    targets = torch.arange(20, 28)
    weights = torch.linspace(-1, 2, 8, dtype=dtype)
    wanted = scores[torch.arange(8), targets]
    parameters = list(policy.parameters())
    expected = torch.autograd.grad((weights * wanted).sum(), parameters)
    for chunk in (None, 3):
        other = LogProbModel(copy.deepcopy(policy), chunk)
        ours = other(ids, torch.ones_like(ids), None, torch.arange(8), targets, (8,))
        assert torch.allclose(ours, wanted, rtol=0, atol=1e-9)
        own = list(other.policy.parameters())
        for got, want in zip(
            torch.autograd.grad((weights * ours).sum(), own), expected, strict=True
        ):
            assert torch.allclose(got, want, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda logits: logits.index_fill(-1, torch.arange(60, 64), -torch.inf),
            "it turns the logit .* of word 6[0-3] into -inf, which is neither a scale nor a cap",
        ),
        (lambda logits: logits[..., :48], r"it returns \(8, 48\) logits for \(8, 64\)"),
        (lambda logits: logits.relu(), "it turns the logit .* into 0"),
        (lambda logits: logits * torch.nan, "its logits are not finite"),
        (lambda logits: logits.flip(1), "depend on tokens that come later .* no causal language"),
    ],
    ids=["masked", "shorter", "bent", "not a number", "not causal"],
)
def test_logits_that_cannot_be_learnt_through_are_refused(change, words, dtype):
    policy = llama(change).to(dtype)
    policy.config.name_or_path = "some/model"
    with pytest.raises(UserError, match=r"ForCausalLM \(some/model\) cannot be trained here: "):
        LogProbModel(policy, 4)
    with pytest.raises(UserError, match=words):
        LogProbModel(policy, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("upcast", [False, True])
def test_rounding_of_large_logits_is_not_refused(dtype, upcast):
    large = {"vocab_size": 20_011, "hidden_size": 512, "initializer_range": 0.5}
    policy = llama((lambda logits: logits.float()) if upcast else None, **large).to(dtype)
    logits = policy(torch.arange(8)[None]).logits
    assert logits.abs().max() > 30
    LogProbModel(policy, 4)


def double_model(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attention_dropout=0.0)


# Most tokens are masked or kept whole; some have a weight between.
weight = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0.01, 1.0))
side = st.lists(weight, min_size=1, max_size=12)


@settings(max_examples=25)
@example(masks=[(2, [0.0, 0.0], [0.0])], chunk=1, seed=0, packed=True, kept=True)
@example(
    masks=[(1, [0.0] * 4, [1.0] * 4), (3, [1.0] * 4, [0.0])],
    chunk=4,
    seed=1,
    packed=False,
    kept=False,
)
@given(
    masks=st.lists(st.tuples(st.integers(1, 6), side, side), min_size=1, max_size=4),
    chunk=st.integers(1, 12),
    seed=st.integers(0, 999),
    packed=st.booleans(),
    kept=st.booleans(),
)
def test_every_mask_pattern_has_the_gradients_of_full_logits(
    tiny_llama, masks, chunk, seed, packed, kept
):
    """Log-ratios and all gradients, against one unpadded forward per sequence, in float64.

    Rows that keep nothing, rows that keep all, weights between 0 and 1, and chunks that end
    inside, at the end of and beyond a row.
    """
    from maskdpo_ray.training.batches import Response, TrainingPair, collate
    from maskdpo_ray.training.loss import masked_log_ratios

    random = np.random.default_rng(seed)

    def response(weights: list[float]) -> Response:
        ids = random.integers(0, 64, len(weights))
        return Response(ids, np.float32(weights), np.float32(random.normal(-3, 1, len(ids))))

    pairs = [
        TrainingPair(str(number), random.integers(0, 64, prompt), response(chosen), response(lost))
        for number, (prompt, chosen, lost) in enumerate(masks)
    ]
    batch = collate(pairs, packed)
    upstream = torch.tensor(random.normal(size=2 * len(pairs)))

    model = double_model(tiny_llama)
    with (
        mock.patch.object(head, "_KEPT_BYTES", 2**20 if kept else 0),
        mock.patch.dict(head._POSITIONS, {"cpu": chunk}),
    ):
        log_probs = LogProbModel(model, None, packed)(**batch.inputs())
    ours = masked_log_ratios(log_probs, batch.reference, batch.weights, batch.owner, len(upstream))
    grads = gradients(model, ours @ upstream)

    model, expected = double_model(tiny_llama), []
    for prompt, answer in [(p.prompt_ids, p.chosen) for p in pairs] + [
        (p.prompt_ids, p.rejected) for p in pairs
    ]:
        ids = torch.tensor(np.concatenate([prompt, answer.token_ids]))
        logits = model(input_ids=ids[None]).logits[0, len(prompt) - 1 : -1]
        picked = logits.log_softmax(-1).gather(1, torch.tensor(answer.token_ids)[:, None])[:, 0]
        ratios = picked - torch.tensor(answer.reference)
        expected.append((torch.tensor(answer.weights) * ratios).sum())
    theirs = torch.stack(expected)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-9)
    for name, wanted in gradients(model, theirs @ upstream).items():
        assert torch.allclose(grads[name], wanted, rtol=0, atol=1e-9), name


def gradients(model, value: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    value.backward()
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in model.named_parameters()
    }
