"""Ray Train around the worker loop: a killed worker, a second session, trouble to mend."""

import asyncio
import errno
import json
import os
import signal
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from zlib import crc32

import psutil
import pytest
import torch
from event_files import events
from ray.train import WorkerGroupError

from maskdpo_ray.config import ModelConfig, TrackingConfig, WorkersConfig
from maskdpo_ray.digests import fingerprint
from maskdpo_ray.errors import UserError
from maskdpo_ray.storage import Folder
from maskdpo_ray.training.checkpoint import damage, read_position
from maskdpo_ray.training.reference import ReferenceProcessor
from maskdpo_ray.training.stage import (
    RAYS_LIST,
    USELESS,
    _checkpoints,
    _discard,
    _found,
    _leave_out,
    _shortage_told,
    run_training,
)
from maskdpo_ray.training.worker import Workers, _newest_sound


def read_lines(job) -> list[dict]:
    return [json.loads(line) for line in job.output.read("metrics.jsonl").splitlines()]


def wait_for(condition, seconds: float, every: float = 0.02) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the awaited event did not come"
        time.sleep(every)


@pytest.fixture
def kill_a_worker(tmp_path):
    """Kills one training worker, for real, once three steps are written down."""
    pids = tmp_path / "pids"
    pids.mkdir()
    killed: list[int] = []

    def watch(job) -> threading.Thread:
        def run() -> None:
            wait_for(lambda: job.output.exists("metrics.jsonl") and len(read_lines(job)) >= 3, 240)
            killed.append(int(min(pids.iterdir()).name))
            os.kill(killed[0], signal.SIGKILL)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    return pids, watch, killed


def actors_so_far() -> set[str]:
    """Names of the classes of all actors that this Ray ever had."""
    from ray._private.state import actors

    return {actor["ActorClassName"] for actor in actors().values()}


def test_kill_then_damage_then_finish(
    ray_cluster, one_rank, make_job, model_config, pairs, kill_a_worker, capfd
):
    undisturbed = one_rank.train(make_job("undisturbed"))
    folder, watch, killed = kill_a_worker

    def pairs_of_a_worker():
        Path(folder, str(os.getpid())).touch()
        return pairs

    # As a person names a folder: from the directory where the command was started.
    relative = model_config.model_copy(update={"path": os.path.relpath(model_config.path)})
    fields = {"pairs": pairs_of_a_worker, "tracking": TrackingConfig(), "model": relative}
    job = make_job("killed", fields=fields, zero_stage=2, checkpoint_every=2)
    thread = watch(job)
    final = run_training(job, WorkersConfig(workers=2, max_failures=1), log_every=0.2)
    thread.join()
    assert len(list(folder.iterdir())) == 4, "two workers before the kill and two after it"
    assert "PreemptionWatcher" in actors_so_far()
    assert not {"DatasetManager", "PlacementGroupCleaner"} & actors_so_far()

    lines = read_lines(job)
    expected = pytest.approx([line["loss"] for line in undisturbed], rel=1e-5)
    assert [line["step"] for line in lines] == list(range(1, 11))
    assert [line["loss"] for line in lines] == expected
    assert len(final.pop("weights")) == 64 and final == lines[-1]
    assert "train 10/10  loss" in capfd.readouterr().err

    # A second session: the newest checkpoint is damaged, the one before it is used. Ray Train's
    # own list was being written when the last session ended.
    checkpoints = sorted(Path(job.output.uri, "checkpoints").glob("checkpoint_*/"))
    assert len(checkpoints) == job.settings.keep_checkpoints
    (checkpoints[-1] / "state-00001.safetensors").write_bytes(b"cut")
    list_of_ray = checkpoints[-1].parent / "checkpoint_manager_snapshot.json"
    list_of_ray.write_bytes(list_of_ray.read_bytes()[:-50])
    before = read_lines(job)
    run_training(job, WorkersConfig(workers=2))
    said = capfd.readouterr().err
    assert f"{list_of_ray} does not fit the checkpoints there" in said
    assert (
        f"checkpoint {checkpoints[-1].name} passed over: state-00001.safetensors has 3 of" in said
    )
    after = read_lines(job)
    assert [line["loss"] for line in after] == expected
    kept = [a["seconds"] == b["seconds"] for a, b in zip(after, before, strict=True)]
    assert kept == [True] * 8 + [False] * 2, "steps 9 and 10 are done again, no others"
    curve = [(line["step"], pytest.approx(line["loss"])) for line in after]
    assert events(job.output / "tensorboard") == curve


@pytest.fixture(scope="module")
def bulky(tmp_path_factory, pairs, settings):
    """A model whose checkpoint takes a moment to write, 77 MB, and its reference."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("model") / "bulky"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=200_000,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"w": 0}, unk_token="w"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)
    model = ModelConfig(path=str(folder), dtype="bfloat16")
    references = asyncio.run(ReferenceProcessor(model, settings)(pairs))
    return {"model": model, "references": lambda: references}


def test_a_kill_in_the_middle_of_a_checkpoint(
    ray_cluster, one_rank, make_job, pairs, bulky, tmp_path, capfd
):
    """The worker dies while its part is being written; the checkpoint before it is used."""
    options = {"zero_stage": 0, "checkpoint_every": 1, "max_steps": 6}
    undisturbed = one_rank.train(make_job("undisturbed", fields=bulky, **options))
    pids = tmp_path / "pids"
    pids.mkdir()

    def pairs_of_a_worker():
        Path(pids, str(os.getpid())).touch()
        return pairs

    job = make_job("killed", fields={**bulky, "pairs": pairs_of_a_worker}, **options)
    scratch = f"maskdpo-checkpoint-{fingerprint(job.output.uri)}-*"
    seen: dict = {}

    def half_written() -> Path | None:
        states = sorted(Path(job.output.uri, "checkpoints").glob("checkpoint_0*/state-*"))
        sizes = [state.stat().st_size for state in states]
        return states[-1].parent if len(states) > 1 and sizes[-1] < sizes[0] else None

    def kill() -> None:
        wait_for(lambda: seen.update(folder=half_written()) or seen["folder"], 240, every=0.001)
        (pid,) = (int(file.name) for file in pids.iterdir())
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not psutil.pid_exists(pid), 60)
        seen["damage"] = damage(seen["folder"])
        seen["before"] = read_lines(job)
        seen["scratch"] = list(Path(tempfile.gettempdir()).glob(scratch))
        wait_for(lambda: not seen["folder"].exists(), 120)
        seen["step"] = len(read_lines(job))

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    run_training(job, WorkersConfig(max_failures=1), log_every=0.2)
    killer.join()
    assert seen["damage"] and seen["scratch"], seen
    assert seen["step"] < 6, "the half is removed when training goes on, not when it has ended"
    said = capfd.readouterr().err
    assert f"checkpoint {seen['folder'].name} passed over: {seen['damage']}" in said
    lines = read_lines(job)
    assert [line["loss"] for line in lines] == pytest.approx(
        [line["loss"] for line in undisturbed], rel=1e-5
    )
    half = int(seen["folder"].name.split("_")[1])
    both = zip(lines, seen["before"], strict=False)
    repeated = [now["step"] for now, then in both if now["seconds"] != then["seconds"]]
    assert repeated in ([], [half]), "all steps before the half are those of the one before it"
    left = sorted(Path(job.output.uri, "checkpoints").glob("checkpoint_*/"))
    assert len(left) == job.settings.keep_checkpoints and seen["folder"] not in left
    assert not any(map(damage, left))
    assert not list(Path(tempfile.gettempdir()).glob(scratch))


def test_any_number_of_checkpoints_is_looked_through(tmp_path):
    names = [f"checkpoint_{step:08}_0" for step in range(1, 61)]
    for name in names:
        (tmp_path / name).mkdir()
    found = _checkpoints(Folder(tmp_path), rank=0, workers=1)
    assert list(found) == names[::-1]
    with found[names[2]]() as folder:
        assert folder == tmp_path / names[2]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nSee"),
            "CUDA out of memory. Tried to allocate 2 GiB.: lower training.micro_batch_tokens",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device: free some"),
    ],
)
def test_what_workers_had_too_little_of_is_told_in_one_line(error, words):
    with pytest.raises(UserError) as raised, _shortage_told():
        raise WorkerGroupError("a long traceback", {0: RuntimeError("lost"), 1: error})
    assert words in str(raised.value) and "\n" not in str(raised.value)
    with pytest.raises(WorkerGroupError), _shortage_told():
        raise WorkerGroupError("a long traceback", {0: RuntimeError("a bug")})


def test_helpers_that_serve_no_training_are_left_out():
    """By the names of Ray's classes: under others they would come back unseen."""
    from ray.train.torch import TorchTrainer

    trainer = TorchTrainer(print)

    def names() -> set[str]:
        return {type(each).__name__ for each in trainer._create_default_callbacks()}

    before = names()
    assert before > USELESS
    _leave_out(trainer, USELESS)
    assert names() == before - USELESS


@pytest.fixture(params=["local", "s3"])
def stored(request, tmp_path) -> Folder:
    """Checkpoints of two steps that are whole, and behind them two halves."""
    local = request.param == "local"
    folder = Folder(tmp_path / "checkpoints" if local else request.getfixturevalue("bucket"))
    for step in (1, 2, 3, 4):
        write_checkpoint(folder, step, whole=step < 3)
    return folder


def write_checkpoint(folder: Folder, step: int, whole: bool = True, form: int = 1) -> None:
    """One of a model without weights."""
    position = json.dumps({"format": form, "step": step, "identity": "own", "history": []})
    sealed = {"position.json": {"bytes": len(position), "crc32": crc32(position.encode())}}
    checkpoint = folder / f"checkpoint_{step:08}_0"
    checkpoint.write("position.json", position.encode())
    if whole:
        checkpoint.write_json("seal-00000.json", {"workers": 1, "files": sealed})


def resumed_from(folder: Folder, identity: str = "own") -> str | None:
    workers = Workers(
        rank=0,
        count=1,
        checkpoints=partial(_checkpoints, folder, 0, 1),
        save=None,
        progress=None,
        discard=partial(_discard, folder),
    )
    with _newest_sound(workers, identity) as resumed:
        return resumed and read_position(resumed).step


def test_halves_are_named_and_removed_when_training_starts(stored, caplog):
    """A run that is killed again and again does not fill its storage with them."""
    assert resumed_from(stored) == 2
    assert _found(stored) == ["checkpoint_00000001_0", "checkpoint_00000002_0"]
    assert [record.getMessage() for record in caplog.records] == [
        f"checkpoint checkpoint_0000000{step}_0 passed over: the part of worker 0 is missing"
        for step in (4, 3)
    ]
    assert resumed_from(stored) == 2


def test_halves_alone_are_removed_too(stored):
    for step in (1, 2):
        (stored / f"checkpoint_{step:08}_0").remove("seal-00000.json")
    assert resumed_from(stored) is None
    assert _found(stored) == []


def test_a_checkpoint_of_another_version_is_told_and_kept(stored):
    write_checkpoint(stored, 5, form=0)
    with pytest.raises(UserError, match="checkpoint_00000005_0 was written by another version of"):
        resumed_from(stored)
    assert len(_found(stored)) == 5


def test_what_another_keeps_count_of_is_not_removed(tmp_path, stored):
    """Ray Train deletes what it lists; nothing is known of a folder of another run."""
    before = _found(stored)
    with pytest.raises(UserError, match="belongs to other pairs or settings"):
        resumed_from(stored, "another")
    assert _found(stored) == before
    listed = [{"checkpoint_dir_name": name} for name in before[1::2]]
    stored.write_json(RAYS_LIST, {"checkpoint_results": listed})
    assert resumed_from(stored) == 2
    assert _found(stored) == [*before[:2], before[3]]
    stored.write(RAYS_LIST, b"half a li")
    assert resumed_from(stored) == 2
    assert before[3] in _found(stored)


def test_trouble_to_mend_comes_back_in_one_line_without_retries(ray_cluster, make_job):
    nowhere = ModelConfig(path="/nowhere/model", dtype="float32")
    with pytest.raises(UserError, match="'/nowhere/model' does not exist") as raised:
        run_training(make_job(fields={"model": nowhere}), WorkersConfig(max_failures=3))
    assert "\n" not in str(raised.value)
