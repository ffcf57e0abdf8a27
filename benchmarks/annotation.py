"""What annotation costs: one conversation after another against all at once, document-first prompts
against sentence-first ones, and the calls that distinct sentences and pruning save.

    python benchmarks/annotation.py --quick     # minutes on two cores
    python benchmarks/annotation.py             # more sentences, the demo's whole world

Prints tables; the last line is one JSON object. Timings are of one real engine on this machine,
its start apart; the model is small and speaks a script (``scripted_llama.py``), the same on both
sides. Calls saved are counts and hold on any machine.
"""

import argparse
import asyncio
import copy
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from random import Random
from typing import Any

from scripted_llama import build_scripted_llama

from maskdpo_ray.annotation.annotate import Annotate
from maskdpo_ray.annotation.annotators.anah import AnahAnnotator, read_anah_templates
from maskdpo_ray.annotation.annotators.closed_world import ClosedWorldAnnotator
from maskdpo_ray.annotation.annotators.judge import JudgeAnnotator, read_judge_templates
from maskdpo_ray.annotation.calls import count_calls
from maskdpo_ray.annotation.pruning import next_sentences
from maskdpo_ray.annotation.sentences import split_sentences
from maskdpo_ray.config import PreferenceConfig
from maskdpo_ray.engine.chat_model import ChatModel
from maskdpo_ray.engine.engine import Engine
from maskdpo_ray.preference.ranking import PAPER, Tally
from maskdpo_ray.preference.select import NoPair, select_pairs
from maskdpo_ray.report.table import aligned
from maskdpo_ray.sampling.sampler import Decoding, Sampler
from maskdpo_ray.world.facts import QUESTION_KINDS, document, make_people, write_answer

PAPERS_POINT = (32, 5, 0.5)  # candidates, sentences, share of correct sentences
DOCUMENT_TOKENS = 1000


class WatchedEngine(Engine):
    """Remembers how many requests each step advanced and when; can forget what it has cached."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.batches: list[tuple[float, int]] = []
        super().__init__(*args, **kwargs)

    def _start(self, args: dict[str, Any]) -> Any:
        engine = super()._start(args)
        self.forget = engine.reset_prefix_cache  # while nothing runs
        scheduler = engine.engine_core.engine_core.scheduler
        schedule = scheduler.schedule

        def watched(*args: Any, **kwargs: Any) -> Any:
            output = schedule(*args, **kwargs)
            self.batches.append((time.perf_counter(), len(output.num_scheduled_tokens)))
            return output

        scheduler.schedule = watched
        return engine


class Timed:
    """An annotator, and when each of its sentences was done."""

    def __init__(self, annotator: Any) -> None:
        self._annotator = annotator
        self.done: list[float] = []

    async def verdict(self, question: dict, sentence: str) -> tuple[str, str]:
        answer = await self._annotator.verdict(question, sentence)
        self.done.append(time.perf_counter())
        return answer


# -- rows ----------------------------------------------------------------------------------------


def world_rows(count: int, candidates: int, seed: int = 0) -> Iterator[dict]:
    """Questions about people of the closed world, with answers of its noisy encyclopedia."""
    random = Random(seed)
    people = make_people(count, seed)
    for person in people:
        kind = QUESTION_KINDS[0]
        answers = [write_answer(person, people, kind, random) for _ in range(candidates)]
        yield {
            "id": person.name,
            "topic": person.name,
            "question": kind.wording.format(name=person.name),
            "document": document(person),
            "language": "en",
            "candidates": [
                {"index": n, "response": text, "token_ids": [1], "sentences": []}
                for n, text in enumerate(answers)
            ],
        }


def lengthen(rows: list[dict], tokenizer: Any) -> list[dict]:
    """The rows with documents of ``DOCUMENT_TOKENS`` tokens: those of others follow their own."""
    texts = [row["document"] for row in rows]
    lengthened = []
    for n, row in enumerate(rows):
        own_first = " ".join(texts[n:] + texts[:n])
        ids = tokenizer.encode(own_first, add_special_tokens=False)
        lengthened.append({**row, "document": tokenizer.decode(ids[:DOCUMENT_TOKENS])})
    return lengthened


# -- all at once against one conversation after another ------------------------------------------


def measure_conversations(engine: WatchedEngine, rows: list[dict], limit: int) -> dict[str, Any]:
    annotator = Timed(AnahAnnotator(ChatModel(engine, max_tokens=64), read_anah_templates()))
    asyncio.run(one_after_another(annotator, rows[:1]))  # what is built once is not timed
    engine.forget()
    requests, steps = engine.stats.requests, engine.stats.steps
    begun = time.perf_counter()
    sequential = asyncio.run(one_after_another(annotator, rows))
    seconds_one = time.perf_counter() - begun
    turns, steps_one = engine.stats.requests - requests, engine.stats.steps - steps

    engine.forget()
    annotator.done.clear()
    engine.batches.clear()
    begun = time.perf_counter()
    found = asyncio.run(Annotate(annotator)(copy.deepcopy(rows)))
    seconds = time.perf_counter() - begun
    sentences = len(annotator.done)
    assert verdicts(found) == sequential, "the same sentences, the same verdicts"

    tail = sorted(annotator.done)[-min(limit, sentences)]  # from here on fewer are left
    sizes = [size for when, size in engine.batches if when < tail]
    ramp = next((n for n, size in enumerate(sizes) if size > 0.9 * limit), len(sizes))
    above = sum(size > 0.9 * limit for size in sizes[ramp:])
    return {
        "sentences": sentences,
        "turns": turns,
        "seconds_one_after_another": seconds_one,
        "seconds_all_at_once": seconds,
        "speedup_over_sequential": seconds_one / seconds,
        "sentences_per_second": sentences / seconds,
        "steps_one_after_another": steps_one,
        "steps_all_at_once": len(engine.batches),
        "running_limit": limit,
        "steps_until_90_percent_run": ramp,
        "steps_from_there_to_tail": len(sizes) - ramp,
        "share_of_them_above_90_percent": above / max(1, len(sizes) - ramp),
        "mean_running_in_them": sum(sizes[ramp:]) / max(1, len(sizes) - ramp),
        "fewest_running_in_them": min(sizes[ramp:], default=0),
    }


async def one_after_another(annotator: Any, rows: list[dict]) -> dict[tuple[str, str], str]:
    """Each distinct sentence in its turn, as the released annotation script goes."""
    found = {}
    for row in rows:
        for candidate in row["candidates"]:
            for start, end in split_sentences(candidate["response"], row["language"]):
                key = row["id"], candidate["response"][start:end].strip()
                if key not in found:
                    found[key], *_ = await annotator.verdict(row, key[1])
    return found


def texts_of(row: dict) -> dict[str, str]:
    """Distinct sentences of an annotated row and their verdicts."""
    return {
        candidate["response"][s["start"] : s["end"]].strip(): s["verdict"]
        for candidate in row["candidates"]
        for s in candidate["sentences"]
    }


def verdicts(rows: list[dict]) -> dict[tuple[str, str], str]:
    return {(row["id"], text): v for row in rows for text, v in texts_of(row).items()}


# -- document first against sentence first -------------------------------------------------------


def measure_prompts(engine: WatchedEngine, rows: list[dict]) -> dict[str, Any]:
    ours = read_judge_templates()
    swapped = copy.deepcopy(ours)
    last = "Sentence: {sentence}\n\n"
    prompt = swapped.languages["en"]["prompt"]
    assert prompt.count(last) == 1 and prompt.startswith("Document: {document}")
    swapped.languages["en"]["prompt"] = last + prompt.replace(last, "")
    results = {}
    for name, templates in (("document_first", ours), ("sentence_first", swapped)):
        engine.forget()
        before = copy.copy(engine.stats)
        annotator = Annotate(JudgeAnnotator(ChatModel(engine, max_tokens=16), templates))
        begun = time.perf_counter()
        found = asyncio.run(annotator(copy.deepcopy(rows)))
        seconds = time.perf_counter() - begun
        assert "error" not in verdicts(found).values()
        requests, prompt_tokens, cached = (
            getattr(engine.stats, key) - getattr(before, key)
            for key in ("requests", "prompt_tokens", "cached_tokens")
        )
        results[name] = {
            "sentences": requests,
            "prompt_tokens_per_sentence": prompt_tokens / requests,
            "prefilled_per_sentence": (prompt_tokens - cached) / requests,
            "cache_hit_rate": cached / prompt_tokens,
            "sentences_per_second": requests / seconds,
        }
    first, second = (results[name]["prefilled_per_sentence"] for name in results)
    return {"documents": len(rows), **results, "prefill_ratio": second / first}


# -- calls saved ---------------------------------------------------------------------------------


def measure_demo(folder: Path, *, small: bool) -> dict[str, Any]:
    """The demo's world with K = 32: its policy's answers, annotated in full and pruned."""
    command = [sys.executable, "-m", "maskdpo_ray.world", str(folder)] + ["--small"] * small
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    subprocess.run(command, check=True, env={**os.environ, **quiet})
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    lines = (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()
    questions = [{**json.loads(line), "candidates": []} for line in lines]
    engine = Engine(str(folder / "policy"), dtype="float32", max_model_len=256, max_num_seqs=256)
    decoding = Decoding(candidates=32, temperature=0.8, top_k=40, top_p=1.0, max_tokens=128)
    sampler = Sampler(engine, decoding, model="demo", seed=0)
    rows = asyncio.run(sampler(questions))
    engine.close()
    full, pruned = (
        asyncio.run(Annotate(ClosedWorldAnnotator(facts), prune=prune)(rows))
        for prune in (None, PreferenceConfig())
    )
    assert list(map(outcome, full)) == list(map(outcome, pruned)), "the same pairs"
    calls = count_calls(pruned)
    marks = [
        s["verdict"] in ("ok", "nofact")
        for r in full
        for c in r["candidates"]
        for s in c["sentences"]
    ]
    return {
        "world": "small" if small else "full",
        "questions": len(rows),
        "candidates": 32,
        "sentences_per_answer": calls["sentences"] / (32 * len(rows)),
        "correct": sum(marks) / len(marks),
        **calls,
        "saved_distinct": 1 - calls["distinct"] / calls["sentences"],
        "saved_pruning": calls["pruned"] / calls["distinct"],
    }


def outcome(row: dict) -> Any:
    try:
        [(best, worst, _)] = select_pairs(row["candidates"])
    except NoPair as none:
        return none.reason
    return [(n, row["candidates"][n]["sentences"]) for n in (best, worst)]


def simulate(candidates: int, sentences: int, correct: float, questions: int) -> dict[str, float]:
    """Calls saved over random questions: answers of ``sentences`` - 2 to + 2 sentences of their
    own, each correct with the same chance.

    Returns:
        ``saved``; ``at_most``: the most that any order of asking could save, were the verdicts
        known; ``rounds`` a question.
    """
    chance = Random(f"{candidates} {sentences} {correct}")
    everything = asked = needed = rounds = 0
    for _ in range(questions):
        texts, truth = [], {}
        for n in range(candidates):
            length = chance.randint(max(1, sentences - 2), sentences + 2)
            texts.append([f"{n} {i}" for i in range(length)])
            for text in texts[n]:
                truth[text] = "ok" if chance.random() < correct else "unverifiable"
        known: dict[str, str] = {}
        while following := next_sentences(texts, known):
            known |= {text: truth[text] for text in following}
            rounds += 1
        everything += len(truth)
        asked += len(known)
        needed += fewest_calls([[truth[text] for text in answer] for answer in texts])
    return {
        "saved": 1 - asked / everything,
        "at_most": 1 - needed / everything,
        "rounds": rounds / questions,
    }


def fewest_calls(answers: Sequence[Sequence[str]]) -> int:
    """The fewest verdicts that prove which answer is best and which is worst.

    Every answer but these two must show enough incorrect sentences to fall below the best and
    enough correct ones to stand above the worst.
    """
    counts = [PAPER.tally(answer) for answer in answers]
    best = max(range(len(answers)), key=lambda n: PAPER.as_best(counts[n], n))
    worst = min(range(len(answers)), key=lambda n: PAPER.as_worst(counts[n], n))
    total = sum(sum(counts[n]) for n in {best, worst})
    for n, of in enumerate(counts):
        if n not in (best, worst):
            total += min(
                right + wrong
                for right in range(of.correct + 1)
                for wrong in range(of.incorrect + 1)
                if beaten(of, right, wrong, n, counts[best], best, counts[worst], worst)
            )
    return total


def beaten(
    of: Tally, right: int, wrong: int, n: int, best: Tally, top: int, worst: Tally, bottom: int
) -> bool:
    """Whether an answer of which so many sentences are known is neither best nor worst."""
    so_far = Tally(right, wrong, sum(of) - right - wrong)
    return PAPER.as_best(so_far, n) < PAPER.as_best(best, top) and (
        PAPER.as_worst(so_far, n) > PAPER.as_worst(worst, bottom)
    )


# -- the whole -----------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    packages = ("vllm", "torch", "transformers", "tokenizers")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "processor": platform.machine(),
        "python": platform.python_version(),
        **{name: installed(name) for name in packages},
        "date": datetime.date.today().isoformat(),
    }


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # vLLM's CPU build has a name of its own
        return version(f"{name}-cpu")


def show(title: str, table: list[list[str]]) -> None:
    print(f"\n{title}\n{aligned(table)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rows, the miniature world")
    quick = parser.parse_args().quick
    limit = 128
    people, documents, questions = (48, 12, 60) if quick else (160, 48, 400)
    with tempfile.TemporaryDirectory(prefix="annotation-") as scratch:
        rows = list(world_rows(people, candidates=8))
        model = build_scripted_llama(Path(scratch) / "model", training_texts())
        engine = WatchedEngine(
            model,
            dtype="float32",
            max_model_len=2048,
            max_num_seqs=limit,
            max_num_batched_tokens=8192,
            block_size=32,  # near a GPU's 16; vLLM's default on CPU is 128
            enable_prefix_caching=True,
        )
        speed = measure_conversations(engine, rows, limit)
        show_figures("`anah`: one conversation after another, and all at once", speed)
        long = lengthen(list(world_rows(64, candidates=8, seed=1)), engine.tokenizer)
        prompts = measure_prompts(engine, long[:documents])
        engine.close()
        show_prompts(prompts)
        demo = measure_demo(Path(scratch) / "world", small=quick)
    show_figures(f"calls of the demo's {demo['world']} world, K = 32", demo)
    grid = {
        (k, n, correct): simulate(k, n, correct, questions)
        for k in (8, 16, 32)
        for n in (3, 5, 8)
        for correct in (0.3, 0.5, 0.7, 0.9)
    }
    show_simulation(grid)
    result = {
        "speedup_over_sequential": speed["speedup_over_sequential"],
        "prefill_ratio": prompts["prefill_ratio"],
        "calls_saved_distinct": demo["saved_distinct"],
        "calls_saved_pruning": grid[PAPERS_POINT]["saved"],
        "calls_saved_pruning_at_most": grid[PAPERS_POINT]["at_most"],
        "calls_saved_pruning_demo": demo["saved_pruning"],
        "conversations": speed,
        "prompts": prompts,
        "demo": demo,
        "quick": quick,
        "machine": machine(),
    }
    print(json.dumps(result, default=float))


def training_texts() -> list[str]:
    """What the tokenizer learns its words from: the prompts, and what people are asked about."""
    wordings = [*read_anah_templates().languages["en"].values()]
    wordings.append(read_judge_templates().languages["en"]["prompt"])
    rows = list(world_rows(200, candidates=8, seed=2))
    answers = [candidate["response"] for row in rows for candidate in row["candidates"]]
    return wordings * 20 + answers + [row["document"] for row in rows]


def show_figures(title: str, figures: dict[str, Any]) -> None:
    cells = ([name.replace("_", " "), shown(value)] for name, value in figures.items())
    show(title, [["", "value"], *cells])


def show_prompts(prompts: dict[str, Any]) -> None:
    names = ["document_first", "sentence_first"]
    keys = list(prompts[names[0]])
    rows = [
        [name.replace("_", " "), *(shown(prompts[name][key]) for key in keys)] for name in names
    ]
    title = f"`judge`: {prompts['documents']} documents of {DOCUMENT_TOKENS} tokens"
    show(title, [["prompt", *(key.replace("_", " ") for key in keys)], *rows])
    print(f"prefill ratio {prompts['prefill_ratio']:.1f}")


def show_simulation(grid: dict[tuple[int, int, float], dict[str, float]]) -> None:
    header = ["K, sentences", *sorted({f"{correct:.0%} correct" for _, _, correct in grid})]
    lines: dict[str, list[str]] = {}
    for (k, n, _), cell in grid.items():
        text = f"{cell['saved']:.0%} of {cell['at_most']:.0%}, {cell['rounds']:.0f} rounds"
        lines.setdefault(f"{k}, {n - 2}-{n + 2}", []).append(text)
    show(
        "pruning, simulated: calls saved, of at most",
        [header, *([name, *cells] for name, cells in lines.items())],
    )


def shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.3g}" if value < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    main()
