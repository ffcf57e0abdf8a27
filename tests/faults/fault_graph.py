"""The graph that is disturbed: candidates from a real engine, verdicts by digest, real pairs.

Every stage logs which rows it takes up and in which process, so that repeated work can be counted
and the right process killed. As a script it is a driver of its own, for clusters that the tests
make or that it starts itself: ``python fault_graph.py FOLDER MODEL POOLS [URL]``.
"""

import gc
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from hashlib import blake2b
from pathlib import Path

from maskdpo_ray.annotation.annotate import Annotate
from maskdpo_ray.config import (
    DataConfig,
    ModelConfig,
    PoolConfig,
    PreferenceConfig,
    ResourcesConfig,
)
from maskdpo_ray.preference.processor import PairBuilder
from maskdpo_ray.questions import import_questions
from maskdpo_ray.records import PAIR_SCHEMA, QUESTION_SCHEMA
from maskdpo_ray.rundir import StageStore
from maskdpo_ray.sampling.factory import build_sampler
from maskdpo_ray.sampling.sampler import Decoding
from maskdpo_ray.storage import Folder
from maskdpo_ray.stream import DEATH, StreamStage, run_stream

QUESTIONS = 40
BLOCK = 2
IN_FLIGHT = 3  # blocks of one actor
RESOURCES = ResourcesConfig(questions_per_block=BLOCK, local_cpus=16, autoscale=True)
NAMES = ("questions", "sample", "annotate", "pair")


class Taken:
    """A processor, and a log of the rows it takes up: one line ``id process`` each."""

    def __init__(self, build: Callable, log: str) -> None:
        self.inner, self.log = build(), log

    async def __call__(self, rows):
        with open(self.log, "a", encoding="utf-8") as log:
            log.write("".join(f"{row['id']} {os.getpid()}\n" for row in rows))
        return await self.inner(rows)


class LosesItsWeights(Taken):
    """Once in a graph, cuts the embedding table of its engine's model behind the engine's back."""

    async def __call__(self, rows):
        mark = Path(self.log).with_name("weights.lost")
        if any(row["id"] == "q13" for row in rows) and not mark.exists():
            mark.touch()
            gc.unfreeze()  # vLLM hides what it loaded from the collector
            model = next(o for o in gc.get_objects() if type(o).__name__ == "LlamaForCausalLM")
            table = model.model.embed_tokens.weight
            table.data = table.data[:1]
        return await super().__call__(rows)


class DigestAnnotator:
    """True or false by a digest of the sentence: the same everywhere, and different enough."""

    async def verdict(self, question, sentence):
        odd = blake2b(sentence.encode(), digest_size=1).digest()[0] & 1
        return ("contradictory" if odd else "ok"), ""


def build_annotate() -> Annotate:
    return Annotate(DigestAnnotator())


class Graph:
    """Questions to pairs in ``folder``, stages at ``url`` if it is given.

    ``pools`` by stage name replace one small actor, ``engine_args`` what the engine is given.
    """

    def __init__(
        self,
        folder: Path,
        model: str,
        pools: dict | None = None,
        sampler=Taken,
        url: str | None = None,
        **engine_args: object,
    ) -> None:
        self.folder, self.model = Path(folder), model
        place = Folder(url or self.folder)
        schemas = (QUESTION_SCHEMA, QUESTION_SCHEMA, QUESTION_SCHEMA, PAIR_SCHEMA)
        self.stores = {
            name: StageStore(place / name, name, name, {}, schema)
            for name, schema in zip(NAMES, schemas, strict=True)
        }
        policy = ModelConfig(path=model, dtype="float32")
        decoding = Decoding(candidates=4, temperature=0.8, top_k=40, top_p=1, max_tokens=192)
        engine = {"kv_cache_memory_bytes": 2**26, "max_model_len": 256, "max_num_seqs": 64}
        engine |= engine_args
        preference = PreferenceConfig(max_length=256)
        builds = {
            "sample": (sampler, partial(build_sampler, policy, decoding, 0, engine)),
            "annotate": (Taken, build_annotate),
            "pair": (Taken, partial(PairBuilder, policy, preference)),
        }
        small = PoolConfig(cpus=0.5, blocks_in_flight=IN_FLIGHT)
        self.stages = [
            StreamStage(
                self.stores[name],
                partial(wrapper, build, self._log(name)),
                (pools or {}).get(name, small),
            )
            for name, (wrapper, build) in builds.items()
        ]

    def run(self) -> None:
        lines = [
            json.dumps({"id": f"q{n}", "topic": f"t{n}", "question": f"Where was {n} born?"})
            for n in range(QUESTIONS)
        ]
        file = self.folder / "q.jsonl"
        file.write_text("\n".join(lines), encoding="utf-8")
        import_questions(str(file), DataConfig(), self.stores["questions"], BLOCK, {})
        run_stream(self.stages, self.stores["questions"], RESOURCES, {})

    def _log(self, stage: str) -> str:
        return str(self.folder / f"{stage}.log")

    def taken(self, stage: str) -> list[tuple[str, int]]:
        """(id, process) of everything that the stage took up, oldest first."""
        log = Path(self._log(stage))
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        return [(i, int(pid)) for i, pid in map(str.split, lines)]

    def last_words(self, stage: str) -> str:
        return self.stores[stage].folder.read(DEATH).decode()

    def durable(self, stage: str) -> set[str]:
        done, rejected = self.stores[stage].finished()
        return done | rejected

    def rows(self) -> dict[str, list[str]]:
        """What each stage came to: rows and rejections, without their order."""
        return {
            name: sorted(
                json.dumps(row, sort_keys=True) for row in [*store.rows(), *store.rejected_rows()]
            )
            for name, store in self.stores.items()
        }


if __name__ == "__main__":
    from fault_graph import Graph as Importable  # actors know classes by this name

    folder, model, pools, *url = sys.argv[1:]
    pools = {name: PoolConfig(**pool) for name, pool in json.loads(pools).items()}
    Importable(Path(folder), model, pools, url=url[0] if url else None).run()
