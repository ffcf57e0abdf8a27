"""A tiny model, pairs for it, one Ray and one worker process for all training tests."""

import asyncio
import os
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from maskdpo_ray.config import ModelConfig, TrainingConfig
from maskdpo_ray.storage import Folder

VOCABULARY = 64
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def _pair(number: int, prompt: int = 5, chosen: int = 9, rejected: int = 7) -> dict:
    """A pair of random tokens (id 0 among them) with random masks; every side keeps a token."""
    random = np.random.default_rng(number)

    def side(size: int) -> dict:
        weights = random.integers(0, 2, size).astype(float)
        weights[random.integers(size)] = 1.0
        return {
            "index": 0,
            "response": "",
            "token_ids": random.integers(0, VOCABULARY, size).tolist(),
            "weights": weights.tolist(),
            "owners": [-1] * size,
            "sentences": [],
            "score": 0.5,
        }

    return {
        "id": f"pair-{number:03}",
        "question_id": f"pair-{number:03}",
        "topic": "",
        "question": "",
        "prompt_ids": random.integers(0, VOCABULARY, prompt).tolist(),
        "chosen": side(chosen),
        "rejected": side(rejected),
        "digest": f"digest-{number:03}",
        "weight": 1.0,
        "dropped": [],
    }


@pytest.fixture(scope="module")
def sweep():
    """``benchmarks/families/exactness.py`` as a module; nothing of it stays behind."""
    sys.path.insert(0, str(BENCHMARKS))
    before = set(sys.modules)
    from families import exactness

    yield exactness
    sys.path.remove(str(BENCHMARKS))
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("families", "tiny_models", "byte_bpe"):
            del sys.modules[name]


@pytest.fixture(scope="session")
def make_pair():
    """Makes a pair from a number and the lengths of its prompt and responses."""
    return _pair


@pytest.fixture(scope="session")
def pairs() -> list[dict]:
    """Seventeen pairs of many lengths: batches of four leave a last one of a single pair."""
    sizes = np.random.default_rng(1).integers(3, 30, (17, 3)).tolist()
    return [_pair(number, *size) for number, size in enumerate(sizes)]


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory) -> Path:
    """A random Llama with tied embeddings and a word tokenizer, about 30 k parameters."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("model") / "tiny-llama"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        attention_dropout=0.1,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    words = {f"w{number:02}": number for number in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w00"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="w01").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model_config(tiny_llama) -> ModelConfig:
    return ModelConfig(path=str(tiny_llama), dtype="float32")


@pytest.fixture(scope="session")
def settings() -> TrainingConfig:
    """Ten steps: two epochs of four full batches and one of a single pair."""
    return TrainingConfig(
        learning_rate=1e-2,
        epochs=2,
        batch_size=4,
        micro_batch_tokens=128,
        warmup_ratio=0.1,
        zero_stage=0,
        checkpoint_every=100,
        logprob_chunk=16,
    )


@pytest.fixture(scope="session")
def references(model_config, settings, pairs) -> list[dict]:
    from maskdpo_ray.training.logprobs import LogProbModel
    from maskdpo_ray.training.model import load_policy
    from maskdpo_ray.training.reference import reference_log_probs

    model = LogProbModel(load_policy(model_config), settings.logprob_chunk).eval()
    return reference_log_probs(model, pairs, settings.micro_batch_tokens)


@pytest.fixture(scope="session")
def low(model_config, settings, pairs) -> dict:
    """Fields of a job in bfloat16; its references come from packed passes."""
    from maskdpo_ray.training.reference import ReferenceProcessor

    model = model_config.model_copy(update={"dtype": "bfloat16"})
    references = asyncio.run(ReferenceProcessor(model, settings)(pairs))
    return {"model": model, "references": lambda: references}


class Ranks:
    """As many processes with a process group between them, for the worker loop without Ray Train.

    They stay alive from test to test, since importing the engine is most of the cost.
    """

    def __init__(self, count: int, rendezvous: Path) -> None:
        import ray

        # Defined here so that Ray ships it by value: workers cannot import a conftest.
        class Rank:
            def __init__(self, rank: int) -> None:
                from torch import distributed

                os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank)}
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
                init = f"file://{rendezvous}"
                distributed.init_process_group("gloo", init, rank=rank, world_size=count)
                self.rank = rank

            def train(self, job, resume: str | None, keep: str | None) -> dict:
                from torch import distributed

                from maskdpo_ray.training.worker import Workers, train

                def save(write, metrics):
                    folder = Path(keep) / str(metrics["step"])
                    folder.mkdir(parents=True, exist_ok=True)
                    distributed.barrier()
                    write(folder)
                    distributed.barrier()

                def checkpoints():
                    found = Path(resume).iterdir() if resume else []
                    newest_first = sorted(found, key=lambda folder: -int(folder.name))
                    return {each.name: lambda each=each: nullcontext(each) for each in newest_first}

                keeper = save if keep else lambda *_: None
                return train(job, Workers(self.rank, count, checkpoints, keeper, lambda _: None))

        self._ranks = [ray.remote(num_cpus=0.1)(Rank).remote(rank) for rank in range(count)]

    def train(self, job, resume: Path | None = None, keep: Path | None = None) -> list[dict]:
        """Train on all ranks; returns the lines of ``metrics.jsonl``.

        Args:
            resume: folder with checkpoints, each named after its step.
            keep: folder that gets such checkpoints.
        """
        import json

        import ray

        places = [str(place) if place else None for place in (resume, keep)]
        ray.get([rank.train.remote(job, *places) for rank in self._ranks], timeout=120)
        return [json.loads(line) for line in job.output.read("metrics.jsonl").splitlines()]


@pytest.fixture(scope="session")
def one_rank(ray_cluster, tmp_path_factory) -> Ranks:
    return Ranks(1, tmp_path_factory.mktemp("one") / "rendezvous")


@pytest.fixture(scope="session")
def two_ranks(ray_cluster, tmp_path_factory) -> Ranks:
    return Ranks(2, tmp_path_factory.mktemp("two") / "rendezvous")


@pytest.fixture
def kept(tmp_path) -> Path:
    """Folder for the checkpoints of a test."""
    return tmp_path / "kept"


@pytest.fixture
def make_job(model_config, settings, pairs, references, tmp_path):
    """Makes a job on the tiny model; settings and fields can be changed by name."""
    from maskdpo_ray.training.worker import TrainingJob

    def make(name: str = "run", fields: dict | None = None, **changes) -> TrainingJob:
        job = {
            "model": model_config,
            "settings": settings.model_copy(update=changes),
            "seed": 0,
            "pairs": lambda: pairs,
            "references": lambda: references,
            "output": Folder(tmp_path / name),
        }
        return TrainingJob(**{**job, **(fields or {})})

    return make


@pytest.fixture
def mlflow_runs(tmp_path, monkeypatch):
    """Status, settings and curve of every run of an MLflow of this test's own, oldest first."""
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")

    def found() -> list[tuple]:
        client = MlflowClient()
        experiment = client.get_experiment_by_name("tests").experiment_id
        runs = client.search_runs([experiment], order_by=["start_time"])
        histories = [client.get_metric_history(run.info.run_id, "loss") for run in runs]
        return [
            (run.info.status, run.data.params, [(m.step, m.value) for m in history])
            for run, history in zip(runs, histories, strict=True)
        ]

    return found
