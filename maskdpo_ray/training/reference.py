"""Log-probabilities of both responses under the frozen base, once and for all of training.

They come from the forward that training uses, in the same arithmetic, so that policy and
reference agree at step 0 and the loss starts at ln 2. Every response token has one, whatever its
weight: another mask or another beta computes nothing again.
"""

import asyncio
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from maskdpo_ray.config import ModelConfig, TrainingConfig
from maskdpo_ray.errors import RowRejected
from maskdpo_ray.records import Pair
from maskdpo_ray.training.batch_plan import split_batch
from maskdpo_ray.training.batches import Response, TrainingPair, collate

if TYPE_CHECKING:
    from maskdpo_ray.training.logprobs import LogProbModel


def reference_log_probs(
    model: "LogProbModel", pairs: Sequence[Pair], micro_batch_tokens: int
) -> list[dict[str, Any]]:
    """Rows of ``REFERENCE_SCHEMA`` in the order of ``pairs``; natural logarithms, fp32.

    A row is named by the digest of its pair's token ids: what it says holds for every pair with
    these ids, whatever run, mask or loss it serves.

    Args:
        micro_batch_tokens: tokens of one forward pass, see :func:`split_batch`.
    """
    import torch

    device = next(model.parameters()).device
    plain = [_unmasked(pair) for pair in pairs]
    tokens = np.array([pair.tokens(model.packed) for pair in plain])
    rows: list[dict[str, Any]] = [{} for _ in pairs]
    everything = np.arange(len(pairs))
    (passes,) = split_batch(everything, tokens, 1, micro_batch_tokens, model.packed)
    for indices in passes:
        group = [plain[index] for index in indices]
        with torch.inference_mode():
            log_probs = model(**collate(group, model.packed).to(device).inputs()).cpu().numpy()
        sides = [pair.chosen for pair in group] + [pair.rejected for pair in group]
        ends = np.cumsum([len(side.token_ids) for side in sides])
        chosen_and_rejected = np.split(log_probs, ends[:-1])
        for place, index in enumerate(indices):
            rows[index] = {
                "id": pairs[index]["digest"],
                "chosen": chosen_and_rejected[place].tolist(),
                "rejected": chosen_and_rejected[len(group) + place].tolist(),
            }
    return rows


def _unmasked(pair: Pair) -> TrainingPair:
    def response(side: Any) -> Response:
        token_ids = np.asarray(side["token_ids"], dtype=np.int64)
        ones = np.ones(len(token_ids), dtype=np.float32)
        return Response(token_ids, weights=ones, reference=np.zeros_like(ones))

    prompt_ids = np.asarray(pair["prompt_ids"], dtype=np.int64)
    return TrainingPair(
        pair["id"], prompt_ids, response(pair["chosen"]), response(pair["rejected"])
    )


def _finite(pair: Pair, reference: dict[str, Any]) -> dict[str, Any] | RowRejected:
    for side in ("chosen", "rejected"):
        if not np.isfinite(reference[side]).all():
            return RowRejected(
                "reference_not_finite",
                f"pair {pair['id']!r}: the policy gives tokens of {side} log-probabilities that "
                "are not finite: its weights are damaged, or overflow in model.dtype",
            )
    return reference


class ReferenceProcessor:
    """The frozen base in an actor: loaded once, asked for many blocks of pairs.

    Args:
        model: the policy before alignment.
        settings: training's; the arithmetic must be training's own.
    """

    def __init__(self, model: ModelConfig, settings: TrainingConfig) -> None:
        import torch

        from maskdpo_ray.training.logprobs import LogProbModel
        from maskdpo_ray.training.model import load_policy, longest_input

        device = "cuda" if torch.cuda.is_available() else "cpu"
        policy = load_policy(model, settings).to(device)
        self._model = LogProbModel(policy, settings.logprob_chunk, settings.packing)
        self._model.eval().requires_grad_(False)
        self._longest = longest_input(self._model.policy.config)
        self._micro_batch_tokens = settings.micro_batch_tokens
        self._one_at_a_time = threading.Lock()

    async def __call__(self, rows: list[Pair]) -> list[dict[str, Any] | RowRejected]:
        """Rows of ``REFERENCE_SCHEMA`` in the order of ``rows``; a pair is rejected that is too
        long, or that has no finite log-probabilities."""
        return await asyncio.to_thread(self._compute, rows)

    def _compute(self, rows: list[Pair]) -> list[dict[str, Any] | RowRejected]:
        lengths = [_unmasked(row).length for row in rows]
        fitting = [row for row, size in zip(rows, lengths, strict=True) if size <= self._longest]
        # Several blocks wait here at once; passes that run side by side would only share memory.
        with self._one_at_a_time:
            results = iter(reference_log_probs(self._model, fitting, self._micro_batch_tokens))
        return [
            _finite(row, next(results))
            if size <= self._longest
            else RowRejected(
                "longer_than_model",
                f"pair {row['id']!r} has {size} tokens, the model {self._longest:g} positions: "
                f"set preference.max_length={self._longest:g}",
            )
            for row, size in zip(rows, lengths, strict=True)
        ]
