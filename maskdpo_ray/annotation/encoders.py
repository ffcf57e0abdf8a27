"""Encoder classifiers behind annotators: a premise in windows, a hypothesis, probabilities.

Tokens are the tokenizer's business: it cuts the premise into overlapping windows that fit
the model together with the hypothesis.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from maskdpo_ray.annotation.annotator import Mark
from maskdpo_ray.errors import RowRejected, UserError
from maskdpo_ray.verdicts import CORRECT_VERDICTS, INCORRECT_VERDICTS, JUDGED

if TYPE_CHECKING:
    import numpy as np

# What models call their labels; a number behind nothing (LABEL_1) tells nothing.
KNOWN = {
    "entailment": "ok",
    "supported": "ok",
    "support": "ok",
    "supports": "ok",
    "consistent": "ok",
    "factual": "ok",
    "neutral": "unverifiable",
    "not_entailment": "unverifiable",
    "unsupported": "unverifiable",
    "not enough info": "unverifiable",
    "inconsistent": "unverifiable",
    "hallucinated": "unverifiable",
    "hallucination": "unverifiable",
    "contradiction": "contradictory",
    "refutes": "contradictory",
    "refuted": "contradictory",
}


def model_config(path: str, revision: str | None, key: str) -> dict[str, Any]:
    """The ``config.json`` of a model, here or on the hub.

    Raises:
        UserError: it cannot be had.
    """
    from maskdpo_ray.identity import hub_snapshot
    from maskdpo_ray.model_files import local_folder

    folder = Path(local_folder(path))
    if not folder.is_dir():
        folder = hub_snapshot(path, revision, allow_patterns=["config.json"])
    file = folder / "config.json"
    if not file.is_file():
        raise UserError(f"{key} {path} holds no config.json: it is no Hugging Face model")
    return json.loads(file.read_text(encoding="utf-8"))


def verdicts_of_labels(
    config: Mapping[str, Any], given: Mapping[str, str] | None, key: str
) -> list[str]:
    """The verdict that each label of a model stands for, in the order of its outputs.

    A model with one output tells the probability that the premise supports the hypothesis.

    Args:
        config: its ``config.json``.
        given: label -> verdict; unset, what ``KNOWN`` says.
        key: the setting that ``given`` comes from, for errors.

    Raises:
        UserError: a label without a verdict, or a verdict of a label that the model has not.
    """
    names = config.get("id2label") or {str(n): f"LABEL_{n}" for n in range(2)}
    labels = [names[str(n)] if str(n) in names else names[n] for n in range(len(names))]
    if len(labels) == 1:
        if given:
            raise UserError(f"{key}: the model has one output, which tells support: remove it")
        return ["ok"]
    if given and (unknown := sorted(set(given) - set(labels))):
        raise UserError(f"{key}: the model has no label {unknown[0]!r}; its own: {labels}")
    found = [(given or {}).get(label) or KNOWN.get(label.lower().strip()) for label in labels]
    if None in found:
        raise UserError(
            f"{key}: what the model's label {labels[found.index(None)]!r} means is not known: give "
            f"a verdict ({', '.join(JUDGED)}) for each of {labels}"
        )
    if not set(found) & set(CORRECT_VERDICTS) or not set(found) & set(INCORRECT_VERDICTS):
        raise UserError(f"{key}: {labels} need a correct and an incorrect verdict, not {found}")
    return found


class Window(NamedTuple):
    """One input of the model."""

    inputs: dict[str, list[int]]
    hypothesis: list[tuple[int, tuple[int, int]]]  # place of each token of it, and its characters

    @property
    def length(self) -> int:
        return len(self.inputs["input_ids"])


class Encoder:
    """An encoder classifier, on the GPU where there is one.

    Args:
        kind: the Transformers class to load it with, e.g. ``AutoModelForSequenceClassification``.
        window: tokens of premise and hypothesis together; the model's limit where None.
        overlap: tokens that neighbouring windows of a premise share.
    """

    def __init__(
        self,
        kind: str,
        path: str,
        *,
        revision: str | None = None,
        dtype: str = "float32",
        trust_remote_code: bool = False,
        window: int | None = None,
        overlap: int = 64,
        batch_size: int = 32,
    ) -> None:
        import torch
        import transformers

        from maskdpo_ray.model_files import local_folder

        where = {"revision": revision, "trust_remote_code": trust_remote_code}
        folder = local_folder(path)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **where)
        if not self.tokenizer.is_fast:
            raise UserError(f"{path} has no fast tokenizer, which tells where its tokens stand")
        loaded = getattr(transformers, kind).from_pretrained(
            folder, dtype=getattr(torch, dtype), **where
        )
        self._model = loaded.eval().to(self._device)
        self.window = self._limit(window, path)
        self._overlap, self._batch_size = overlap, batch_size
        self._waiting: list[tuple[Window, asyncio.Future]] = []
        self._working: asyncio.Task | None = None

    def _limit(self, window: int | None, path: str) -> int:
        own = getattr(self._model.config, "max_position_embeddings", None) or 10**9
        limit = min(own, self.tokenizer.model_max_length)
        if self._model.config.model_type in ("roberta", "xlm-roberta", "camembert"):
            limit = min(limit, own - 2)  # two of its positions are taken by padding
        if window is not None and window > limit:
            raise UserError(f"annotation.window={window} is over the {limit} tokens of {path}")
        if window is None and limit >= 10**9:
            raise UserError(f"{path} tells no limit of its input: set annotation.window")
        return window or limit

    def windows(self, premise: str, hypothesis: str) -> list[Window]:
        """Inputs of the model, one for each window of the premise.

        Raises:
            RowRejected: ``too_long``, the hypothesis leaves no room for a premise.
        """
        special = self.tokenizer.num_special_tokens_to_add(pair=True)
        own = len(self.tokenizer(hypothesis, add_special_tokens=False)["input_ids"])
        room = self.window - own - special
        if room < 1:
            raise RowRejected(
                "too_long",
                f"a text of {own} tokens leaves no room for a reference in the annotator's window "
                f"of {self.window}",
            )
        encoded = self.tokenizer(
            premise,
            hypothesis,
            truncation="only_first",
            max_length=self.window,
            stride=min(self._overlap, room - 1),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        names = [name for name in self.tokenizer.model_input_names if name in encoded]
        return [
            Window(
                {name: encoded[name][n] for name in names},
                [
                    (place, encoded["offset_mapping"][n][place])
                    for place, part in enumerate(encoded.sequence_ids(n))
                    if part == 1
                ],
            )
            for n in range(len(encoded["input_ids"]))
        ]

    async def probabilities(self, windows: list[Window]) -> np.ndarray:
        """What the model says of these inputs, ``[windows, labels]``; of a model that labels tokens
        ``[windows, tokens of the hypothesis, labels]``. Float32.

        Inputs that are asked for at the same time share passes.
        """
        import numpy as np

        logits = await asyncio.gather(*map(self._logits, windows))
        if logits[0].ndim == 2:
            logits = [
                each[[place for place, _ in window.hypothesis]]
                for each, window in zip(logits, windows, strict=True)
            ]
        return probabilities(np.stack(logits))

    async def _logits(self, window: Window) -> np.ndarray:
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((window, future))
        if self._working is None:
            self._working = asyncio.create_task(self._work())
        return await future

    async def _work(self) -> None:
        try:
            await asyncio.sleep(0)  # all that is asked for now stands in line first
            while self._waiting:
                # Of one length together: little padding, and the same passes every time.
                self._waiting.sort(key=lambda each: each[0].length)
                batch = self._waiting[: self._batch_size]
                del self._waiting[: self._batch_size]
                try:
                    outputs = await asyncio.to_thread(self._pass, [window for window, _ in batch])
                except Exception as error:
                    for _, future in batch:
                        future.set_exception(error)
                    continue
                for (_, future), output in zip(batch, outputs, strict=True):
                    future.set_result(output)
        finally:
            self._working = None

    def _pass(self, batch: list[Window]) -> list[np.ndarray]:
        import torch

        inputs = [window.inputs for window in batch]
        padded = self.tokenizer.pad(inputs, return_tensors="pt").to(self._device)
        with torch.inference_mode():
            logits = self._model(**padded).logits.float().cpu().numpy()
        if logits.ndim == 2:
            return list(logits)
        left = self.tokenizer.padding_side == "left"
        return [
            each[-window.length :] if left else each[: window.length]
            for each, window in zip(logits, batch, strict=True)
        ]


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax over the labels, the last axis; of one output alone the sigmoid."""
    import numpy as np

    if logits.shape[-1] == 1:
        return 1 / (1 + np.exp(-logits))
    spread = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return spread / spread.sum(axis=-1, keepdims=True)


class Judgement(NamedTuple):
    verdict: str
    confidence: float


def judged(windows: np.ndarray, verdicts: list[str], threshold: float, by: str) -> Judgement:
    """From the windows of a premise to one verdict.

    The probability of a verdict is that of its labels, the largest over the windows (or the mean):
    what one window supports is supported, however many say nothing of it. Support of ``threshold``
    and more than contradiction is ``ok``; else contradiction of ``threshold`` is ``contradictory``;
    else the sentence is ``unverifiable``, with what is left as its confidence.

    Args:
        windows: probabilities ``[windows, labels]``.
        by: ``max`` or ``mean``.
    """
    import numpy as np

    over = getattr(np, by)(windows, axis=0)
    of = {
        verdict: float(sum(p for p, v in zip(over, verdicts, strict=True) if v == verdict))
        for verdict in set(verdicts)
    }
    support = {v: of[v] for v in CORRECT_VERDICTS if v in of}
    best = max(support, key=support.__getitem__)
    against = of.get("contradictory", 0.0)
    if support[best] >= threshold and support[best] >= against:
        return Judgement(best, min(support[best], 1.0))
    if against >= threshold:
        return Judgement("contradictory", min(against, 1.0))
    return Judgement("unverifiable", max(1 - support[best] - against, 0.0))


def token_verdicts(
    windows: np.ndarray, verdicts: list[str], threshold: float
) -> list[tuple[str, float]]:
    """The verdict on each token of an answer and its probability.

    Each is judged in the window that supports it most: that another does not is no wonder. It is
    incorrect where the probability of an incorrect label there reaches ``threshold``.

    Args:
        windows: probabilities ``[windows, tokens, labels]``.
    """
    right = [verdict in CORRECT_VERDICTS for verdict in verdicts]
    if windows.shape[-1] == 1:
        return [
            ("ok", float(p)) if p >= 1 - threshold else ("unverifiable", float(1 - p))
            for p in windows[..., 0].max(axis=0)
        ]
    support = windows[..., right].sum(axis=-1)
    found = []
    for token, window in enumerate(support.argmax(axis=0)):
        row = windows[window, token]
        wrong = {v: 0.0 for v, is_right in zip(verdicts, right, strict=True) if not is_right}
        for verdict, p in zip(verdicts, row, strict=True):
            if verdict in wrong:
                wrong[verdict] += float(p)
        worst = max(wrong, key=wrong.__getitem__)
        if wrong[worst] >= threshold:
            found.append((worst, wrong[worst]))
        else:
            found.append(("ok", float(support[window, token])))
    return found


def marks(tokens: list[tuple[int, int, str, float]]) -> list[Mark]:
    """Neighbouring tokens of one verdict as one mark, with the mean of their probabilities.

    Args:
        tokens: start, end, verdict and probability of each, in order.
    """
    found = []
    for verdict, run in itertools.groupby(tokens, key=lambda token: token[2]):
        run = list(run)
        confidence = sum(p for *_, p in run) / len(run)
        found.append(
            Mark(run[0][0], run[-1][1], verdict, f"{len(run)} tokens", round(confidence, 6))
        )
    return found
