"""The reference stage as a cache: what it is keyed by, and what kills and damage cost."""

import asyncio
import dataclasses
import io
import os
import shutil
import signal
import threading
import time
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from maskdpo_ray.config import PoolConfig, ResourcesConfig, build_config
from maskdpo_ray.errors import UserError
from maskdpo_ray.pipeline import references_of
from maskdpo_ray.preference.pairs import token_digest
from maskdpo_ray.records import PAIR_SCHEMA
from maskdpo_ray.rundir import StageStore
from maskdpo_ray.stages import Stages
from maskdpo_ray.storage import Folder
from maskdpo_ray.stream import run_stream
from maskdpo_ray.training import reference
from maskdpo_ray.training.reference import ReferenceProcessor, reference_log_probs

BLOCK = 2
DATA = {"train": "questions", "test": "test"}
SERVED = {"base_url": "http://host/v1", "model": "m", "constrain": "none"}


@pytest.fixture
def stages(tiny_llama, tmp_path):
    """Stages of a run on the tiny model; the run directory and sections can be changed."""
    (tmp_path / "questions.jsonl").write_text('{"id": "a", "topic": "t", "question": "q"}\n')

    def make(run_dir: str = "run", model: Path = tiny_llama, dtype="float32", **sections) -> Stages:
        training = {"logprob_chunk": 16, **sections.pop("training", {})}
        tree = {
            "run_dir": str(tmp_path / run_dir),
            "model": {"path": str(model), "dtype": dtype},
            "data": {"train": str(tmp_path / "questions.jsonl")},
            "annotation": {"annotator": "judge", "model": "m/n"},
            "training": training,
        }
        return Stages(build_config({**tree, **sections}), rerun=True)

    return make


def changed(model: Path, folder: Path, file: str) -> Path:
    """A copy of the model, one byte of one file of it another."""
    copy = Path(shutil.copytree(model, folder))
    content = bytearray((copy / file).read_bytes())
    content[-2] ^= 1
    (copy / file).write_bytes(content)
    return copy


def test_another_policy_or_arithmetic_is_another_cache(stages, tiny_llama, tmp_path):
    keys = [
        stages().reference().store.key,
        stages(dtype="bfloat16").reference().store.key,
        stages(training={"attention": "eager"}).reference().store.key,
        stages(training={"use_liger_kernel": True}).reference().store.key,
        stages(training={"load_in_4bit": True, "lora": {}}).reference().store.key,
        *(
            stages(model=changed(tiny_llama, tmp_path / file, file)).reference().store.key
            for file in ("model.safetensors", "tokenizer.json", "config.json")
        ),
    ]
    assert len(set(keys)) == len(keys)


def test_a_policy_trained_anew_with_the_same_settings_is_another_one(stages, tmp_path):
    """On other hardware, or on another number of workers, it ends some bits apart."""
    (tmp_path / "test.jsonl").write_text('{"id": "b", "topic": "u", "question": "r"}\n')
    data = {split: str(tmp_path / f"{name}.jsonl") for split, name in DATA.items()}
    made = stages(rounds=2, data=data, annotation={"annotator": "judge", "endpoint": SERVED})

    def keys(weights: str) -> list[str]:
        made.train("mask_dpo").finish({"steps": 1}, 0.0, weights=weights)
        start = made.start("mask_dpo", 2)
        stages_of = (made.sample(start), made.reference(start), made.answer(start))
        return [stage.store.key for stage in stages_of]

    first, second = keys("a"), keys("b")
    assert all(a != b for a, b in zip(first, second, strict=True))
    assert keys("a") == first


def test_rounds_may_keep_the_first_policy_as_their_reference(stages):
    asked = {"annotator": "judge", "endpoint": SERVED}
    kept, moving = (
        stages(rounds=2, rounds_reference=of, annotation=asked) for of in ("first", "previous")
    )
    start = kept.start("mask_dpo", 2)
    assert start == moving.start("mask_dpo", 2) != kept.base
    stages_of = [(made.reference(start), made.train("mask_dpo", 2)) for made in (kept, moving)]
    of_kept, of_moving = ([each.store, trained] for each, trained in stages_of)
    assert of_kept[0].settings["policy"] == kept.base.identity
    assert of_moving[0].settings["policy"] == start.identity
    assert all(a.key != b.key for a, b in zip(of_kept, of_moving, strict=True))
    # The first round, and what is sampled for the second, is the same either way.
    assert kept.reference().store.key == moving.reference().store.key
    assert kept.train("mask_dpo").key == moving.train("mask_dpo").key
    assert kept.pair(start).store.key == moving.pair(start).store.key
    assert kept.training_job("mask_dpo", 2).model == moving.training_job("mask_dpo", 2).model


def test_sampled_answers_are_scored_by_who_needs_no_engine(stages, tiny_llama):
    """In a training worker an engine would take what training has."""
    served = {"annotator": "judge", "endpoint": SERVED}
    engine = {"annotator": "judge", "model": str(tiny_llama)}
    training = {"sample_every": 2}
    asked, not_asked = (stages(annotation=each, training=training) for each in (served, engine))
    assert asked.training_job("mask_dpo").examiner is not None
    assert not_asked.training_job("mask_dpo").examiner is None
    labels = {"annotation": {"annotator": "labels"}, "sampling": {"source": "input"}}
    assert stages(**labels, training=training).training_job("mask_dpo").examiner is None
    assert asked.training_job("mask_dpo").questions is not None
    assert asked.train("mask_dpo").key == stages(annotation=served).train("mask_dpo").key


def test_another_mask_loss_or_sharding_is_the_same_cache(stages, tiny_llama, tmp_path):
    moved = shutil.copytree(tiny_llama, tmp_path / "moved")
    keys = {
        stages().reference().store.key,
        stages(model=moved).reference().store.key,
        stages(training={"mask": "none", "loss": "ipo", "beta": 0.3}).reference().store.key,
        stages(training={"zero_stage": 3, "batch_size": 8, "epochs": 1}).reference().store.key,
        stages(preference={"eos": "mask"}).reference().store.key,
    }
    assert len(keys) == 1


def test_a_pair_with_any_other_token_has_another_name():
    names = {
        token_digest([1, 2], [3, 4], [5]),
        token_digest([1, 2], [3, 4], [6]),
        token_digest([1, 2], [3, 7], [5]),
        token_digest([1, 2, 3], [4], [5]),
        token_digest([1], [2, 3, 4], [5]),
        token_digest([1, 2], [5], [3, 4]),
    }
    assert len(names) == 6


def test_a_cache_that_is_complete_for_other_pairs_is_not_finished_for_these(
    stages, pairs, references
):
    made = stages(annotation={"annotator": "labels"}, sampling={"source": "input"})
    known, pair, reference = 4, made.pair().store, made.reference().store
    for store, rows in ((pair, pairs), (reference, references[:known])):
        store.begin({})
        store.write([row["id"] for row in rows], rows, [], BLOCK)
        store.finish({"in": len(rows), "out": len(rows), "rejected": {}}, 0.0)
    with pytest.raises(UserError, match="reference is not finished.* run `maskdpo reference`"):
        references_of(made, made.base)
    rest = references[known:]
    reference.write([row["id"] for row in rest], rest, [], BLOCK)
    assert references_of(made, made.base).key == reference.key


def test_what_is_not_finite_is_no_reference(pairs, model_config, settings, monkeypatch):
    def computed(model, rows, micro_batch_tokens):
        found = reference_log_probs(model, rows, micro_batch_tokens)
        found[1]["rejected"][-1] = float("nan")
        return found

    monkeypatch.setattr(reference, "reference_log_probs", computed)
    processor = ReferenceProcessor(model_config, settings)
    good, bad = asyncio.run(processor(pairs[:2]))
    assert good["id"] == pairs[0]["digest"]
    assert bad.reason == "reference_not_finite"
    assert f"pair {pairs[1]['id']!r}: the policy gives tokens of rejected" in str(bad)


@pytest.fixture
def cache(stages, pairs, model_config, tmp_path):
    """The reference stage over the pairs, how it is run, and what it noted."""
    made = stages(resources={"questions_per_block": BLOCK}).reference()
    source = StageStore(Folder(tmp_path / "pairs"), "pair", "pair", {}, PAIR_SCHEMA)
    for start in range(0, len(pairs), BLOCK):
        rows = pairs[start : start + BLOCK]
        source.write([row["id"] for row in rows], rows, [], BLOCK)
    log = tmp_path / "taken.log"

    # Defined here so that Ray ships it by value: actors cannot import this module.
    class Noted(ReferenceProcessor):
        """Notes which process took up which pairs, and leaves time to be killed over them; the
        first process waits for the second, which may start late."""

        def _compute(self, rows):
            with open(log, "a", encoding="utf-8") as file:
                file.write("".join(f"{row['digest']} {os.getpid()}\n" for row in rows))
            while len({line.split()[1] for line in log.read_text().splitlines()}) < 2:
                time.sleep(0.1)
            time.sleep(0.5)
            return ReferenceProcessor._compute(self, rows)

    build = partial(Noted, *made.build.args)
    pool = PoolConfig(actors=2, cpus=0.5, blocks_in_flight=2)
    stage = dataclasses.replace(made, build=build, pool=pool)

    def run() -> dict[str, dict]:
        run_stream([stage], source, ResourcesConfig(questions_per_block=BLOCK), {})
        return {row["id"]: row for row in stage.store.rows()}

    def taken() -> list[list[str]]:
        """(pair, process), oldest first."""
        return [line.split() for line in log.read_text().splitlines()] if log.exists() else []

    return stage.store, run, taken


def another_bit_in_rejected(content: bytes) -> bytes:
    """One bit within the values of the last column: the names of the rows can still be read."""
    column = pq.ParquetFile(io.BytesIO(content)).metadata.row_group(0).column(2)
    assert column.path_in_schema.startswith("rejected")
    harmed = bytearray(content)
    harmed[column.data_page_offset + column.total_compressed_size - 2] ^= 1
    return bytes(harmed)


def equal_to(references: list[dict], rows: dict[str, dict]) -> None:
    assert len(rows) == len(references)
    for expected in references:
        for side in ("chosen", "rejected"):
            assert rows[expected["id"]][side] == pytest.approx(expected[side], abs=1e-5)


def test_a_killed_actor_and_then_a_damaged_file(ray_cluster, cache, references, capfd):
    store, run, taken = cache

    def kill() -> None:
        deadline = time.monotonic() + 240
        while not (store.parts() and len({process for _, process in taken()}) == 2):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        before = len(taken())
        while len(taken()) == before:  # what was taken up before may be durable already
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(int(taken()[-1][1]), signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    rows = run()
    killer.join()
    equal_to(references, rows)
    assert len({process for _, process in taken()}) == 3
    again = len(taken()) - len(references)
    assert 0 < again <= 2 * BLOCK * 2, "the pairs that the killed actor had in hand"

    # A file that is cut short, and one of a finished cache with another bit in the last column:
    # their rows are computed again, the others are not.
    for harm in (lambda content: content[:-40], another_bit_in_rejected):
        assert store.complete
        part = Path(store.folder.path(store.parts()[0]))
        part.write_bytes(harm(part.read_bytes()))
        before = len(taken())
        capfd.readouterr()
        equal_to(references, run())
        assert f"{part} is damaged" in capfd.readouterr().err
        assert 0 < len(taken()) - before <= BLOCK
