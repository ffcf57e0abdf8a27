"""The head's tiles: borders anywhere give the same result, and no tensor outgrows them."""

from unittest import mock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from maskdpo_ray.training import head
from maskdpo_ray.training.batches import collate
from maskdpo_ray.training.head import selected_log_probs
from maskdpo_ray.training.logprobs import LogProbModel
from maskdpo_ray.training.reference import _unmasked


class Largest(TorchDispatchMode):
    """The most elements that any new tensor had, leaving out tensors of the sizes named."""

    def __init__(self, *leave_out: torch.Size) -> None:
        super().__init__()
        self.leave_out = leave_out
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.shape not in self.leave_out:
                self.elements = max(self.elements, tensor.numel())
        return out


def largest(positions: int, vocabulary: int, width: int = 4, chunk: int | None = 8) -> int:
    hidden = torch.randn(positions, width, requires_grad=True)
    weight = torch.randn(vocabulary, width, requires_grad=True)
    targets = torch.randint(vocabulary, (positions,))
    # The weight's gradient is as large as the weight, and so is every transpose of it.
    with Largest(weight.shape, weight.t().shape, hidden.shape) as seen:
        selected_log_probs(hidden, targets, weight, None, chunk).sum().backward()
    return seen.elements


@pytest.fixture
def positions(monkeypatch):
    """Sets how many are projected at a time by default, where tiles may be kept."""
    return lambda count: monkeypatch.setitem(head._POSITIONS, "cpu", count)


def test_no_tensor_is_larger_than_a_chunk_of_logits():
    assert 8 * 999 <= largest(50, 999) <= 8 * 1000 < 50 * 999


def test_beyond_one_tile_and_what_is_kept_the_vocabulary_costs_nothing(positions, monkeypatch):
    positions(8)
    monkeypatch.setattr(head, "_KEPT_BYTES", 4 * 50 * 500)
    monkeypatch.setitem(head._TILE_BYTES, "cpu", 4 * 8 * 100)
    assert largest(50, 500, chunk=None) == 50 * 500
    for chunk in (8, None):
        assert largest(50, 1000, chunk=chunk) == largest(50, 4000, chunk=chunk) == 8 * 100
    assert largest(50, 500) == 8 * 100, "none is kept where a chunk is asked for"


@pytest.fixture(params=["kept", "again"])
def tiles(request, monkeypatch) -> str:
    """Whether backward finds the tiles of forward, or projects them again."""
    if request.param == "again":
        monkeypatch.setattr(head, "_KEPT_BYTES", 0)
    return request.param


def test_tiles_are_kept_where_together_they_are_small(positions, monkeypatch):
    positions(8)
    monkeypatch.setitem(head._TILE_BYTES, "cpu", 4 * 8 * 100)
    monkeypatch.setattr(head, "_KEPT_BYTES", 4 * 16 * 200)
    projected = []
    plain = head._logits
    monkeypatch.setattr(head, "_logits", lambda *a: projected.append(a) or plain(*a))

    def tiles(positions: int, words: int = 200, backward: int = 1) -> int:
        projected.clear()
        hidden = torch.randn(positions, 4, requires_grad=True)
        weight = torch.randn(words, 4, requires_grad=True)
        targets = torch.randint(words, (positions,))
        out = selected_log_probs(hidden, targets, weight).sum()
        found = [torch.autograd.grad(out, weight, retain_graph=True)[0] for _ in range(backward)]
        assert all(torch.equal(each, found[0]) for each in found)
        return len(projected)

    assert tiles(16) == tiles(16, backward=2) == 2 * 2, "in forward alone"
    assert tiles(17) == 2 * 3 * 2 and tiles(16, words=201) == 2 * 2 * 3
    assert tiles(17, backward=2) == 3 * 3 * 2


@pytest.mark.parametrize("checkpointing", [False, True])
def test_who_saves_memory_on_activations_keeps_no_tiles(checkpointing):
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 50}
    policy = LlamaForCausalLM(LlamaConfig(num_attention_heads=2, **shape))
    if checkpointing:
        policy.gradient_checkpointing_enable({"use_reentrant": False})
    module = LogProbModel(policy, None).policy.get_output_embeddings()
    with mock.patch.object(head, "_logits", wraps=head._logits) as projected:
        module(torch.randn(9, 8), torch.randint(50, (9,))).sum().backward()
    assert projected.call_count == (2 if checkpointing else 1)


@pytest.mark.parametrize("words", [1, 3, 4, 10, 11, 12])
@pytest.mark.parametrize("bias", [False, True])
def test_tiles_may_end_anywhere(words, bias, tiles, positions, monkeypatch):
    """Eleven words in tiles of so many, nine positions in chunks of four."""
    positions(4)
    monkeypatch.setitem(head._TILE_BYTES, "cpu", 4 * 4 * words)
    torch.manual_seed(words)
    inputs = [torch.randn(9, 6), torch.randn(11, 6), torch.randn(11)]
    hidden, weight, offset = (t.double().requires_grad_() for t in inputs)
    targets = torch.randint(11, (9,))
    upstream = torch.linspace(-1, 2, 9, dtype=torch.float64)
    offset_used = offset if bias else None
    ours = selected_log_probs(hidden, targets, weight, offset_used)
    logits = torch.nn.functional.linear(hidden, weight, offset_used)
    plain = logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-12)
    wanted = [hidden, weight, offset] if bias else [hidden, weight]
    for got, expected in zip(
        torch.autograd.grad(ours, wanted, upstream),
        torch.autograd.grad(plain, wanted, upstream),
        strict=True,
    ):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-9)


def test_logits_far_from_zero_do_not_overflow(tiles, positions, monkeypatch):
    """The largest logits stand in different tiles: sums are rescaled as the tiles come."""
    positions(2)
    monkeypatch.setitem(head._TILE_BYTES, "cpu", 4 * 2 * 3)
    hidden = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    weight = torch.linspace(-900, 900, 24).reshape(12, 2)
    targets = torch.tensor([11, 0])
    hidden.requires_grad_()
    expected = (hidden @ weight.t()).log_softmax(-1)[[0, 1], targets]
    ours = selected_log_probs(hidden, targets, weight)
    torch.testing.assert_close(ours, expected)
    wanted, found = (torch.autograd.grad(each.sum(), hidden)[0] for each in (expected, ours))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("tied", [False, True])
def test_gradients_in_place_are_the_same(tied, tiles, positions, pairs):
    """Two passes, as in a step that accumulates; a padding token among the ids."""
    positions(4)
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    words = {"vocab_size": 4001, "pad_token_id": 3, "tie_word_embeddings": tied}
    batches = [collate([_unmasked(pair)], packed=True) for pair in pairs[:2]]
    assert any(3 in batch.input_ids for batch in batches)
    gradients = []
    for in_place in (False, True):
        torch.manual_seed(0)
        policy = LlamaForCausalLM(LlamaConfig(**words, **shape, **heads)).double()
        model = LogProbModel(policy, None, packing=True)
        if in_place:
            model.accumulate_in_place()
        for batch in batches:
            model(**batch.inputs()).square().sum().backward()
        gradients.append({name: p.grad for name, p in policy.named_parameters()})
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, rtol=0, atol=1e-9)
    names = LlamaForCausalLM(policy.config).state_dict()
    assert sorted(policy.state_dict()) == sorted(names)
