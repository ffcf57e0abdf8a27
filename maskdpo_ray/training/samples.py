"""What the policy says while it is trained: a few answers every so many steps.

A policy may learn to say less, and its loss does not tell. The same few questions are answered by
the policy in training itself, so that a collapse is seen while it happens. Nothing of it reaches
what is learnt: no random state is used up, and the model goes on as it was.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from maskdpo_ray.annotation.sentences import split_sentences
from maskdpo_ray.engine.chat import load_tokenizer, response_text
from maskdpo_ray.errors import RowRejected
from maskdpo_ray.records import ERROR_VERDICT, Question, is_correct
from maskdpo_ray.storage import Folder
from maskdpo_ray.training.batches import TrainingPair
from maskdpo_ray.training.packing import PACKED_SDPA

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from maskdpo_ray.training.engine import Engine
    from maskdpo_ray.training.worker import TrainingJob, Workers

NAME = "samples.jsonl"
ROUNDING = 1e-9
LENGTHS = ("sentences", "tokens")
FALL = 0.2  # a loss of more than this share of the first length is told
PATIENCE = 120  # seconds that all workers wait for verdicts on a few answers

log = logging.getLogger(__name__)


class Samples:
    """The answers of one training, and what they come to.

    Args:
        pairs: whose prompts are answered: those held out, or else those that are learnt from.
        done: steps that the policy has behind it.
    """

    def __init__(
        self, job: "TrainingJob", workers: "Workers", pairs: list[TrainingPair], done: int
    ) -> None:
        settings = job.settings
        self._job, self._workers, self._settings = job, workers, settings
        self._asked = sample_questions(pairs, settings.sample_questions, job.seed)
        self._tokenizer = load_tokenizer(job.model)
        self._told, self._rows = workers.rank == 0, []
        self._judge = None
        if self._told:
            self._questions = _questions(job, {pair.id for pair in self._asked})
            self._judge = _Judge(job.examiner) if job.examiner else None
            if self._judge is None and not done:
                workers.tell(
                    "sampled answers get no score, only lengths: who examines answers needs an "
                    "engine of its own, or is nobody"
                )
            self._rows = [row for row in _read(job.output) if row["step"] <= done and done]
            self._write()

    def due(self, step: int, last: bool) -> bool:
        return last or step % self._settings.sample_every == 0

    def first(self) -> dict[str, Any] | None:
        """The metrics of step 0 where they are known from before, on rank 0."""
        rows = [row for row in self._rows if row["step"] == 0]
        return {"step": 0, **_metrics(rows)} if rows else None

    def take(self, engine: "Engine", step: int) -> dict[str, float]:
        """Let the policy answer; the metrics, on rank 0. All workers take part."""
        from maskdpo_ray.training.step import gathered

        policy = engine.module.policy
        limit = self._settings.sample_tokens
        stop = stop_ids(policy, self._tokenizer)
        count, rank = self._workers.count, self._workers.rank
        # Under ZeRO 3 every forward gathers weights with all workers: all do as many.
        lockstep = self._settings.zero_stage == 3 and count > 1
        answers: list[tuple[str, list[int]]] = []
        with _speaking(policy):
            for begin in range(0, len(self._asked), count):
                place = begin + rank
                pair = self._asked[min(place, len(self._asked) - 1)]
                seed = answer_seed(self._job.seed, step, pair.id)
                temperature = self._settings.sample_temperature
                ids = answer(policy, pair.prompt_ids, limit, stop, temperature, seed, lockstep)
                if place < len(self._asked):
                    answers.append((pair.id, ids))
        answers = gathered(answers, count)
        if not self._told:
            return {}
        rows = [self._row(step, name, ids, stop) for name, ids in sorted(answers)]
        if self._judge:
            self._judge.add_verdicts(rows, self._questions)
        self._rows += rows
        self._write()
        return self._report(step, rows)

    def _row(self, step: int, name: str, ids: list[int], stop: set[int]) -> dict[str, Any]:
        text = response_text(self._tokenizer, ids)
        question = self._questions[name]
        return {
            "step": step,
            "id": name,
            "question": question["question"],
            "answer": text,
            "tokens": len(ids),
            "sentences": len(split_sentences(text, question["language"])),
            "ended": bool(ids) and ids[-1] in stop,
        }

    def _report(self, step: int, rows: list[dict[str, Any]]) -> dict[str, float]:
        metrics = _metrics(rows)
        self._workers.tell(f"sampled at step {step}: {_said(metrics)}")
        names = {row["id"] for row in rows}
        first = min(row["step"] for row in self._rows if row["id"] in names)
        before = _metrics([r for r in self._rows if r["step"] == first and r["id"] in names])
        if fallen := shrunk(before, metrics):
            log.warning(
                "WARNING: the answers of the policy in training shrink: %s an answer since step "
                "%d; read them in %s",
                fallen,
                first,
                f"{self._job.output}/{NAME}",
            )
        return metrics

    def _write(self) -> None:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self._rows)
        self._job.output.write(NAME, lines.encode("utf-8", "backslashreplace"))


def sample_questions(pairs: list[TrainingPair], count: int, seed: int) -> list[TrainingPair]:
    """Pairs with ``count`` different prompts, or as many as there are, drawn with the seed."""
    by_prompt = {pair.prompt_ids.tobytes(): pair for pair in reversed(pairs)}
    distinct = sorted(by_prompt.values(), key=lambda pair: pair.id)
    drawn = np.random.default_rng((seed, len(distinct))).permutation(len(distinct))[:count]
    return [distinct[index] for index in sorted(drawn)]


def answer_seed(seed: int, step: int, name: str) -> int:
    """Of one answer: a function of the run's seed, the step and the question."""
    sequence = np.random.SeedSequence([seed, step, *name.encode("utf-8", "surrogatepass")])
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)


def stop_ids(policy: "PreTrainedModel", tokenizer: Any) -> set[int]:
    """The tokens that end an answer, as the sampling engine takes them."""
    own = policy.generation_config.eos_token_id
    found = {tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])}
    return found - {None}


def answer(
    policy: "PreTrainedModel",
    prompt_ids: np.ndarray,
    limit: int,
    stop: set[int],
    temperature: float = 0.0,
    seed: int = 0,
    lockstep: bool = False,
) -> list[int]:
    """Token ids of an answer, the one that ends it included; greedy at temperature 0.

    The random state is as before.

    Args:
        policy: in eval mode, attending in a way of Transformers'.
        prompt_ids: int64 ``[tokens]``, fewer than the model has positions.
        limit: tokens at most; fewer where the model has no more positions.
        lockstep: do as many forwards as the other workers.
    """
    import torch
    from transformers import GenerationConfig

    from maskdpo_ray.training.model import longest_input

    room = int(min(limit, longest_input(policy.config) - len(prompt_ids)))
    device = policy.get_input_embeddings().weight.device
    ids = torch.from_numpy(prompt_ids)[None].to(device)
    decoding: dict[str, Any] = {"do_sample": False}
    if temperature:
        decoding = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    config = GenerationConfig(
        max_new_tokens=room,
        eos_token_id=sorted(stop) or None,
        pad_token_id=min(stop, default=0),
        repetition_penalty=1.0,
        use_cache=True,
        **decoding,
    )
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
        torch.manual_seed(seed)
        whole = policy.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            generation_config=config,
            synced_gpus=lockstep,
        )
    found = whole[0, len(prompt_ids) :].tolist()
    # In lockstep with longer answers, what stands behind the end is padding.
    ends = [n for n, token in enumerate(found) if token in stop]
    return found[: ends[0] + 1] if ends else found


@contextmanager
def _speaking(policy: "PreTrainedModel") -> Iterator[None]:
    """The policy as it answers token by token; afterwards it is as before."""
    attention = policy.config._attn_implementation
    policy.eval()
    if attention == PACKED_SDPA:  # knows rows of whole sequences, and no cache
        policy.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        policy.set_attn_implementation(attention)
        policy.train()


def shrunk(before: dict[str, float], now: dict[str, float]) -> str:
    """What of an answer's length has fallen by more than a fifth, in words; else nothing."""
    lengths = ((what, before[f"samples/{what}"], now[f"samples/{what}"]) for what in LENGTHS)
    return " and ".join(
        f"{what} from {then:.1f} to {left:.1f}"
        for what, then, left in lengths
        if then - left > FALL * then + ROUNDING
    )


def _metrics(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Means over answers: tokens, sentences, the share that ended by themselves; and where verdicts
    are known the percent of correct sentences, and their number an answer."""
    means = {
        f"samples/{key}": float(np.mean([row[key] for row in rows]))
        for key in ("tokens", "sentences", "ended")
    }
    judged = [row for row in rows if "correct" in row]
    if sentences := sum(row["correct"] + row["incorrect"] for row in judged):
        correct = sum(row["correct"] for row in judged)
        means["samples/correct"] = correct / len(judged)
        means["samples/score"] = 100 * correct / sentences
    return means


def _said(metrics: dict[str, float]) -> str:
    parts = [
        f"{metrics['samples/tokens']:.0f} tokens",
        f"{metrics['samples/sentences']:.1f} sentences",
        f"{100 * metrics['samples/ended']:.0f} % ended",
    ]
    if "samples/score" in metrics:
        parts.append(
            f"score {metrics['samples/score']:.0f} ({metrics['samples/correct']:.1f} correct)"
        )
    return ", ".join(parts)


def _read(output: Folder) -> list[dict[str, Any]]:
    if not output.exists(NAME):
        return []
    found = []
    for line in output.read(NAME).splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:  # half a line: its step is sampled again
            break
    return found


def _questions(job: "TrainingJob", names: set[str]) -> dict[str, Question]:
    """What is asked, by the ids of pairs, with what an annotator reads of it."""
    pairs = {pair["id"]: pair for pair in job.pairs() if pair["id"] in names}
    asked = {(pair["topic"], pair["question"]) for pair in pairs.values()}
    known = {
        key: row
        for row in (job.questions() if job.questions else ())
        if (key := (row["topic"], row["question"])) in asked
    }
    return {
        name: {
            "document": None,
            "language": "en",
            **known.get((pair["topic"], pair["question"]), {}),
            "id": name,
            "topic": pair["topic"],
            "question": pair["question"],
        }
        for name, pair in pairs.items()
    }


class _Judge:
    """The examiner, asked from a training worker.

    One that fails is left out with a warning: training is worth more than its display.
    """

    def __init__(self, build: Callable[[], Any]) -> None:
        self._build: Callable[[], Any] | None = build
        self._annotate: Any = None
        self._loop = asyncio.new_event_loop()

    def add_verdicts(self, rows: list[dict[str, Any]], questions: dict[str, Question]) -> None:
        """Count the correct and incorrect sentences of each answer in its row."""
        if self._build is None:
            return
        asked = [_answered(questions[row["id"]], row["answer"]) for row in rows]
        try:
            self._annotate = self._annotate or self._build()
            work = asyncio.wait_for(self._annotate(asked), PATIENCE)
            judged = self._loop.run_until_complete(work)
        except Exception as error:
            reason = str(error) or type(error).__name__
            log.warning("sampled answers have no score from here on: %s", reason)
            self._build = None
            return
        for row, found in zip(rows, judged, strict=True):
            if isinstance(found, RowRejected):
                row["not_judged"] = str(found)
                continue
            verdicts = [each["verdict"] for each in found["candidates"][0]["sentences"]]
            known = [is_correct(verdict) for verdict in verdicts if verdict != ERROR_VERDICT]
            row |= {"correct": sum(known), "incorrect": len(known) - sum(known)}


def _answered(question: Question, text: str) -> Question:
    candidate = {
        "index": 0,
        "seed": 0,
        "model": "in training",
        "response": text,
        "token_ids": [],
        "finish_reason": "stop",
        "decoding": "greedy",  # one that is only examined
        "sentences": [],
    }
    return {**question, "candidates": [candidate]}
