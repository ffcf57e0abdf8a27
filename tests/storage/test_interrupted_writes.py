"""Writes that fail or end half way, caused for real: nothing is left that could be believed."""

import os
import signal
import subprocess
import sys
from functools import partial

import pytest
from s3_server import cut, delay, hold, refuse

from maskdpo_ray.records import QUESTION_SCHEMA
from maskdpo_ray.rundir import StageStore
from maskdpo_ray.storage import Folder

PART = 10 * 2**20  # bytes that pyarrow puts into one part of an upload


def question(row_id: str, text: str = "q") -> dict:
    return {
        "id": row_id, "topic": "t", "question": text, "document": None, "language": "en",
        "candidates": [],
    }  # fmt: skip


def python(script: str, *arguments: str) -> subprocess.Popen:
    # Started from a script's background, this process may ignore Ctrl-C, and its children with it.
    heeds = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, preexec_fn=heeds)


@pytest.mark.parametrize("status", ["503 Slow Down", "500 Internal Server Error"])
def test_a_store_that_refuses_once_is_asked_again(bucket, s3, status):
    code = "SlowDown" if status.startswith("503") else "InternalError"
    s3.faults.append(refuse(status, code))
    Folder(bucket).write("a", b"content")
    assert Folder(bucket).read("a") == b"content"
    assert len([1 for method, _, _ in s3.requests if method == "PUT"]) == 3  # bucket, twice a


def test_a_connection_that_breaks_once_is_made_again(bucket, s3):
    s3.faults.append(cut)
    Folder(bucket).write("a", b"c" * 10_000)
    assert Folder(bucket).read("a") == b"c" * 10_000


def test_a_refusal_that_will_not_pass_is_an_error_at_once(bucket, s3):
    s3.faults.append(refuse("403 Forbidden", "AccessDenied"))
    with pytest.raises(OSError, match="ACCESS_DENIED"):
        Folder(bucket).write("a", b"content")
    assert not Folder(bucket).exists("a")


def test_a_part_that_is_refused_for_good_leaves_no_object(bucket, s3):
    s3.faults.extend([None, refuse("403 Forbidden", "AccessDenied")])
    with pytest.raises(OSError, match="ACCESS_DENIED"):
        Folder(bucket).write("a", b"c" * 3 * PART)
    assert not Folder(bucket).exists("a")


def test_an_error_before_the_content_is_there_makes_no_empty_object(bucket):
    with pytest.raises(TypeError):
        Folder(bucket).write("a", object())
    assert not Folder(bucket).exists("a")


WRITES_LONG = """
import sys
from maskdpo_ray.storage import Folder
Folder(sys.argv[1]).write("a", b"c" * int(sys.argv[2]))
"""


def test_an_interrupted_command_leaves_the_whole_object(bucket, s3):
    reached, go_on = s3.event(), s3.event()
    s3.faults.extend([None, delay(reached, go_on)])
    driver = python(WRITES_LONG, bucket, str(3 * PART))
    assert reached.wait(60)
    driver.send_signal(signal.SIGINT)
    go_on.set()
    driver.communicate()
    assert driver.returncode != 0
    assert Folder(bucket).read("a") == b"c" * 3 * PART


WRITES_A_BLOCK = """
import sys
from maskdpo_ray.records import QUESTION_SCHEMA
from maskdpo_ray.rundir import StageStore
from maskdpo_ray.storage import Folder
import random
store = StageStore(Folder(sys.argv[1]), "sample", "key", {}, QUESTION_SCHEMA)
row = {"id": "b", "topic": "t", "question": random.Random(0).randbytes(15 * 2**20).hex(),
       "document": None, "language": "en", "candidates": []}
store.write(["b"], [row], [], 1)
"""


def test_a_process_killed_in_the_middle_of_an_upload_leaves_its_block_to_be_done(bucket, s3):
    store = StageStore(Folder(bucket), "sample", "key", {}, QUESTION_SCHEMA)
    store.write(["a"], [question("a")], [], 1)
    reached = s3.event()
    s3.forget()
    s3.faults.extend([None, None, hold(reached)])  # begun, one part stored, the next half sent
    driver = python(WRITES_A_BLOCK, bucket)
    assert reached.wait(60)
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()
    assert any("partNumber" in query for _, _, query in s3.requests), "no part was stored"
    assert store.finished() == ({"a"}, set())
    assert len(store.parts()) == 1
    driver = python(WRITES_A_BLOCK, bucket)
    driver.communicate()
    assert driver.returncode == 0
    assert store.finished() == ({"a", "b"}, set())


def test_a_disk_that_answers_once_with_an_error_is_asked_again(tmp_path, monkeypatch):
    answers = [OSError(5, "Input/output error"), OSError(116, "Stale file handle")]
    synced = os.fsync

    def fsync(descriptor):
        if answers:
            raise answers.pop()
        synced(descriptor)

    monkeypatch.setattr("os.fsync", fsync)
    monkeypatch.setattr("maskdpo_ray.storage.DISK_WAITS", (0.0, 0.0))
    Folder(tmp_path).write("a", b"content")
    assert not answers
    assert Folder(tmp_path).names() == ["a"]


def test_a_disk_that_goes_on_failing_ends_the_write(tmp_path, monkeypatch):
    tries = []

    def broken(_):
        tries.append(1)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.fsync", broken)
    monkeypatch.setattr("maskdpo_ray.storage.DISK_WAITS", (0.0, 0.0))
    with pytest.raises(OSError, match="Input/output error"):
        Folder(tmp_path).write("a", b"content")
    assert len(tries) == 3
    assert Folder(tmp_path).names() == []


@pytest.fixture
def tiny_disk(tmp_path):
    """A real file system of 64 KiB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system is not permitted here")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_full_disk_keeps_the_older_file_and_no_half_of_the_new_one(tiny_disk):
    folder = Folder(tiny_disk)
    folder.write("a", b"old")
    with pytest.raises(OSError, match="No space left"):
        folder.write("a", b"n" * 2**17)
    assert folder.read("a") == b"old"
    assert folder.names() == ["a"]
    folder.write("a", b"new")
    assert folder.read("a") == b"new"
