"""Vectors for topics: of the policy, of any other model, or random.

An embedding turns texts into rows of length 1. The paper does not say which hidden
states it pools; the choices here are those of docs/topics.md.
"""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from maskdpo_ray.config import ModelConfig
from maskdpo_ray.engine.chat import load_tokenizer
from maskdpo_ray.errors import UserError
from maskdpo_ray.identity import model_identity
from maskdpo_ray.training.model import local_snapshot, longest_input

if TYPE_CHECKING:
    import torch

Pooling = Literal["framed", "mean", "mean_all", "last"]
FRAME = "Question about {}:"
TOKENS_AT_ONCE = 8192
RANDOM_DIMENSIONS = 256


class Embedding(Protocol):
    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """``[texts, dimensions]`` float32, rows of length 1, each a function of its text alone."""

    def describe(self) -> dict[str, Any]:
        """What decides about the vectors, for the summary."""


class ModelEmbedding:
    """Pooled hidden states of a model, causal or encoder, on the GPU where there is one.

    The text stands alone, without chat template, between the special tokens that the tokenizer
    adds by itself. A batch holds texts of one length in tokens, so nothing is ever padded. As a
    context it gives the GPU back at its end: an engine that starts beside it would lack the memory.

    Args:
        model: path, revision and dtype; the folder, URL or hub id of any Transformers model.
        pooling: ``framed``, the last token of ``FRAME`` around the text; ``mean`` over the tokens
            of the text, ``mean_all`` over special tokens too (as text-embedding models are
            trained), or the ``last`` token. None takes ``framed`` of a causal model, whose states
            before the last say how many tokens a name has rather than whose it is, and ``mean`` of
            an encoder.
        layer: 0 the token embeddings, 1 the first layer and so on; the last, after the final
            norm, where left out.
    """

    def __init__(
        self, model: ModelConfig, pooling: Pooling | None = None, layer: int | None = None
    ) -> None:
        import torch
        from transformers import AutoModel

        self._settings, self._layer = model, layer
        self._identity = model_identity(str(model.path), model.revision, "--model")
        self._tokenizer = load_tokenizer(model)
        self._model: Any = AutoModel.from_pretrained(
            local_snapshot(str(model.path), model.revision),
            dtype=getattr(torch, model.dtype),
            trust_remote_code=model.trust_remote_code,
        ).eval()
        if self._model.config.is_encoder_decoder:
            raise UserError(
                f"{model.path} is an encoder with a decoder: give a model of one part, causal or "
                "encoder"
            )
        self._pooling = pooling or ("framed" if is_causal(self._model.config) else "mean")
        self._model.config.use_cache = False
        layers = self._model.config.get_text_config().num_hidden_layers
        if layer is not None and not 0 <= layer <= layers:
            raise UserError(
                f"layer {layer}: {model.path} has the layers 1 to {layers}, and 0 for its token "
                "embeddings"
            )
        self._model.to("cuda" if torch.cuda.is_available() else "cpu")

    def __enter__(self) -> "ModelEmbedding":
        return self

    def __exit__(self, *_: object) -> None:
        import torch

        self._model = None
        torch.cuda.empty_cache()  # does nothing where there is none

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """Raises ``UserError`` for a text without tokens, or longer than the model's context."""
        import torch

        for text in texts:
            if not text.strip():
                raise UserError(f"{text!r} has no token: give the topic a name")
        framed = [FRAME.format(text) for text in texts] if self._pooling == "framed" else texts
        encoded = self._tokenizer(list(framed), return_special_tokens_mask=True)
        ids, special = encoded["input_ids"], encoded["special_tokens_mask"]
        longest = longest_input(self._model.config)
        for text, row, marks in zip(texts, ids, special, strict=True):
            if all(marks):
                raise UserError(f"{text!r} has no token: give the topic a name")
            if len(row) > longest:
                raise UserError(
                    f"{text[:60]!r}… has {len(row)} tokens, and {self._settings.path} reads "
                    f"{longest}: shorten it, or leave the questions out (--text topic)"
                )
        found: list[np.ndarray] = [np.empty(0)] * len(texts)
        for batch in batches([len(row) for row in ids]):
            with torch.inference_mode():
                hidden = self._hidden(torch.tensor([ids[index] for index in batch]))
                of_text = torch.tensor([special[index] for index in batch]).logical_not()
                pooled = pool(hidden, of_text.to(hidden.device), self._pooling)
            for index, vector in zip(batch, pooled.cpu().numpy(), strict=True):
                found[index] = vector
        return normalised(np.stack(found))

    def _hidden(self, ids: "torch.Tensor") -> "torch.Tensor":
        """``[texts, tokens, dimensions]`` of the layer."""
        import torch

        ids = ids.to(self._model.device)
        output = self._model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            output_hidden_states=self._layer is not None,
        )
        return (
            output.last_hidden_state if self._layer is None else output.hidden_states[self._layer]
        )

    def describe(self) -> dict[str, Any]:
        return {
            "model": self._settings.path,
            "identity": self._identity,
            "dtype": self._settings.dtype,
            "pooling": self._pooling,
            **({"frame": FRAME} if self._pooling == "framed" else {}),
            "layer": "last" if self._layer is None else self._layer,
        }


class RandomEmbedding:
    """A direction at random for each text, by seed and text alone: the baseline."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        return normalised(np.stack([self._vector(text) for text in texts]))

    def _vector(self, text: str) -> np.ndarray:
        # By way of hashes, which no release of NumPy changes: words of 32 bits to two normal
        # variates (Box and Muller).
        key = f"{self._seed}\0{text}".encode("utf-8", "surrogatepass")
        words = np.frombuffer(hashlib.shake_256(key).digest(4 * RANDOM_DIMENSIONS), dtype="<u4")
        radius, angle = np.split((words.astype(np.float64) + 0.5) / 2**32, 2)
        radius, angle = np.sqrt(-2.0 * np.log(radius)), 2.0 * np.pi * angle
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])

    def describe(self) -> dict[str, Any]:
        return {"random": True, "seed": self._seed}


def is_causal(config: Any) -> bool:
    """Whether a model reads from left to right, as policies do, and was not trained as encoder."""
    from transformers.models.auto import modeling_auto as auto

    kind = config.model_type
    causal, masked = auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return kind in causal and kind not in masked


def batches(lengths: Sequence[int], tokens: int = TOKENS_AT_ONCE) -> list[list[int]]:
    """Indices of texts of equal length together, at most so many tokens in a batch."""
    same: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        same.setdefault(length, []).append(index)
    made = []
    for length in sorted(same):
        size = max(tokens // length, 1)
        made += [same[length][n : n + size] for n in range(0, len(same[length]), size)]
    return made


def pool(hidden: "torch.Tensor", of_text: "torch.Tensor", pooling: Pooling) -> "torch.Tensor":
    """One vector a text, float32.

    Args:
        hidden: ``[texts, tokens, dimensions]``.
        of_text: ``[texts, tokens]``, false where a special token stands.
    """
    hidden = hidden.float()
    if pooling in ("last", "framed"):
        return hidden[:, -1]
    if pooling == "mean_all":
        return hidden.mean(dim=1)
    weights = of_text.float().unsqueeze(-1)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1)


def normalised(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1, float32.

    Raises:
        UserError: a row that is zero or not finite has no direction.
    """
    vectors = vectors.astype(np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or not lengths.all():
        raise UserError("a topic's vector is zero or not finite: try another layer or float32")
    return (vectors / lengths).astype(np.float32)
