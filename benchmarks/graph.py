"""What the graph itself costs: questions per second with engines that answer instantly, and the
driver's memory while it grows from 1,000 to 100,000 questions of 32 candidates.

    python benchmarks/graph.py [--quick] [--plot docs/graph-memory.svg]

Sampling, annotation and pairing run as in a real run (actor pools, blocks made durable, manifests)
on processors that take no time: every question gets the same 32 answers of five sentences.
A second table runs our own per-row work as well: decoding of token ids, sentence splitting,
verdicts, selection and token masks, still without a model. The last line is one JSON object.
"""

import argparse
import json
import os
import platform
import random
import shutil
import tempfile
import threading
import time
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

from byte_bpe import train_byte_bpe

from maskdpo_ray.annotation.annotate import Annotate
from maskdpo_ray.config import ModelConfig, PoolConfig, PreferenceConfig, ResourcesConfig
from maskdpo_ray.preference.processor import PairBuilder
from maskdpo_ray.records import PAIR_SCHEMA, QUESTION_SCHEMA
from maskdpo_ray.rundir import StageStore
from maskdpo_ray.sampling.sampler import Decoding, Sampler
from maskdpo_ray.storage import Folder
from maskdpo_ray.stream import StreamStage, run_stream, start_ray

CANDIDATES = 32
SENTENCES = 5
WORDS = "born river engineer harbour painted moved council early museum awarded north".split()


def answer(seed: int) -> str:
    """Five sentences of about twelve words."""
    chosen = random.Random(seed)
    sentences = [" ".join(chosen.choices(WORDS, k=12)) for _ in range(SENTENCES)]
    return " ".join(f"{sentence.capitalize()}." for sentence in sentences)


@dataclass
class InstantEngine:
    """Completes any prompt at once, with one of a few answers made beforehand."""

    model: str
    max_model_len: int = 2048
    completions: list = field(default_factory=list)

    def __post_init__(self) -> None:
        from maskdpo_ray.engine.chat import open_tokenizer

        self.tokenizer = open_tokenizer(self.model)
        ids = [self.tokenizer.encode(answer(n), add_special_tokens=False) for n in range(97)]
        end = self.tokenizer.eos_token_id
        self.completions = [SimpleNamespace(token_ids=[*i, end], finish_reason="stop") for i in ids]

    async def generate(self, prompt: list[int], params) -> list:
        first = sum(prompt) % len(self.completions)
        picked = (self.completions[(first + k) % len(self.completions)] for k in range(params.n))
        return [SimpleNamespace(index=k, **vars(done)) for k, done in enumerate(picked)]


class InstantAnnotator:
    """A verdict at once; about half of them correct, as a hash of the sentence says."""

    async def verdict(self, question: dict, sentence: str) -> tuple[str, str]:
        return ("ok" if sum(sentence.encode()) % 2 else "unverifiable"), ""


class Ready:
    """Attaches to every row what was made beforehand: the graph with nothing inside."""

    def __init__(self, build, rows: list[dict], column: str | None) -> None:
        import asyncio

        self._made = asyncio.run(build()(rows))[0]
        self._column = column

    async def __call__(self, rows: list[dict]) -> list[dict]:
        if self._column:
            return [{**row, self._column: self._made[self._column]} for row in rows]
        return [{**self._made, "id": row["id"]} for row in rows]


def sampler(model: str) -> Sampler:
    decoding = Decoding(CANDIDATES, temperature=0.8, top_k=40, top_p=1.0, max_tokens=512)
    return Sampler(InstantEngine(model), decoding, model=model, seed=0)


def annotator() -> Annotate:
    return Annotate(InstantAnnotator())


def pair_builder(model: str) -> PairBuilder:
    return PairBuilder(ModelConfig(path=model), PreferenceConfig(max_length=2048))


async def _through(builds: list, rows: list[dict]) -> list[dict]:
    for build in builds:
        rows = await build()(rows)
    return rows


def question(number: int) -> dict:
    return {
        "id": f"q{number:07}", "topic": f"topic {number % 1000}", "document": None,
        "question": f"What is known of person {number}?", "language": "en", "candidates": [],
    }  # fmt: skip


def run_once(work: Path, model: str, questions: int, ready: bool, actors: int) -> dict:
    """One pass of ``questions`` through the graph; figures of it."""
    import asyncio

    folder = Folder(work / f"{'graph' if ready else 'rows'}-{questions}")
    source = StageStore(folder / "questions", "questions", "0", {}, QUESTION_SCHEMA)
    source.begin({})
    for start in range(0, questions, 512):
        rows = [question(n) for n in range(start, min(start + 512, questions))]
        source.write([row["id"] for row in rows], rows, [], 8)
    source.finish({"in": questions, "out": questions, "rejected": {}}, 0.0)
    builds = [partial(sampler, model), annotator, partial(pair_builder, model)]
    names = ("sample", "annotate", "pair")
    if ready:
        inputs = [question(0)]
        made = []
        for build, column in zip(builds, ("candidates", "candidates", None), strict=True):
            made.append(partial(Ready, build, inputs, column))
            inputs = asyncio.run(_through([build], inputs))
        builds = made
    pool = PoolConfig(cpus=0.5, actors=actors)
    stages = [
        StreamStage(
            StageStore(
                folder / name, name, "0", {}, PAIR_SCHEMA if name == "pair" else QUESTION_SCHEMA
            ),
            build,
            pool,
        )
        for name, build in zip(names, builds, strict=True)
    ]
    with Memory() as memory:
        begun = time.perf_counter()
        run_stream(stages, source, ResourcesConfig(), {})
        seconds = time.perf_counter() - begun
    pairs = stages[-1].store.manifest()["counts"]["out"]
    stored = sum(file.stat().st_size for file in Path(folder.uri).rglob("*") if file.is_file())
    shutil.rmtree(folder.uri)
    return {
        "questions": questions,
        "pairs": pairs,
        "seconds": seconds,
        "per_second_per_core": questions / seconds / os.cpu_count(),
        "driver_peak_mib": memory.peak,
        "driver_curve_mib": memory.curve,
        "stored_mib": stored / 2**20,
    }


class Memory:
    """Resident memory of this process, the driver, once a second, in MiB."""

    def __enter__(self) -> "Memory":
        self.curve: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.curve.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
            if self._stop.wait(1.0):
                return

    @property
    def peak(self) -> float:
        return max(self.curve)


def make_policy(folder: Path) -> str:
    """A Llama of a few thousand parameters with a byte-level tokenizer: only its ids matter."""
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    bpe = train_byte_bpe([answer(n) for n in range(200)], 600, ["<|end|>"])
    template = "{% for m in messages %}{{ m['content'] + '<|end|>' }}{% endfor %}"
    PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|end|>", chat_template=template
    ).save_pretrained(folder)
    LlamaConfig(vocab_size=600, max_position_embeddings=2048).save_pretrained(folder)
    return str(folder)


def show(title: str, results: list[dict]) -> None:
    print(f"\n{title}\n")
    print("| questions | seconds | questions/s per core | driver peak MiB | stored MiB |")
    print("|---:|---:|---:|---:|---:|")
    for r in results:
        print(
            f"| {r['questions']:,} | {r['seconds']:.1f} | {r['per_second_per_core']:.1f} "
            f"| {r['driver_peak_mib']:.0f} | {r['stored_mib']:.0f} |"
        )


def plot(results: list[dict], path: str) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.2))
    for r in results:
        axes.plot(r["driver_curve_mib"], label=f"{r['questions']:,} questions")
    axes.set(xlabel="seconds", ylabel="driver memory, MiB", ylim=(0, None))
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="under five minutes on two cores")
    parser.add_argument("--plot", metavar="FILE", help="the driver's memory over time, as SVG")
    given = parser.parse_args()
    sizes = [1_000, 5_000] if given.quick else [1_000, 10_000, 100_000]
    work = Path(tempfile.mkdtemp(prefix="graph-benchmark-"))
    try:
        model = make_policy(work / "policy")
        start_ray(ResourcesConfig())
        run_once(work, model, 200, True, 1)  # the first run of a process pays for its imports
        graph = [run_once(work, model, size, True, 1) for size in sizes]
        rows = [run_once(work, model, sizes[0], False, 1)]
    finally:
        shutil.rmtree(work)
    cores = os.cpu_count()
    print(f"{cores} cores, {platform.machine()}, ray {version('ray')}, {date.today()}")
    show(f"The graph alone, {CANDIDATES} candidates a question", graph)
    show("With the work on every row (decode, split, verdicts, select, mask)", rows)
    if given.plot:
        plot(graph, given.plot)
    growth = graph[-1]["driver_peak_mib"] - graph[0]["driver_peak_mib"]
    print(
        json.dumps(
            {
                "questions_per_second_per_core": round(graph[-1]["per_second_per_core"], 2),
                "questions_per_second_per_core_with_row_work": round(
                    rows[-1]["per_second_per_core"], 2
                ),
                "driver_rss_growth_mib": round(growth, 1),
                "questions": [r["questions"] for r in graph],
                "candidates": CANDIDATES,
                "cores": cores,
            }
        )
    )


if __name__ == "__main__":
    main()
