"""What the line of progress counts, and what looking for it costs."""

import time

from maskdpo_ray.progress import Progress
from maskdpo_ray.records import QUESTION_SCHEMA
from maskdpo_ray.rundir import StageStore
from maskdpo_ray.storage import Folder


class SlowFolder(Folder):
    """Takes its time to list what it holds, and counts how often it is asked."""

    asked = 0

    def names(self):
        SlowFolder.asked += 1
        time.sleep(0.1)
        return super().names()


def write(store: StageStore, *ids: str) -> None:
    rows = [
        {"id": i, "topic": "t", "question": "q", "document": None, "language": "en",
         "candidates": []}
        for i in ids
    ]  # fmt: skip
    store.write(list(ids), rows, [], 8)


def test_rows_of_other_runs_in_the_same_store_are_not_counted(tmp_path, capsys):
    store = StageStore(Folder(tmp_path), "reference", "r", {}, QUESTION_SCHEMA)
    write(store, "theirs 1", "theirs 2", "theirs 3", "ours 1")
    with Progress({store: 1}, 4, lambda: None):
        write(store, "ours 2", "ours 3")
    line = capsys.readouterr().err
    assert "reference 3/4" in line
    assert line.rstrip().endswith(" left")


def test_looking_takes_a_small_part_of_the_time(tmp_path):
    store = StageStore(SlowFolder(tmp_path), "sample", "s", {}, QUESTION_SCHEMA)
    SlowFolder.asked = 0
    with Progress({store: 0}, 4, lambda: None, look_every=0.05):
        time.sleep(1)
    assert SlowFolder.asked <= 3  # before, once in between, and at the end
