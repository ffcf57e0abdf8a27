"""The passages of a page that are closest to a query, by BM25 or by embeddings."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Protocol

import numpy as np

from maskdpo_ray.errors import UserError
from maskdpo_ray.knowledge.passages import words

EMBEDDED_TOKENS = 512  # of a text, the rest is cut; fewer where the model knows fewer positions
BATCH = 32


class Index(Protocol):
    """Texts that can be searched."""

    def best(self, query: str, k: int) -> list[int]: ...


Indexer = Callable[[Sequence[str]], Index]


class Bm25Index:
    """Okapi BM25 (k1 1.5, b 0.75) over lower-case words."""

    def __init__(self, texts: Sequence[str]) -> None:
        # Not bm25s: it imports numba, and beside numba vLLM's engine does not start on CPU.
        from rank_bm25 import BM25Okapi

        tokenized = [words(text) for text in texts]
        self._scores = BM25Okapi(tokenized).get_scores if any(tokenized) else None
        self._size = len(texts)

    def best(self, query: str, k: int) -> list[int]:
        """Positions of the ``k`` texts closest to ``query``, or of all where there are fewer, in
        the order of the texts; of equally close ones the earlier."""
        scores = self._scores(words(query)) if self._scores else np.zeros(self._size)
        return closest(scores, k)


class Embedder:
    """Mean-pooled, normalised last hidden states of an encoder.

    Args:
        model: local folder or hub id of anything that ``AutoModel`` loads; of an
            encoder-decoder the encoder.
    """

    def __init__(self, model: str, revision: str | None = None) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._tokenizer = AutoTokenizer.from_pretrained(model, revision=revision)
        network = AutoModel.from_pretrained(model, revision=revision, dtype=torch.float32)
        if network.config.is_encoder_decoder:
            network = network.get_encoder()
        self._network = network.eval().to(self._device)
        positions = getattr(network.config, "max_position_embeddings", None) or EMBEDDED_TOKENS
        self._length = min(EMBEDDED_TOKENS, self._tokenizer.model_max_length, positions)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors, fp32 of shape ``[texts, hidden]``."""
        batches = [texts[n : n + BATCH] for n in range(0, len(texts), BATCH)]
        return np.concatenate([self._embed(list(batch)) for batch in batches])

    def __call__(self, texts: Sequence[str]) -> "DenseIndex":
        return DenseIndex(self, texts)

    def _embed(self, texts: list[str]) -> np.ndarray:
        import torch

        tokens = self._tokenizer(
            texts, padding=True, truncation=True, max_length=self._length, return_tensors="pt"
        ).to(self._device)
        tokens.pop("token_type_ids", None)
        with torch.inference_mode():
            hidden = self._network(**tokens).last_hidden_state
        mask = tokens["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        means = (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        return torch.nn.functional.normalize(means, dim=-1).cpu().numpy()


class DenseIndex:
    """Texts by the cosine of their embeddings."""

    def __init__(self, embedder: Embedder, texts: Sequence[str]) -> None:
        self._embedder = embedder
        self._vectors = embedder.embed(texts)

    def best(self, query: str, k: int) -> list[int]:
        """As ``Bm25Index.best``."""
        return closest(self._vectors @ self._embedder.embed([query])[0], k)


def indexer(retrieval: str, embedding: str | None = None, revision: str | None = None) -> Indexer:
    """What makes texts searchable: ``bm25``, or ``dense`` with an encoder.

    Raises:
        UserError: a package is missing.
    """
    if retrieval == "dense":
        from maskdpo_ray.model_files import local_folder

        return Embedder(local_folder(embedding), revision)
    if find_spec("rank_bm25") is None:
        raise UserError("BM25 needs rank-bm25: pip install 'maskdpo-ray[factscore]'")
    return Bm25Index


def closest(scores: np.ndarray, k: int) -> list[int]:
    """Positions of the ``k`` highest scores in ascending order; of equal ones the earlier."""
    order = np.argsort(-scores, kind="stable")[:k]
    return sorted(order.tolist())
