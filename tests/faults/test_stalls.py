"""A stream that waits for resources which are gone says so."""

import time

from maskdpo_ray.progress import Progress
from maskdpo_ray.records import QUESTION_SCHEMA
from maskdpo_ray.rundir import StageStore
from maskdpo_ray.storage import Folder


def test_a_stalled_stream_says_what_it_lacks(tmp_path, capsys):
    store = StageStore(Folder(tmp_path), "sample", "s", {}, QUESTION_SCHEMA)
    asked = []

    def lacking():
        asked.append(1)
        return "the smallest pools and one reader need 2 GPU (there are 1)"

    with Progress({store: 0}, 40, lacking, patience=1):
        while not asked:
            time.sleep(0.05)
    assert (
        "no row finished for 0:01: the smallest pools and one reader need 2 GPU (there are 1)\n"
        in capsys.readouterr().err
    )
