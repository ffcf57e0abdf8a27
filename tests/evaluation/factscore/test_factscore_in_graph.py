"""FActScore as a stage: real actors, a server that reads, a driver that is killed."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from factscore_driver import config_of, examine
from world_reader import Server, WorldReader, answered

from maskdpo_ray.evaluation.factscore.examiner import FactExaminer
from maskdpo_ray.evaluation.factscore.facts import FactWriter
from maskdpo_ray.evaluation.factscore.verification import Verifier
from maskdpo_ray.evaluation.factscore.wording import read_wording
from maskdpo_ray.knowledge.database import Knowledge
from maskdpo_ray.knowledge.finder import Finder
from maskdpo_ray.knowledge.retrieval import Bm25Index
from maskdpo_ray.report.table import factscore_table
from maskdpo_ray.report.write import write_report
from maskdpo_ray.stages import Stages
from maskdpo_ray.world.place import world_knowledge

DRIVER = Path(__file__).with_name("factscore_driver.py")
REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def server():
    made = []

    def serve(**settings) -> Server:
        made.append(Server(**settings))
        return made[-1]

    yield serve
    for each in made:
        each.stop()


@pytest.fixture
def start():
    """Starts drivers; those that still run at the end of the test are killed."""
    made = []
    paths = [str(REPOSITORY), str(DRIVER.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}

    def driver(run_dir: Path, url: str) -> subprocess.Popen:
        command = [sys.executable, str(DRIVER), str(run_dir), url]
        made.append(subprocess.Popen(command, env=environment, start_new_session=True))
        return made[-1]

    yield driver
    for each in made:
        if each.poll() is None:
            os.killpg(each.pid, signal.SIGKILL)


def with_answers(run_dir: Path, url: str) -> Stages:
    """The stages of a run whose base has answered; one of its topics has no page."""
    stages = Stages(config_of(str(run_dir), url))
    rows = answered(list(stages.questions("test").rows()))
    rows[-1]["topic"] = "Nobody Atall"
    store = stages.answer(stages.base).store
    if not store.complete:
        store.begin(stages.versions)
        ids = [row["id"] for row in rows]
        store.write(ids, rows, [], 3)
        store.finish_rows(ids, 0.0, False)
    return stages


def expected(stages: Stages) -> list[dict]:
    """What an undisturbed examiner in this process makes of the answers."""
    wording, model = read_wording(), WorldReader()
    pages = Knowledge(world_knowledge(stages.world))
    examiner = FactExaminer(
        FactWriter(model, wording, 4), Verifier(model, wording), Finder(pages, Bm25Index, 5)
    )
    rows = list(stages.answer(stages.base).store.rows())
    return [row for row in asyncio.run(examiner(rows)) if isinstance(row, dict)]


def by_id(rows) -> list[dict]:
    return sorted(rows, key=lambda row: row["id"])


def test_the_configured_examiner_asks_the_server_and_finds_the_same(run_dir, server):
    serving = server()
    stages = with_answers(run_dir, serving.url)
    examiner = stages.factscore(stages.base).build()
    rows = list(stages.answer(stages.base).store.rows())
    found = [row for row in asyncio.run(examiner(rows)) if isinstance(row, dict)]
    assert by_id(found) == by_id(expected(stages))
    verified = [text for text in serving.asked if "Statement: " in text]
    assert len(verified) == len(set(verified)) > 20


def test_the_stage_makes_a_score_of_answers_and_counts_what_it_could_not(
    run_dir, server, ray_cluster
):
    stages = with_answers(run_dir, server().url)
    examine(stages)
    store = stages.factscore(stages.base).store
    assert by_id(store.rows()) == by_id(expected(stages))
    counts = store.manifest()["counts"]
    assert counts == {"in": 24, "out": 23, "rejected": {"unknown_topic": 1}}
    report = write_report(stages)
    score = report["factscore"]["base"]["greedy"]
    assert (score["responses"], score["abstained"], score["unknown_topics"]) == (23, 1, 1)
    assert json.loads((run_dir / "report.json").read_text())["factscore"] == report["factscore"]
    assert "FActScore" in (run_dir / "report.html").read_text()
    header, _, base = factscore_table(report).splitlines()
    assert "penalised" in header and f"{score['macro']:.1f}" in base

    # Another server of the same model, or another gamma, is the same work; another k is not.
    again = server()
    same = config_of(str(run_dir), again.url)
    examine(Stages(same))
    assert not again.asked
    section = same.evaluation.factscore
    for change, differs in [({"gamma": 5}, False), ({"k": 1}, True)]:
        changed = same.evaluation.model_copy(
            update={"factscore": section.model_copy(update=change)}
        )
        other = Stages(same.model_copy(update={"evaluation": changed}), rerun=True)
        assert (other.factscore(other.base).store.key != store.key) is differs


def test_a_killed_driver_loses_only_replies_under_way(run_dir, server, start):
    """It is killed in the middle of its second block or a later one: nobody is asked again what
    was answered, be it of a finished block or not."""
    held = threading.Event()
    blocks: list[int] = []  # questions answered when the first block was seen to be finished

    def after(count: int) -> None:
        if not blocks and store.finished()[0]:
            blocks.append(count)
        if blocks and count >= blocks[0] + 3:
            first.hold()
            held.set()

    first = server(after=after)
    stages = with_answers(run_dir, first.url)
    store = stages.factscore(stages.base).store

    def replies() -> int:
        names = [name for name in store.scratch.names() if name.endswith(".jsonl")]
        return sum(store.scratch.read(name).count(b"\n") for name in names)

    driver = start(run_dir, first.url)
    assert held.wait(300)
    while replies() < len(first.asked) and driver.poll() is None:
        time.sleep(0.02)
    given = set(first.asked)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    done = store.finished()[0]
    assert done and not store.complete, "it was killed in the middle"
    stated = {
        answer["response"][sentence["start"] : sentence["end"]].strip()
        for row in store.rows()
        for answer in row["answers"]
        for sentence in answer["sentences"]
    }
    sentences = {text.rpartition("Sentence: ")[2] for text in given if "Sentence: " in text}
    assert sentences - stated, "a block was under way"

    second = server()
    assert start(run_dir, second.url).wait(300) == 0
    assert by_id(store.rows()) == by_id(expected(stages))
    assert second.asked and not given & set(second.asked)
    assert not store.folder.exists("scratch")
