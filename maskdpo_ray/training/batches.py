"""From preference pairs to the tensors of one forward pass, token for token."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from maskdpo_ray.config import TrainingConfig
from maskdpo_ray.errors import UserError
from maskdpo_ray.preference.weights import SideName
from maskdpo_ray.records import NO_SENTENCE, Pair

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Response:
    """One side of a pair, aligned per token."""

    token_ids: np.ndarray  # int64
    weights: np.ndarray  # float32
    reference: np.ndarray  # float32, log-probabilities under the frozen base
    owners: np.ndarray | None = None  # int64, the sentence of each; None: they are of one
    correct: np.ndarray | None = None  # float32, weights in correct sentences; None: not read

    @property
    def listed(self) -> np.ndarray:
        """Indices of the tokens that the loss reads: of a non-zero weight, in it or the anchor."""
        read = self.weights != 0
        return np.flatnonzero(read if self.correct is None else read | (self.correct != 0))

    @property
    def end(self) -> int:
        """Index behind the last token that the loss reads."""
        return int(self.listed[-1]) + 1 if len(self.listed) else 1


@dataclass(frozen=True)
class TrainingPair:
    id: str
    prompt_ids: np.ndarray  # int64
    chosen: Response
    rejected: Response
    weight: float = 1.0  # a factor on its loss
    gap: float = 0.0  # by how much the chosen answer scores higher, where the loss reads it

    @property
    def sides(self) -> tuple[Response, Response]:
        return self.chosen, self.rejected

    @property
    def length(self) -> int:
        """Tokens of the longer of the two sequences."""
        return len(self.prompt_ids) + max(len(side.token_ids) for side in self.sides)

    def tokens(self, packed: bool) -> int:
        """What the pair takes in a forward pass: its two sequences, or twice the longer one."""
        sides = [len(self.prompt_ids) + side.end - 1 for side in self.sides]
        return sum(sides) if packed else 2 * max(sides)


@dataclass(frozen=True)
class Batch:
    """Sequences of one forward pass: the chosen ones first, then the rejected ones.

    A sequence is the prompt's ids and the response's ids, as far as a token that the loss reads
    is still to be predicted: what comes later changes nothing. Sequences are rows, right padded, or
    packed one behind another in a single row. Only tokens that the loss reads
    (``Response.listed``) are listed in the per-token tensors.
    """

    sizes: tuple[int, ...]  # [2 * pairs], tokens of every sequence
    input_ids: "Tensor"  # int64 [2 * pairs, length] or [1, sum of sizes]
    attention_mask: "Tensor | None"  # int64 [2 * pairs, length]; None where packed
    position_ids: "Tensor"  # int64, as input_ids
    positions: "Tensor"  # int64 [tokens], into the flattened grid: where each token is predicted
    targets: "Tensor"  # int64 [tokens]
    weights: "Tensor"  # float32 [tokens]
    reference: "Tensor"  # float32 [tokens]
    correct: "Tensor"  # float32 [tokens], weights in correct sentences
    owner: "Tensor"  # int64 [tokens], the sequence a token belongs to
    sentence: "Tensor"  # int64 [tokens], the sentence a token belongs to, counted over the batch
    sentence_owner: "Tensor"  # int64 [sentences], the sequence a sentence belongs to
    pair_weights: "Tensor"  # float32 [pairs], factors on their losses
    gaps: "Tensor"  # float32 [pairs], between the scores of the two answers

    @property
    def sequences(self) -> int:
        return len(self.sizes)

    def inputs(self) -> dict[str, Any]:
        """What the model reads."""
        names = ("input_ids", "attention_mask", "position_ids", "positions", "targets", "sizes")
        return {name: getattr(self, name) for name in names}

    def to(self, device: "str | object") -> "Batch":
        fields = vars(self).items()
        return Batch(**{n: v.to(device) if hasattr(v, "to") else v for n, v in fields})


def training_pairs(
    pairs: Iterable[Pair],
    references: Mapping[str, Mapping[str, Sequence[float]]],
    settings: TrainingConfig,
) -> list[TrainingPair]:
    """Join pairs and reference log-probabilities, in the order of their ids.

    The order is that of the ids, not of the input: the batch plan counts on it, and files may be
    listed in any order.

    Args:
        references: by pair digest, a log-probability for every response token of both sides.
        settings: ``mask: none`` replaces all weights by one (vanilla DPO).

    Raises:
        UserError: naming the row, where a pair is repeated, has no reference or one of another
            length, has a side from which nothing would be learnt, a weight that is no factor, or
            does not tell what the loss reads of it.
    """
    rows: dict[str, TrainingPair] = {}
    for pair in pairs:
        name = pair["id"]
        if name in rows:
            raise UserError(f"pair {name!r} stands twice in the training data: make ids unique")
        reference = references.get(pair["digest"])
        if reference is None:
            raise UserError(
                f"pair {name!r} has no reference log-probabilities: see why under the rejected "
                "rows of stage reference"
            )
        if not len(pair["prompt_ids"]):
            raise UserError(f"pair {name!r} has an empty prompt: nothing predicts its first token")
        if not 0 < pair["weight"] < math.inf:
            raise UserError(
                f"pair {name!r} has the weight {pair['weight']}, a factor on its loss: give a "
                "number above zero, or leave the pair out"
            )
        chosen = _response(pair, "chosen", reference, settings)
        rejected = _response(pair, "rejected", reference, settings)
        if settings.ld_alpha is not None:
            chosen, rejected = length_desensitised(chosen, rejected, settings.ld_alpha)
        rows[name] = TrainingPair(
            id=name,
            prompt_ids=np.asarray(pair["prompt_ids"], dtype=np.int64),
            chosen=chosen,
            rejected=rejected,
            weight=pair["weight"],
            gap=_gap(pair) if settings.gap_margin else 0.0,
        )
        if not settings.compares and not any(len(each.listed) for each in rows[name].sides):
            raise UserError(
                f"pair {name!r} has no token of a correct or incorrect sentence: leave it out"
            )
    if not rows:
        raise UserError("there are no preference pairs to train on: the report says why")
    return [rows[name] for name in sorted(rows)]


def _response(
    pair: Pair,
    side: SideName,
    reference: Mapping[str, Sequence[float]],
    settings: TrainingConfig,
) -> Response:
    token_ids = np.asarray(pair[side]["token_ids"], dtype=np.int64)
    weights = np.asarray(pair[side]["weights"], dtype=np.float32)
    log_probs = np.asarray(reference[side], dtype=np.float32)
    owners = np.asarray(pair[side]["owners"], dtype=np.int64)
    by_sentence = not settings.compares
    correct = _correct(pair, side) if settings.anchor_weight or by_sentence else None
    for what, given in (
        ("weights", weights),
        ("reference log-probabilities", log_probs),
        ("owners", owners),
        ("weights of correct sentences", token_ids if correct is None else correct),
    ):
        if len(given) != len(token_ids):
            raise UserError(
                f"pair {pair['id']!r}: {side} has {len(token_ids)} tokens and {len(given)} {what}; "
                "they come from different runs: run those stages again"
            )
    if settings.mask == "none":
        weights = np.ones_like(weights)
    for given in (weights, weights if correct is None else correct):
        if not ((given >= 0) & (given <= 1)).all():
            raise UserError(f"pair {pair['id']!r}: weights of {side} must lie between 0 and 1")
    if by_sentence:
        # All that is known of the answer, whichever side it stands on.
        return Response(
            token_ids,
            np.where(owners == NO_SENTENCE, np.float32(0), np.maximum(weights, correct)),
            log_probs,
            owners,
            correct,
        )
    if not weights.any():
        raise UserError(
            f"pair {pair['id']!r}: every weight of {side} is zero, so nothing would be learnt "
            "from it: reject the pair"
        )
    bounded = settings.rejected_floor is not None and settings.rejected_floor_per == "sentence"
    if bounded and side == "rejected" and (owners == NO_SENTENCE).all():
        raise UserError(
            f"pair {pair['id']!r} does not tell the sentences of its rejected answer: set "
            "training.rejected_floor_per=token"
        )
    return Response(token_ids, weights, log_probs, owners, correct)


def length_desensitised(
    chosen: Response, rejected: Response, alpha: float
) -> tuple[Response, Response]:
    """Both with ``alpha`` times the weight for kept tokens beyond the number that both sides have.

    LD-DPO (arXiv:2409.06411) for masked answers: its public length is the smaller number of tokens
    with a non-zero weight. At ``alpha`` 1 nothing changes, at 0 the longer side is cut.
    """
    kept = [np.flatnonzero(side.weights) for side in (chosen, rejected)]
    public = min(map(len, kept))
    sides = []
    for side, tokens in zip((chosen, rejected), kept, strict=True):
        weights = side.weights.copy()
        weights[tokens[public:]] *= alpha
        sides.append(replace(side, weights=weights))
    return sides[0], sides[1]


def _gap(pair: Pair) -> float:
    """By how much the chosen answer is more factual, never less than nothing (F-DPO)."""
    scores = [pair[side]["score"] for side in ("chosen", "rejected")]
    if not all(score is not None and math.isfinite(score) for score in scores):
        raise UserError(
            f"pair {pair['id']!r} does not tell the scores of its answers: set training.gap_margin"
            "=0 (training.margin is the same for all pairs)"
        )
    return max(0.0, scores[0] - scores[1])


def _correct(pair: Pair, side: SideName) -> np.ndarray:
    known = pair[side].get("correct")
    if known is None:
        raise UserError(
            f"pair {pair['id']!r} does not tell the correct sentences of its {side} answer: set "
            "training.anchor_weight=0 (training.nll_weight holds up what the chosen one learns) "
            "and a loss of pairs"
        )
    return np.asarray(known, dtype=np.float32)


def collate(pairs: Sequence[TrainingPair], packed: bool = False) -> Batch:
    """Tensors of one forward pass over these pairs, padded or packed."""
    import torch

    sequences = [(pair.prompt_ids, pair.chosen) for pair in pairs]
    sequences += [(pair.prompt_ids, pair.rejected) for pair in pairs]
    # The last token is only ever predicted, never read.
    sizes = np.array([len(prompt) + response.end - 1 for prompt, response in sequences])
    length = int(sizes.sum() if packed else sizes.max())
    rows = 1 if packed else len(sequences)
    starts = np.cumsum(sizes) - sizes if packed else np.arange(len(sequences)) * length
    input_ids = np.zeros(rows * length, dtype=np.int64)
    position_ids = np.tile(np.arange(length), rows)
    positions, targets, weights, reference, correct = [], [], [], [], []
    owner, sentence, sentence_owner = [], [], []
    for number, (prompt, response) in enumerate(sequences):
        start, size = starts[number], sizes[number]
        input_ids[start : start + size] = np.concatenate([prompt, response.token_ids])[:size]
        if packed:
            position_ids[start : start + size] = np.arange(size)
        kept = response.listed
        # The token at index k of the response is predicted one position before it stands.
        positions.append(start + len(prompt) - 1 + kept)
        targets.append(response.token_ids[kept])
        weights.append(response.weights[kept])
        reference.append(response.reference[kept])
        unknown = response.correct is None
        correct.append(np.zeros(len(kept), np.float32) if unknown else response.correct[kept])
        owner.append(np.full(len(kept), number))
        owners = np.zeros(len(kept)) if response.owners is None else response.owners[kept]
        names, places = np.unique(owners, return_inverse=True)
        sentence.append(len(sentence_owner) + places)
        sentence_owner += [number] * len(names)
    mask = None if packed else torch.from_numpy(np.arange(length) < sizes[:, None]).long()
    return Batch(
        sizes=tuple(sizes.tolist()),
        input_ids=torch.from_numpy(input_ids.reshape(rows, length)),
        attention_mask=mask,
        position_ids=torch.from_numpy(position_ids.reshape(rows, length)),
        positions=torch.from_numpy(np.concatenate(positions)),
        targets=torch.from_numpy(np.concatenate(targets)),
        weights=torch.from_numpy(np.concatenate(weights)),
        reference=torch.from_numpy(np.concatenate(reference)),
        correct=torch.from_numpy(np.concatenate(correct)),
        owner=torch.from_numpy(np.concatenate(owner)),
        sentence=torch.from_numpy(np.concatenate(sentence)),
        sentence_owner=torch.tensor(sentence_owner, dtype=torch.int64),
        pair_weights=torch.tensor([pair.weight for pair in pairs], dtype=torch.float32),
        gaps=torch.tensor([pair.gap for pair in pairs], dtype=torch.float32),
    )


def idle_batch(packed: bool = False) -> Batch:
    """The smallest batch there is, for a worker without pairs in a pass that others need it in."""
    response = Response(np.zeros(1, np.int64), np.ones(1, np.float32), np.zeros(1, np.float32))
    return collate([TrainingPair("", np.zeros(1, np.int64), response, response)], packed)
