"""One driver at a time, with real processes, on a disk and in an object store."""

import errno
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from functools import partial

import pytest

from maskdpo_ray.cli import main
from maskdpo_ray.config import read_config
from maskdpo_ray.driver_lock import DriverLock
from maskdpo_ray.errors import UserError
from maskdpo_ray.rundir import LOCK
from maskdpo_ray.stages import Stages
from maskdpo_ray.storage import Folder

DRIVER = """
import sys, time
from maskdpo_ray.driver_lock import DriverLock
from maskdpo_ray.errors import UserError
from maskdpo_ray.stages import Stages
from maskdpo_ray.storage import Folder
try:
    with DriverLock(Folder(sys.argv[1]), beat=0.3, stale=60.0):
        print("held", flush=True)
        time.sleep(300)
except UserError as error:
    print(error, flush=True)
"""


@pytest.fixture
def drivers():
    started = []

    def start(place: str) -> subprocess.Popen:
        command = [sys.executable, "-c", DRIVER, place]
        # As a script starts it in the background: deaf to SIGINT.
        deaf = partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
        started.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=deaf)
        )
        return started[-1]

    yield start
    for driver in started:
        driver.kill()
        driver.communicate()


def said(driver: subprocess.Popen) -> str:
    return driver.stdout.readline().strip()


def test_a_second_driver_is_refused_while_the_first_lives(place, drivers):
    first = drivers(place)
    assert said(first) == "held"
    with pytest.raises(UserError) as refused, DriverLock(Folder(place)):
        pass
    message = str(refused.value)
    assert f"process id {first.pid} on {os.uname().nodename}" in message
    assert "wait for it or end it" in message
    assert first.poll() is None
    assert Folder(place).read_json(LOCK)["pid"] == first.pid


def test_a_killed_driver_is_followed_at_once(place, drivers):
    first = drivers(place)
    assert said(first) == "held"
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert Folder(place).exists(LOCK)
    with DriverLock(Folder(place)):
        assert Folder(place).read_json(LOCK)["pid"] == os.getpid()
    assert Folder(place).names() == []


@pytest.mark.parametrize("before", ["nobody", "a dead driver"])
def test_of_several_drivers_that_start_together_one_holds(place, drivers, before):
    if before == "a dead driver":
        dead = drivers(place)
        assert said(dead) == "held"
        dead.kill()
        dead.wait()
    together = [drivers(place) for _ in range(5)]
    answers = [said(driver) for driver in together]
    assert answers.count("held") == 1, answers
    holder = together[answers.index("held")]
    assert Folder(place).read_json(LOCK)["pid"] == holder.pid
    assert all("is in use by" in a or "try again" in a for a in answers if a != "held")


def test_a_driver_that_lost_its_lock_stops(place, drivers):
    first = drivers(place)
    assert said(first) == "held"
    other = Folder(place).read_json(LOCK) | {"token": "another", "pid": 1, "host": "elsewhere"}
    for _ in range(60):
        # Again where the driver was just renewing its own: it had looked before it was taken.
        if Folder(place).read_json(LOCK) != other:
            Folder(place).write_json(LOCK, other)
        if select.select([first.stdout], [], [], 0.5)[0]:
            break
    assert "process id 1 on elsewhere" in said(first)
    assert first.wait(timeout=30) == 0
    assert Folder(place).read_json(LOCK) == other, "the lock of the other was removed"


def test_a_driver_whose_run_directory_goes_away_stops(tmp_path, drivers):
    first = drivers(str(tmp_path / "run"))
    assert said(first) == "held"
    (tmp_path / "run").rename(tmp_path / "moved")
    assert "its lock was removed" in said(first)
    assert first.wait(timeout=30) == 0


@pytest.fixture
def elsewhere(place):
    """Writes a lock of a driver on another machine, renewed so many seconds ago."""

    def write(ago: float) -> None:
        now = time.time()
        holder = {
            "host": "elsewhere", "machine": "another", "pid": 7, "started": "1",
            "since": now - 900, "token": "theirs", "renewed": now - ago,
        }  # fmt: skip
        Folder(place).write_json(LOCK, holder)

    return write


def test_a_lock_from_another_machine_holds_until_it_is_stale(place, elsewhere):
    elsewhere(ago=30)
    with (
        pytest.raises(UserError, match="process id 7 on elsewhere"),
        DriverLock(Folder(place), beat=0.1),
    ):
        pass
    elsewhere(ago=61)
    with DriverLock(Folder(place), beat=0.1):
        assert Folder(place).read_json(LOCK)["pid"] == os.getpid()


def test_a_lock_that_is_renewed_holds_whatever_its_clock_says(place, elsewhere):
    elsewhere(ago=3600)
    done = threading.Event()

    def renew():
        while not done.wait(0.1):
            elsewhere(ago=3600)

    renewal = threading.Thread(target=renew)
    renewal.start()
    try:
        with (
            pytest.raises(UserError, match="process id 7 on elsewhere"),
            DriverLock(Folder(place), beat=1.0),
        ):
            pass
    finally:
        done.set()
        renewal.join()


def test_a_process_id_given_anew_is_not_the_old_driver(place):
    with DriverLock(Folder(place)):
        lock = Folder(place).read_json(LOCK)
    Folder(place).write_json(LOCK, lock | {"started": "0", "token": "old"})
    with DriverLock(Folder(place)):
        pass


HELD = {"host": "h", "machine": "m", "pid": 1, "started": "1", "since": 1.0, "token": "t",
        "renewed": 1.0}  # fmt: skip


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b'{"pid": 1}', b"\xff\x00", b"[" * 100_000, b"9" * 5000,
        *(
            json.dumps({**HELD, **change}).encode()
            for change in ({"pid": "1"}, {"renewed": "now"}, {"renewed": None}, {"since": 1e300},
                           {"since": float("nan")}, {"token": 5}, {"machine": ["m"]})
        ),
    ],
)  # fmt: skip
def test_a_lock_that_says_nothing_of_its_holder(tmp_path, content):
    """A disk that was full, or a file of somebody else's."""
    folder, lock = Folder(tmp_path / "run"), tmp_path / "run" / LOCK
    folder.write(LOCK, content)
    words = "process id unknown on an unknown machine .since 20"
    with pytest.raises(UserError, match=words), DriverLock(folder, beat=0.1):
        pass
    assert lock.read_bytes() == content
    os.utime(lock, (time.time() - 61, time.time() - 61))
    with DriverLock(folder, beat=0.1):
        assert folder.read_json(LOCK)["pid"] == os.getpid()
    assert folder.names() == []


@pytest.mark.parametrize("refusal", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_mount_without_hard_links(tmp_path, monkeypatch, refusal):
    def refused(*_):
        raise OSError(refusal, os.strerror(refusal))

    monkeypatch.setattr(os, "link", refused)
    folder = Folder(tmp_path / "run")
    with DriverLock(folder):
        held = folder.read_json(LOCK)
        assert held["pid"] == os.getpid()
        with pytest.raises(UserError, match="is in use by"), DriverLock(folder):
            pass
        assert folder.read_json(LOCK) == held
    folder.write_json(LOCK, held | {"started": "0", "token": "of a dead driver"})
    with DriverLock(folder):
        assert folder.read_json(LOCK)["token"] != "of a dead driver"
    assert folder.names() == []


def test_a_driver_that_was_stopped_leaves_the_lock_of_its_successor(place):
    folder = Folder(place)
    with DriverLock(folder, beat=3600):  # it will not look before it ends
        successor = folder.read_json(LOCK) | {"token": "another"}
        folder.write_json(LOCK, successor)
    assert folder.read_json(LOCK) == successor


def test_commands_that_work_are_refused_and_a_report_is_not(place, drivers, tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "q.jsonl").write_text('{"id": "a", "topic": "t", "question": "q"}\n')
    settings = {
        "run_dir": place,
        "model": {"path": str(tmp_path)},
        "data": {"train": str(tmp_path / "q.jsonl")},
        "sampling": {"source": "input"},
        "annotation": {"annotator": "labels"},
    }
    (tmp_path / "c.yaml").write_text(json.dumps(settings))
    command = [str(tmp_path / "c.yaml")]
    assert main(["report", *command]) == 2
    assert "holds no run yet" in capsys.readouterr().err
    assert Folder(place).names() == []
    Stages(read_config(*command)).questions("train")
    assert said(drivers(place)) == "held"
    assert main(["sample", *command]) == 2
    assert "is in use by the driver with process id" in capsys.readouterr().err
    saved = Folder(place).read("config.yaml")
    assert main(["report", *command, "--rerun"]) == 2
    assert "a report redoes nothing" in capsys.readouterr().err
    assert main(["report", *command, "resources.local_cpus=7"]) == 0
    assert Folder(place).exists("report.html")
    assert Folder(place).read("config.yaml") == saved, "it is the working driver's"
