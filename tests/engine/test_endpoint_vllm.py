"""Endpoints for real: vLLM's server of the tiny Llama on loopback, killed and started again."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import models
import pytest
import ray
from fault_proxy import FaultProxy

from maskdpo_ray.annotation.annotators.judge import read_judge_templates
from maskdpo_ray.config import AnnotationConfig, EndpointConfig, ModelConfig, build_config
from maskdpo_ray.engine.chat_model import ChatModel
from maskdpo_ray.engine.endpoint_chat import open_chat
from maskdpo_ray.engine.endpoint_tokens import open_tokens
from maskdpo_ray.engine.refusal import RequestRefused
from maskdpo_ray.errors import UserError
from maskdpo_ray.pipeline import stream
from maskdpo_ray.sampling.factory import build_endpoint_sampler
from maskdpo_ray.sampling.sampler import Decoding, Sampler
from maskdpo_ray.stages import Stages
from maskdpo_ray.stages.annotating import build_annotator

KEY = "sk-a-secret-that-must-not-leak"
DECODING = Decoding(candidates=4, temperature=0.8, top_k=40, top_p=1.0, max_tokens=16)
START_SECONDS = 240
QUESTIONS = 24


class Server:
    """``vllm serve`` in processes of its own."""

    def __init__(self, log) -> None:
        self.log = log
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.start()

    def start(self) -> None:
        own = {
            "VLLM_API_KEY": KEY,
            "VLLM_NO_USAGE_STATS": "1",
            "OMP_NUM_THREADS": "1",
            # Two processes instead of three: the engine's own runs the model.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        }
        kept = {k: v for k, v in os.environ.items() if k != "VLLM_LOGGING_CONFIG_PATH"}
        flags = {
            "model": models.tiny_llama(),
            "served-model-name": "tiny",
            "host": "127.0.0.1",
            "port": self.port,
            "dtype": "float32",
            "kv-cache-memory-bytes": 2**26,
            "max-num-seqs": 32,
            "distributed-executor-backend": "uni",
            "structured-outputs-config": '{"backend": "xgrammar", "disable_any_whitespace": true}',
        }
        # The module behind the command `vllm serve`, which insists on the name of the GPU package.
        command = [sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry"]
        command += [text for name, value in flags.items() for text in (f"--{name}", str(value))]
        self.process = subprocess.Popen(
            [*command, "--enforce-eager", "--no-enable-chunked-prefill"],
            env=kept | own,
            stdout=open(self.log, "ab"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._healthy():
            assert self.process.poll() is None, self.log.read_text()[-4000:]
            assert time.monotonic() < deadline, self.log.read_text()[-4000:]
            time.sleep(0.5)

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def starting(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("vllm") / "server.log")
    yield server
    server.kill()


@pytest.fixture(scope="module")
def server(starting, engine):  # the engine to compare with starts beside it
    starting.wait()
    return starting


@pytest.fixture
def settings(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return EndpointConfig(base_url=server.url, model="tiny")


def question(number: int, text: str = "Where was she born?", **changes) -> dict:
    return {
        "id": f"q{number}",
        "topic": "Ada",
        "question": f"{text} {number}",
        "document": "She was born in 1901.",
        "language": "zh",
        "candidates": [],
        **changes,
    }


def test_the_server_samples_the_tokens_that_the_engine_samples(engine, settings):
    rows = [question(n) for n in range(6)]
    rows.append(question(6, "Where was she born? " * 81))  # leaves less than max_tokens
    rows.append(question(7, "Where was she born? " * 100))  # leaves nothing
    model = ModelConfig(path=models.tiny_llama(), dtype="float32", system_prompt="Be brief.")
    here = Sampler(engine, DECODING, model="tiny", seed=3, system_prompt=model.system_prompt)
    there = build_endpoint_sampler(model, DECODING, 3, settings)
    expected = asyncio.run(here(rows))
    found = asyncio.run(there(rows))
    assert found[:-1] == expected[:-1]
    assert found[-1].reason == expected[-1].reason == "prompt_too_long"
    lengths = [len(c["token_ids"]) for c in found[6]["candidates"]]
    assert max(lengths) < DECODING.max_tokens


@pytest.mark.parametrize("constrain", ["vllm", "json_schema"])
def test_a_judge_behind_the_server_always_answers_a_verdict(settings, constrain):
    given = {**settings.model_dump(), "constrain": constrain}
    annotate = build_annotator(
        AnnotationConfig.of(annotator="judge", endpoint=given, max_tokens=40)
    )
    text = "她生于1901年。她是面包师。她住在哪里？"
    row = question(0, candidates=[{"response": text, "token_ids": [1], "sentences": []}])
    [out] = asyncio.run(annotate([row]))
    words = set(read_judge_templates().languages["zh"]["verdicts"].values())
    [candidate] = out["candidates"]
    assert len(candidate["sentences"]) == 3
    for sentence in candidate["sentences"]:
        assert sentence["verdict"] in ("ok", "contradictory", "unverifiable", "nofact")
        [reply] = json.loads(sentence["detail"])["replies"]
        assert reply in words


def test_replies_are_those_of_the_engine(engine, settings):
    chat = [{"role": "user", "content": "Where was she born?"}]
    chat += [{"role": "assistant", "content": "No."}, {"role": "user", "content": "Where?"}]
    there = open_chat(settings, 24, probabilities=True)
    here = ChatModel(engine, 24, probabilities=True)
    expected = asyncio.run(here.reply(chat))
    reply = asyncio.run(there.reply(chat))
    # The server keeps back the bytes of a character that the token limit cut.
    assert reply.text == expected.text.rstrip("\ufffd") and reply.text
    assert reply.complete == expected.complete
    assert reply.probability == pytest.approx(expected.probability, rel=1e-3)


def test_a_conversation_over_the_context_is_refused_with_the_servers_reason(settings):
    chat = open_chat(settings, 24)
    with pytest.raises(RequestRefused, match="HTTP 400: .*512"):
        asyncio.run(chat.reply([{"role": "user", "content": "Where was she born? " * 100}]))


def test_a_wrong_key_or_model_ends_the_start(settings, monkeypatch):
    with pytest.raises(UserError, match="HTTP 404: .*tinny"):
        open_chat(settings.model_copy(update={"model": "tinny"}), 8)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-another")
    with pytest.raises(UserError, match="HTTP 401: .*OPENAI_API_KEY is set") as caught:
        open_tokens(settings, None)
    assert "sk-another" not in str(caught.value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def run(server, folder, ray_cluster):
    """Stages of a run whose sample and annotate ask the endpoint."""
    lines = [
        {"id": f"q{n}", "topic": "t", "question": f"Where? {n}", "document": "d", "language": "zh"}
        for n in range(QUESTIONS)
    ]
    (folder / "q.jsonl").write_text("\n".join(map(json.dumps, lines)))

    def stages(name: str, key: str = KEY) -> Stages:
        key_file = folder / f"{name}.key"
        key_file.write_text(key)
        asked = {"base_url": server.url, "model": "tiny", "concurrency": 2}
        asked["api_key_file"] = str(key_file)
        tree = {
            "run_dir": str(folder / name),
            "model": {"path": models.tiny_llama(), "dtype": "float32"},
            "data": {"train": str(folder / "q.jsonl")},
            "sampling": {"candidates": 3, "max_tokens": 24, "endpoint": asked},
            "annotation": {
                "annotator": "judge",
                "endpoint": asked | {"constrain": "vllm"},
                "max_tokens": 24,
            },
            "resources": {
                "questions_per_block": 2,
                "sampler": {"cpus": 0.5, "blocks_in_flight": 1},
                "annotator": {"cpus": 0.5, "blocks_in_flight": 1},
            },
        }
        return Stages(build_config(tree))

    return stages


def go(stages: Stages) -> dict[str, dict]:
    stream(stages, stages.questions("train"), stages.sample(), stages.annotate())
    rows = list(stages.annotate().store.rows())
    assert len(rows) == len({row["id"] for row in rows}) == QUESTIONS
    return {row["id"]: row for row in rows}


@pytest.fixture(scope="module")
def undisturbed(run):
    return go(run("undisturbed"))


def test_a_server_killed_and_started_again_costs_no_row_and_changes_none(
    run, undisturbed, server, capfd
):
    disturbed = run("disturbed")
    sampled, annotated = disturbed.sample().store, disturbed.annotate().store
    done_at_death, over = [], threading.Event()

    def kill_and_start():
        while not annotated.parts():
            if over.wait(0.02):
                return
        server.kill()
        done_at_death.append(len(annotated.finished()[0]))
        server.start()

    killer = threading.Thread(target=kill_and_start)
    killer.start()
    try:
        found = go(disturbed)
    finally:
        over.set()
        killer.join()
    assert 0 < done_at_death[0] < QUESTIONS
    assert found == undisturbed
    assert not sampled.rejected_rows() and not annotated.rejected_rows()
    verdicts = {
        s["verdict"] for r in found.values() for c in r["candidates"] for s in c["sentences"]
    }
    assert verdicts and "error" not in verdicts
    # The key is in the file that the user made, and nowhere that the run, its actors or Ray wrote.
    places = (Path(disturbed.config.run_dir), ray_logs())
    written = [f for place in places for f in place.rglob("*") if f.is_file()]
    assert any(f.name.startswith("worker-") for f in written)
    assert not [f for f in written if KEY.encode() in f.read_bytes()]
    out, err = capfd.readouterr()
    assert KEY not in out + err


def ray_logs() -> Path:
    """Where Ray and the actors of this process's cluster write their logs."""
    return Path(ray._private.worker._global_node.get_logs_dir_path())


def test_a_run_that_starts_while_the_server_does_waits_for_it(run, undisturbed, server):
    server.kill()
    server.start()
    assert go(run("early")) == undisturbed


def test_a_wrong_key_on_the_nodes_ends_the_run_with_the_reason(run):
    stages = run("wrong-key", key="sk-another")
    words = "stage (sample|annotate) cannot start: .*HTTP 401"
    with pytest.raises(UserError, match=words) as caught:
        go(stages)
    assert "sk-another" not in str(caught.value)


# -- a server that answers some as bad servers do -------------------------------------------------

AS_IF_NOTHING = ("", "s-fewer", "s-one", "s-none", "parts", "finish", "nousage", "429", "reasoning")
OF_THE_ROW = {  # what is said of a question that was never answered
    "s-403": "HTTP 403: content policy",
    "s-502": "HTTP 502",
    "s-hang": "(patience)",
    "s-html": "it has no choices",
}
OF_THE_SENTENCE = {
    "403": "HTTP 403: content policy",
    "502": "HTTP 502",
    "hang": "(patience)",
    "empty": "cannot be read: Expecting value",
    "html": "it has no choices",
    "cut": "cannot be read",
    "nochoices": "it has no choices",
    "nomessage": "its choice has no message",
    "surrogate": "a lone surrogate",
}


@pytest.fixture
def proxy(server, engine):
    made = FaultProxy(server.url, engine.tokenizer)
    yield made
    made.stop()


def said(row: dict | None) -> dict | None:
    """A row without the tokens that a server tells of, or does not."""
    for candidate in (row or {}).get("candidates", []):
        for sentence in candidate["sentences"]:
            if sentence["detail"].startswith("{"):
                sentence["detail"] = {**json.loads(sentence["detail"]), "tokens": None}
    return row


def test_bad_answers_of_a_server_through_the_graph_concern_their_rows_alone(
    proxy, folder, ray_cluster
):
    manners = [*AS_IF_NOTHING, *OF_THE_ROW, *OF_THE_SENTENCE]
    lines = [
        {"id": manner or "well", "topic": "t", "question": f"Where? [{manner}]", "document": "d"}
        for manner in manners
    ]
    (folder / "faults.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "faults.key").write_text(KEY)
    asked = {
        "base_url": proxy.url, "model": "tiny", "api_key_file": str(folder / "faults.key"),
        "max_retries": 2, "patience": 25,
    }  # fmt: skip
    names = {"temperature": None, "max_completion_tokens": "max_tokens"}
    chat = asked | {"parameters": names}
    served = asked | {"parameters": names | {"temperature": "temperature_of_ours"}}
    small = {"cpus": 0.5, "blocks_in_flight": 8}

    def stages(name: str) -> Stages:
        tree = {
            "run_dir": str(folder / name),
            "model": {"path": models.tiny_llama(), "dtype": "float32"},
            "data": dict.fromkeys(("train", "test"), str(folder / "faults.jsonl")),
            "systems": {},
            "sampling": {"candidates": 4, "max_tokens": 16, "endpoint": asked},
            "annotation": {
                "annotator": "judge", "endpoint": chat | {"constrain": "vllm"}, "max_tokens": 24,
            },
            "preference": {"max_length": 512},
            "evaluation": {
                "models": {"served": {"endpoint": served}}, "samples": 2, "best_of_n": [1],
                "max_tokens": 16,
            },
            "resources": {
                "questions_per_block": 3, "sampler": small, "annotator": small, "pair": small,
            },
        }  # fmt: skip
        return Stages(build_config(tree))

    def through(stages: Stages) -> tuple[dict, dict]:
        """Rows and rejections, by stage and id."""
        served = stages.policies()[-1]
        graph = (stages.sample(), stages.annotate(), stages.pair())
        stream(stages, stages.questions("train"), *graph)
        evaluated = (stages.answer(served), stages.evaluate(served))
        stream(stages, stages.questions("test"), *evaluated)
        found, refused = {}, {}
        for stage in (*graph, *evaluated):
            of = stage.store
            found |= {(of.name, row.get("question_id", row["id"])): row for row in of.rows()}
            refused |= {(of.name, row["id"]): row["detail"] for row in of.rejected_rows()}
        return found, refused

    spoilt = stages("spoilt")
    found, refused = through(spoilt)
    asked_once = proxy.asked.copy()
    for manner, words in OF_THE_ROW.items():
        assert words in refused["sample", manner], manner
        assert ("evaluate-served", manner) in found
    for manner, words in OF_THE_SENTENCE.items():
        row = found["annotate", manner]
        of = [s for c in row["candidates"] for s in c["sentences"]]
        assert of and all(s["verdict"] == "error" and words in s["detail"] for s in of), manner
        assert "too_few" in refused["pair", manner] or "candidates" in refused["pair", manner]
        assert words in refused["answer-served", manner]

    # Again: nothing is asked. A file of rows that is gone: these are asked for again, no other.
    again = stages("spoilt")
    assert through(again) == (found, refused)
    assert proxy.asked == asked_once
    store = again.annotate().store
    part = next(part for part in store.parts() if "403" in store.held()[part])
    kept = set(store.held()[part])
    store.folder.remove(part)
    assert through(stages("spoilt")) == (found, refused)
    assert {m or "well" for m in (proxy.asked - asked_once)} <= {*kept, "well"}

    # The neighbours are what they are where nothing is spoilt.
    proxy.faulty = False
    well, _ = through(stages("well"))
    for manner in AS_IF_NOTHING:
        for stage in ("sample", "annotate", "pair", "answer-served", "evaluate-served"):
            key = (stage, manner or "well")
            if manner == "reasoning" and "served" in stage:  # it is kept beside the answer
                continue
            assert said(found.get(key)) == said(well.get(key)), key
    written = [f for f in (folder / "spoilt").rglob("*") if f.is_file()]
    assert written and not [f for f in written if KEY.encode() in f.read_bytes()]
