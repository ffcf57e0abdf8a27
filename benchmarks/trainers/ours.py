"""This project's training loop in a process of its own, without Ray: see ``training.py``."""

import asyncio
import os
import tempfile
from pathlib import Path

from task import Meter, quiet, read_task

quiet()

import deepspeed  # noqa: E402, F401  (imports are not training's memory)
from torch import distributed  # noqa: E402

from maskdpo_ray.config import ModelConfig, TrainingConfig  # noqa: E402
from maskdpo_ray.records import NO_SENTENCE  # noqa: E402
from maskdpo_ray.storage import Folder  # noqa: E402
from maskdpo_ray.training import worker  # noqa: E402
from maskdpo_ray.training.reference import ReferenceProcessor  # noqa: E402


def pair_of(number: int, row: dict) -> dict:
    def side(name: str) -> dict:
        kept = {"token_ids": row[name], "weights": row[f"{name}_weights"]}
        kept["owners"] = [NO_SENTENCE] * len(row[name])
        return {"index": 0, "response": "", "sentences": [], "score": 0.5, **kept}

    return {
        "id": f"{number:06}",
        "topic": "",
        "question": "",
        "prompt_ids": row["prompt"],
        "chosen": side("chosen"),
        "rejected": side("rejected"),
        "digest": f"{number:06}",
        "weight": 1.0,
    }


def main() -> None:
    task = read_task()
    rows = [pair_of(number, row) for number, row in enumerate(task["rows"])]
    model = ModelConfig(path=task["model"], dtype=task["dtype"])
    settings = TrainingConfig(
        batch_size=task["batch_size"],
        max_steps=task["steps"],
        epochs=1000,
        learning_rate=task["learning_rate"],
        warmup_ratio=0.0,
        min_lr_ratio=1.0,
        checkpoint_every=10**6,
        **task["options"],
    )
    meter = Meter(task["model"])
    references = asyncio.run(ReferenceProcessor(model, settings)(rows))

    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    losses: list[float] = []

    def asked_for_checkpoints() -> dict:
        """Between loading the policy and making the engine, which falls into the first step."""
        meter.begin()
        return {}

    def stepped(line: dict) -> None:
        meter.step()
        losses.append(line["loss"])

    with tempfile.TemporaryDirectory() as scratch:
        backend = "nccl" if task["device"] == "cuda" else "gloo"
        init = f"file://{scratch}/rendezvous"
        distributed.init_process_group(backend, init, rank=0, world_size=1)
        job = worker.TrainingJob(
            model, settings, 0, lambda: rows, lambda: references, Folder(Path(scratch) / "out")
        )
        alone = worker.Workers(
            rank=0,
            count=1,
            checkpoints=asked_for_checkpoints,
            save=lambda *_: None,
            progress=stepped,
        )
        worker.train(job, alone)
        distributed.destroy_process_group()  # a process with NCCL may else never come to its end
    meter.report(losses=losses)


if __name__ == "__main__":
    main()
