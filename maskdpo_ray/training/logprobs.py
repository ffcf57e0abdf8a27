"""Log-probabilities of chosen positions, without ever holding the logits of a whole batch.

With a vocabulary of 128 k the logits are most of the memory of DPO. Only positions with a
non-zero weight are projected, and only a tile of (positions x vocabulary) at a time: the softmax
is normalised over tiles as they come, and every tile is projected again in backward, unless all of
them are small enough to be kept.
"""

import logging
from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from maskdpo_ray.errors import UserError
from maskdpo_ray.training.packing import attention_arguments, use_packing

log = logging.getLogger(__name__)

# Settings by which a model caps its logits. Those that stay far below the cap are as if there were
# none, so comparing a few does not tell.
_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
_PROBE = 8  # tokens that are compared

# Logits held at a time, and of how many positions unless told. On a CPU a tile that stays in the
# cache saves most of the softmax's time; a GPU needs tiles large enough to fill it, and more
# positions at a time, which spare it sums of the weight's gradient.
_TILE_BYTES = {"cpu": 8 << 20, "cuda": 128 << 20}
_POSITIONS = {"cpu": 1024, "cuda": 8192}
_ALIGNED = 64  # words: the fast matrix kernels of GPUs want rows that begin at whole cache lines
# All tiles of a pass, if they are kept for backward: that spares a quarter of the head's work.
_KEPT_BYTES = 96 << 20
_KEPT_SHARE = 1 / 32  # of a GPU's memory


class _SelectedLogProbs(torch.autograd.Function):
    """One autograd node for the whole projection.

    One node, and not one checkpoint per tile: the weight's gradient is then accumulated once
    per backward pass, which ZeRO's reduction hooks rely on. The weight is saved as the leaf it
    is, so backward sees the data that ZeRO-3 has gathered again by then.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        targets: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        chunk: int,
        in_place: bool,
        keep: bool,
    ) -> Tensor:
        precise = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        log_norms = hidden.new_full(hidden.shape[:1], -torch.inf, dtype=precise)
        picked = torch.zeros_like(log_norms)
        log_sum_exp, _ = _kernels(hidden.device.type)
        tiles = _vocabulary_tiles(hidden, weight, chunk)
        # The logits; in full precision exp(logits - the largest of their row and tile), which
        # spares backward the exp, and these largest.
        tile_store = hidden.new_empty(hidden.shape[0] * weight.shape[0]) if keep else None
        powers = keep and hidden.dtype == precise
        largest = hidden.new_empty(len(tiles), hidden.shape[0]) if powers else None
        for number, words in enumerate(tiles):
            for part in _slices(hidden.shape[0], chunk):
                kept = _tile(tile_store, hidden, words, part) if keep else None
                logits = _logits(hidden[part], weight, bias, words, kept)
                place, inside = _place(targets[part], words)
                picked[part] += logits.gather(1, place).squeeze(1) * inside
                if powers:
                    largest[number, part] = top = logits.amax(dim=1)
                    log_sum = top + logits.sub_(top[:, None]).exp_().sum(dim=1).log()
                else:
                    log_sum = log_sum_exp(logits, precise)
                log_norms[part] = log_norms[part].logaddexp(log_sum)
        log_probs = picked - log_norms
        saved = (hidden, targets, weight, bias, log_norms, log_probs, tile_store, largest)
        ctx.save_for_backward(*saved)
        ctx.chunk, ctx.in_place = chunk, in_place
        return log_probs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        hidden, targets, weight, bias, log_norms, log_probs, tile_store, largest = ctx.saved_tensors
        wants_hidden, _, wants_weight, wants_bias, *_ = ctx.needs_input_grad
        precise = log_norms.dtype
        _, scaled_softmax = _kernels(hidden.device.type)
        # d log p(target) / d logits = onehot(target) - softmax(logits)
        of_targets = upstream * -log_probs.expm1()
        # Summed in full precision: bf16 would lose the small terms of late tiles.
        grad_hidden = torch.zeros_like(hidden, dtype=precise) if wants_hidden else None
        in_place = ctx.in_place and wants_weight
        grad_weight = torch.empty_like(weight) if wants_weight and not in_place else None
        grad_bias = torch.empty_like(bias) if wants_bias else None
        for number, words in enumerate(_vocabulary_tiles(hidden, weight, ctx.chunk)):
            if in_place:
                weight_sum = _own_gradient(weight)[words]
            elif wants_weight:
                weight_sum = torch.zeros_like(weight[words], dtype=precise)
            bias_sum = torch.zeros_like(bias[words], dtype=precise) if wants_bias else None
            for part in _slices(hidden.shape[0], ctx.chunk):
                if tile_store is None:
                    kept = _logits(hidden[part], weight, bias, words)
                else:
                    kept = _tile(tile_store, hidden, words, part)
                if largest is None:
                    grad = scaled_softmax(kept, log_norms[part], -upstream[part])
                else:
                    scales = (largest[number, part] - log_norms[part]).exp_() * -upstream[part]
                    grad = kept * scales[:, None]
                place, inside = _place(targets[part], words)
                own = of_targets[part, None].to(grad.dtype)
                grad.scatter_(1, place, own.where(inside[:, None], grad.gather(1, place)))
                if wants_bias:
                    bias_sum += grad.sum(dim=0, dtype=precise)
                if wants_hidden:
                    _add_product(grad_hidden[part], grad, weight[words])
                if wants_weight:
                    _add_product(weight_sum, grad.t(), hidden[part])
            if wants_weight and not in_place:
                grad_weight[words] = weight_sum
            if wants_bias:
                grad_bias[words] = bias_sum
        return (
            grad_hidden.to(hidden.dtype) if wants_hidden else None,
            None,
            grad_weight,
            grad_bias,
            None,
            None,
            None,
        )


class _Lookup(torch.autograd.Function):
    """An embedding whose gradient is added to the weight's own, row by row."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, padding: int | None) -> Tensor:
        ctx.save_for_backward(weight, ids)
        ctx.padding = padding
        return functional.embedding(ids, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[None, None, None]:
        weight, ids = ctx.saved_tensors
        rows, ids = upstream.flatten(0, -2), ids.flatten()
        if ctx.padding is not None:
            rows = rows * (ids != ctx.padding)[:, None]
        _own_gradient(weight).index_add_(0, ids, rows)
        return None, None, None


def _own_gradient(weight: Tensor) -> Tensor:
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    return weight.grad


def _slices(total: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


def _vocabulary_tiles(hidden: Tensor, weight: Tensor, chunk: int) -> list[slice]:
    """The vocabulary in as few pieces as the bytes of a tile allow."""
    rows = max(1, min(chunk, hidden.shape[0]))
    words = _TILE_BYTES.get(hidden.device.type, _TILE_BYTES["cuda"]) // (4 * rows)
    if hidden.is_cuda and words > _ALIGNED:
        words -= words % _ALIGNED
    return _slices(weight.shape[0], max(1, words))


def _logits(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, words: slice, out: Tensor | None = None
) -> Tensor:
    """The logits of a tile, in ``out`` if it is given."""
    offset = None if bias is None else bias[words]
    if out is None:
        return functional.linear(hidden, weight[words], offset)
    if offset is None:
        return torch.mm(hidden, weight[words].t(), out=out)
    # In one operation, as above: in low precision two would round twice.
    return torch.addmm(offset, hidden, weight[words].t(), out=out)


def _tile(kept: Tensor, hidden: Tensor, words: slice, part: slice) -> Tensor:
    """Where a tile is kept, one behind the other in one piece of memory: many pieces would leave
    holes behind."""
    width, rows = words.stop - words.start, part.stop - part.start
    start = hidden.shape[0] * words.start + part.start * width
    return kept[start : start + rows * width].view(rows, width)


def _place(targets: Tensor, words: slice) -> tuple[Tensor, Tensor]:
    """Column of each target in a tile, ``[positions, 1]``, and whether it is there at all."""
    place = targets - words.start
    inside = (targets >= words.start) & (targets < words.stop)
    return place.clamp(0, words.stop - words.start - 1)[:, None], inside


def _log_sum_exp(logits: Tensor, dtype: torch.dtype) -> Tensor:
    """Of every row, computed in ``dtype``; ``logits`` of that dtype are gone."""
    logits = logits.to(dtype)
    largest = logits.amax(dim=1)
    return largest + logits.sub_(largest[:, None]).exp_().sum(dim=1).log()


def _scaled_softmax(logits: Tensor, log_norms: Tensor, scales: Tensor) -> Tensor:
    """``exp(logits - log_norms) * scales``, computed in the dtype of ``log_norms``, in that of
    ``logits``; they are gone where the two are one."""
    exact = logits.to(log_norms.dtype)
    return exact.sub_(log_norms[:, None]).exp_().mul_(scales[:, None]).to(logits.dtype)


@cache
def _kernels(device: str) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """``_log_sum_exp`` and ``_scaled_softmax``, on a GPU each compiled to one pass over a tile."""
    plain = (_log_sum_exp, _scaled_softmax)
    if device != "cuda":
        return plain
    log_sum_exp, scaled_softmax = (torch.compile(each, dynamic=True) for each in plain)
    tile, row = (
        torch.zeros(2, 4, device=device, dtype=torch.bfloat16),
        torch.zeros(2, device=device),
    )
    try:
        log_sum_exp(tile, row.dtype)
        scaled_softmax(tile, row, row)
    except Exception as error:
        log.warning("the LM head's kernels cannot be compiled, it will be slower: %s", error)
        return plain
    return log_sum_exp, scaled_softmax


def _most_kept(device: torch.device) -> float:
    """Bytes of logits that are worth keeping there."""
    if device.type != "cuda":
        return _KEPT_BYTES
    return _KEPT_SHARE * torch.cuda.get_device_properties(device).total_memory


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """``total += a @ b`` with no rounding of the product to a lower precision than the sum's."""
    if a.is_cuda and a.dtype != total.dtype:
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    else:
        total.addmm_(a.to(total.dtype), b.to(total.dtype))


def selected_log_probs(
    hidden: Tensor,
    targets: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    chunk: int | None = None,
    in_place: bool = False,
    keep: bool = True,
) -> Tensor:
    """``log softmax(hidden @ weight.T + bias)[targets]``.

    Args:
        hidden: ``[positions, width]``, what the LM head reads.
        targets: token id that follows each position, int64 ``[positions]``.
        weight, bias: of the head, ``[vocabulary, width]`` and ``[vocabulary]``.
        chunk: positions projected at a time. No tensor of logits is larger than this times the
            vocabulary, nor, at any vocabulary, than a tile (8 MiB on a CPU, 128 MiB on a GPU).
            By default 1,024 on a CPU and 8,192 on a GPU, and tiles may be kept.
        in_place: add the weight's gradient to ``weight.grad`` tile by tile, instead of handing
            autograd another tensor of that size. Hooks on the weight's gradient then see nothing.
        keep: all tiles for backward where together they are no larger than 96 MiB, on a GPU a 32nd
            of its memory; never with a ``chunk``.

    Returns:
        Natural log-probabilities in fp32 (float64 for float64 inputs), ``[positions]``.
    """
    size = hidden.element_size() * hidden.shape[0] * weight.shape[0]
    keep &= chunk is None and torch.is_grad_enabled() and size <= _most_kept(hidden.device)
    chunk = chunk or _POSITIONS.get(hidden.device.type, _POSITIONS["cuda"])
    return _SelectedLogProbs.apply(hidden, targets, weight, bias, chunk, in_place, keep)


class LogProbHead(nn.Module):
    """The LM head, able to give log-probabilities instead of logits.

    The work happens inside the forward of the module that owns the weight, so that ZeRO-3
    gathers the weight before it is read, in forward and in backward. It holds the very parameter
    of the head it replaces: names and tied embeddings stay as they are.
    """

    def __init__(self, linear: nn.Linear, chunk: int | None, keep: bool = True) -> None:
        super().__init__()
        self.weight = linear.weight
        self.bias = linear.bias
        self.chunk = chunk
        self.keep = keep
        self.in_place = False

    def forward(self, hidden: Tensor, targets: Tensor | None = None) -> Tensor:
        if targets is None:
            return functional.linear(hidden, self.weight, self.bias)
        how = (self.chunk, self.in_place, self.keep)
        return selected_log_probs(hidden, targets, self.weight, self.bias, *how)


class LeanEmbedding(nn.Module):
    """An embedding over the very parameter of the one it replaces, with ``_Lookup``'s gradient."""

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self.weight = embedding.weight
        self.padding_idx = embedding.padding_idx

    def forward(self, ids: Tensor) -> Tensor:
        return _Lookup.apply(self.weight, ids, self.padding_idx)


class LogProbModel(nn.Module):
    """A causal language model that returns log-probabilities of chosen positions.

    Args:
        policy: a Hugging Face causal language model whose logits are its LM head's output, without
            dropout, where it can be computed: a few tokens are, to see that this is so.
        chunk: see :func:`selected_log_probs`.
        packing: see :func:`~maskdpo_ray.training.packing.use_packing`; ``packed`` is its answer.

    Raises:
        UserError: if the model's logits are anything else, or its head is no plain linear layer.
    """

    def __init__(
        self, policy: nn.Module, chunk: int | None, packing: Literal["auto"] | bool = False
    ) -> None:
        super().__init__()
        _check_uncapped(policy)
        head = policy.get_output_embeddings()
        if not isinstance(head, nn.Linear):
            raise UserError(
                f"{type(policy).__name__} has a {type(head).__name__} as its LM head; "
                "training reads the weight of a plain linear head"
            )
        # Who computes activations twice to save memory has none for logits.
        keep = not getattr(policy, "is_gradient_checkpointing", False)
        policy.set_output_embeddings(LogProbHead(head, chunk, keep))
        self.policy = policy
        self._check_plain_logits()
        self.packed = use_packing(policy, packing)

    def accumulate_in_place(self) -> None:
        """Add the gradients of head and embedding to ``weight.grad`` where they arise.

        Autograd would hold two more tensors of the vocabulary's size in every pass. Only for
        engines that read ``weight.grad`` when the step is done: ZeRO's hooks would see nothing.
        """
        self.policy.get_output_embeddings().in_place = True
        embedding = self.policy.get_input_embeddings()
        options = ("max_norm", "scale_grad_by_freq", "sparse")
        plain = type(embedding) is nn.Embedding and not any(getattr(embedding, o) for o in options)
        if plain and embedding.weight.requires_grad:
            self.policy.set_input_embeddings(LeanEmbedding(embedding))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor,
        positions: Tensor,
        targets: Tensor,
        sizes: tuple[int, ...] | None = None,
    ) -> Tensor:
        """Log-probabilities of ``targets`` at ``positions``.

        Args:
            input_ids, attention_mask, position_ids: ``[rows, length]``, right padded; or one
                packed row and no mask.
            positions: indices into the flattened ``[rows * length]`` grid; the position *before*
                the token that it predicts, ``[selected]``.
            targets: the predicted token ids, ``[selected]``.
            sizes: tokens of every sequence of a packed row.

        Returns:
            fp32 ``[selected]``, in nats.
        """
        packed = attention_arguments(sizes, input_ids.device) if attention_mask is None else {}
        hidden = self.policy.base_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=False,
            **packed,
        ).last_hidden_state
        selected = hidden.flatten(0, 1).index_select(0, positions)
        return self.policy.get_output_embeddings()(selected, targets)

    @torch.no_grad()
    def _check_plain_logits(self) -> None:
        """Compare with the policy's own logits, on a few random tokens.

        The reference would share an error, and the first loss would be ln 2 all the same.
        """
        policy, head = self.policy, self.policy.get_output_embeddings()
        words = policy.get_input_embeddings().weight.shape[0]
        random = torch.Generator().manual_seed(0)
        ids = torch.randint(words, (1, _PROBE), generator=random).to(head.weight.device)
        places = torch.arange(_PROBE, device=ids.device)
        row = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "position_ids": places[None],
        }
        logits = policy(**row, use_cache=False).logits[0]
        # What a scale or a cap moves most.
        positions, targets = places.repeat(2), torch.cat([logits.argmax(-1), logits.argmin(-1)])
        ours = self(**row, positions=positions, targets=targets)
        theirs = logits.to(ours.dtype).log_softmax(-1)[positions, targets]
        apart = float((ours - theirs).abs().max())
        # A product of another shape may round a logit, and all that it is normalised by, to the
        # next number of the head's dtype. The least logit may be infinite; its log-probability
        # here is not.
        largest = float(logits.amax(-1).abs().max() + ours.max() - ours.min())
        if apart > 1e-4 + 2 * torch.finfo(head.weight.dtype).eps * largest:
            raise UserError(
                f"{type(policy).__name__} ({policy.config.name_or_path}) cannot be trained here: "
                "its log-probabilities are not those of its LM head alone (up to "
                f"{apart:.2g} apart), so it changes its logits or what the head reads. Use a model "
                "with a plain LM head"
            )


def _check_uncapped(policy: nn.Module) -> None:
    config = policy.config.get_text_config()
    for name in _CAPS:
        value = getattr(config, name, None)
        if value is not None:
            raise UserError(
                f"{type(policy).__name__} sets {name}={value}: its logits are changed after the LM "
                "head, which training does not support. Use a model without this setting"
            )
