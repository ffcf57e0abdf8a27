"""The LM head, able to give log-probabilities of chosen words instead of logits.

With a vocabulary of 128 k the logits are most of the memory of DPO. Only positions with a
non-zero weight are projected, and only a tile of (positions x vocabulary) at a time: the softmax
is normalised over tiles as they come, and every tile is projected again in backward, unless all of
them are small enough to be kept.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from maskdpo_ray.training.exact import HeadShape

log = logging.getLogger(__name__)

PLAIN = HeadShape()
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
        shape: HeadShape,
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
        # Nor are there logits left then, whose size says how far a cap bent them.
        powers = keep and hidden.dtype == precise and shape.cap is None
        largest = hidden.new_empty(len(tiles), hidden.shape[0]) if powers else None
        for number, words in enumerate(tiles):
            for part in _slices(hidden.shape[0], chunk):
                kept = _tile(tile_store, hidden, words, part) if keep else None
                logits = _shaped(_logits(hidden[part], weight, bias, words, kept), shape)
                place, inside = _place(targets[part], words)
                picked[part] += logits.gather(1, place).squeeze(1) * inside
                if powers:
                    largest[number, part] = top = logits.amax(dim=1)
                    log_sum = top + logits.sub_(top[:, None]).exp_().sum(dim=1).log()
                else:
                    spent = logits.clone() if keep and hidden.dtype == precise else logits
                    log_sum = log_sum_exp(spent, precise)
                log_norms[part] = log_norms[part].logaddexp(log_sum)
        log_probs = picked - log_norms
        saved = (hidden, targets, weight, bias, log_norms, log_probs, tile_store, largest)
        ctx.save_for_backward(*saved)
        ctx.shape, ctx.chunk, ctx.in_place = shape, chunk, in_place
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
                weight_sum = own_gradient(weight)[words]
            elif wants_weight:
                weight_sum = torch.zeros_like(weight[words], dtype=precise)
            bias_sum = torch.zeros_like(bias[words], dtype=precise) if wants_bias else None
            for part in _slices(hidden.shape[0], ctx.chunk):
                if tile_store is None:
                    kept = _shaped(_logits(hidden[part], weight, bias, words), ctx.shape)
                else:
                    kept = _tile(tile_store, hidden, words, part)
                slope = _slope(kept, ctx.shape)
                if largest is None:
                    spent = kept.clone() if tile_store is not None else kept
                    grad = scaled_softmax(spent, log_norms[part], -upstream[part])
                else:
                    scales = (largest[number, part] - log_norms[part]).exp_() * -upstream[part]
                    grad = kept * scales[:, None]
                place, inside = _place(targets[part], words)
                own = of_targets[part, None].to(grad.dtype)
                grad.scatter_(1, place, own.where(inside[:, None], grad.gather(1, place)))
                if slope is not None:
                    grad *= slope
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
            None,
        )


def own_gradient(weight: Tensor) -> Tensor:
    """``weight.grad``, made where it is not there yet."""
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


def _shaped(logits: Tensor, shape: HeadShape) -> Tensor:
    """Scaled and capped, in place and step by step as model code does it."""
    if shape.scale != 1.0:
        logits.mul_(shape.scale)
    if shape.cap is not None:
        logits.div_(shape.cap).tanh_().mul_(shape.cap)
    return logits


def _slope(logits: Tensor, shape: HeadShape) -> Tensor | float | None:
    """Derivative of ``_shaped`` where it gave ``logits``; None where it is one everywhere."""
    if shape.plain:
        return None
    if shape.cap is None:
        return shape.scale
    return (1 - (logits / shape.cap).square()).mul_(shape.scale)


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
    shape: HeadShape = PLAIN,
) -> Tensor:
    """``log softmax(logits)[targets]``, with ``logits = hidden @ weight.T + bias``.

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
        shape: a scale and a cap of the logits.

    Returns:
        Natural log-probabilities in fp32 (float64 for float64 inputs), ``[positions]``.
    """
    size = hidden.element_size() * hidden.shape[0] * weight.shape[0]
    keep &= chunk is None and torch.is_grad_enabled() and size <= _most_kept(hidden.device)
    chunk = chunk or _POSITIONS.get(hidden.device.type, _POSITIONS["cuda"])
    return _SelectedLogProbs.apply(hidden, targets, weight, bias, shape, chunk, in_place, keep)


class LogProbHead(nn.Module):
    """The LM head, able to give log-probabilities instead of logits.

    The work happens inside the forward of the module that owns the weight, so that ZeRO-3
    gathers the weight before it is read, in forward and in backward. It holds the very parameter
    of the head it replaces: names and tied embeddings stay as they are.
    """

    def __init__(
        self, linear: nn.Linear, chunk: int | None, keep: bool = True, shape: HeadShape = PLAIN
    ) -> None:
        super().__init__()
        self.weight = linear.weight
        self.bias = linear.bias
        self.chunk = chunk
        self.keep = keep
        self.shape = shape
        self.in_place = False
        self._heard: list[Tensor] | None = None

    def forward(self, hidden: Tensor, targets: Tensor | None = None) -> Tensor:
        if self._heard is not None:
            self._heard.append(hidden)
            return hidden.new_empty(*hidden.shape[:-2], 0, self.weight.shape[0])
        if targets is None:
            return functional.linear(hidden, self.weight, self.bias)
        if self.shape.read not in (None, 1.0):
            hidden = hidden * self.shape.read
        how = (self.chunk, self.in_place, self.keep, self.shape)
        return selected_log_probs(hidden, targets, self.weight, self.bias, *how)

    @contextmanager
    def listening(self) -> Iterator[list[Tensor]]:
        """What the head is given to read inside; it gives no logits meanwhile."""
        self._heard = []
        try:
            yield self._heard
        finally:
            self._heard = None
