"""A folder on a disk and one behind S3 behave alike."""

import hashlib
import json
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest

from maskdpo_ray.config import build_config
from maskdpo_ray.errors import RowRejected, UserError
from maskdpo_ray.identity import file_digest, model_identity
from maskdpo_ray.model_files import local_file, local_folder
from maskdpo_ray.questions import read_questions
from maskdpo_ray.records import QUESTION_SCHEMA
from maskdpo_ray.rundir import RunDir, read_run_config
from maskdpo_ray.storage import Folder


def question(row_id: str) -> dict:
    return {
        "id": row_id, "topic": "t", "question": "q", "document": None, "language": "en",
        "candidates": [],
    }  # fmt: skip


def config(run_dir, **sections):
    given = {"run_dir": run_dir, "world": {}, "annotation": {"annotator": "closed_world"}}
    return build_config(given | sections)


def test_files_are_written_listed_read_replaced_and_removed(place):
    folder = Folder(place)
    assert folder.names() == []
    assert not folder.exists("a.json")
    folder.write_json("a.json", {"n": 1})
    folder.write_json("a.json", {"n": 2})
    (folder / "inner").write("b", b"content")
    assert folder.names() == ["a.json", "inner"]
    assert folder.read_json("a.json") == {"n": 2}
    again = pickle.loads(pickle.dumps(folder / "inner"))
    assert again.read("b") == b"content"
    folder.remove("a.json")
    folder.remove("a.json")
    assert folder.names() == ["inner"]
    with pytest.raises(FileNotFoundError):
        folder.read("a.json")


def test_a_folder_goes_with_all_that_is_in_it(place):
    folder = Folder(place)
    folder.write("a", b"content")
    for name in "bc":
        (folder / "inner").write(name, b"content")
    folder.remove_folder("inner")
    folder.remove_folder("inner")
    assert folder.names() == ["a"]


def test_a_folder_that_is_being_made_is_listed(tmp_path):
    """Another process makes it and removes it again all the while; Arrow looks twice."""
    blinking = tmp_path / "blinking"
    code = f"import os\nwhile True:\n os.mkdir({str(blinking)!r})\n os.rmdir({str(blinking)!r})"
    with subprocess.Popen([sys.executable, "-c", code]) as other:
        try:
            end = time.monotonic() + 1
            while time.monotonic() < end:
                assert Folder(blinking).names() == []
        finally:
            other.kill()


def test_a_file_of_several_parts_comes_back_as_it_was(place):
    content = bytes(range(256)) * 100_000  # 25 MB: three parts of an upload
    Folder(place).write("big", content)
    assert Folder(place).read("big") == content


def test_rows_manifest_and_resume(place):
    store = RunDir(config(place)).store("sample", {"k": 1}, QUESTION_SCHEMA)
    refused = RowRejected("prompt_too_long", "row c: 9 tokens")
    store.begin({})
    store.write(["a", "b", "c"], [question("a"), question("b")], [("c", refused)], group=1)
    same = RunDir(config(place)).store("sample", {"k": 1}, QUESTION_SCHEMA)
    assert same.finished() == ({"a", "b"}, {"c"})
    assert [block.ids for block in same.blocks(without={"a"})] == [["b"]]
    assert same.read_block(same.blocks(without=set())[0])["id"].to_pylist() == ["a"]
    assert not same.complete
    same.finish_rows(["a", "b", "c"], seconds=1.5)
    assert store.manifest()["counts"] == {"in": 3, "out": 2, "rejected": {"prompt_too_long": 1}}


def test_scratch_is_no_row_and_goes_when_all_rows_are_there(place):
    store = RunDir(config(place)).store("sample", {}, QUESTION_SCHEMA)
    store.begin({})
    store.scratch.write("replies.jsonl", b"{}\n")
    store.write(["a"], [question("a")], [], group=1)
    assert store.finished() == ({"a"}, set())
    with pytest.raises(RuntimeError, match="1 rows lost"):
        store.finish_rows(["a", "b"], 1.0)
    assert store.scratch.names() == ["replies.jsonl"]
    store.finish_rows(["a"], 1.0)
    assert not store.folder.exists("scratch")
    assert store.complete


def test_another_configuration_is_refused(place):
    run = RunDir(config(place))
    run.claim()
    run.store("sample", {}, QUESTION_SCHEMA).begin({})
    run.claim()
    with pytest.raises(UserError, match="these keys differ: seed"):
        RunDir(config(place, seed=1)).claim()
    assert read_run_config(place, []).seed == 0


def test_a_complete_stage_is_left_untouched(place):
    store = RunDir(config(place)).store("sample", {}, QUESTION_SCHEMA)
    store.begin({})
    store.write(["a"], [question("a")], [], group=1)
    store.finish_rows(["a"], 1.0)

    def written():
        return store.folder.filesystem.get_file_info(store.folder.path("manifest.json")).mtime_ns

    before = written()
    store.finish_rows(["a"], 0.0)
    assert written() == before


def test_a_small_file_is_one_request(bucket, s3):
    s3.forget()
    Folder(bucket).write("a", b"content")
    assert [method for method, _, _ in s3.requests] == ["PUT"]


def test_a_url_with_options_is_refused():
    with pytest.raises(UserError, match="set AWS_ENDPOINT_URL"):
        Folder("s3://bucket/run?endpoint_override=localhost:9000")


def test_questions_are_read_where_they_lie(place):
    lines = [{"id": f"q{n}", "topic": "t", "question": "a " * n + "?"} for n in range(500)]
    Folder(place).write("q.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
    rows = list(read_questions(f"{place}/q.jsonl"))
    assert [row["question"] for _, row in rows] == [line["question"] for line in lines]
    digest = hashlib.sha256(Folder(place).read("q.jsonl")).hexdigest()
    assert file_digest(f"{place}/q.jsonl") == digest
    with pytest.raises(UserError, match=f"no question file at {place}/none.jsonl"):
        list(read_questions(f"{place}/none.jsonl"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "maskdpo-ray" / "models"


def test_a_stored_model_is_copied_once_and_anew_when_it_changes(bucket, cache, s3):
    folder = Folder(bucket)
    folder.write("weights", b"w" * 1000)
    with pytest.raises(UserError, match="holds no config.json"):
        local_folder(bucket)
    folder.write("config.json", b"{}")
    copy = local_folder(bucket)
    assert Folder(copy).read("weights") == b"w" * 1000
    identity = model_identity(bucket)
    s3.forget()
    assert local_folder(bucket) == copy
    assert not any(path.endswith("weights") for _, path, _ in s3.requests)
    folder.write("weights", b"v" * 1001)
    assert Folder(local_folder(bucket)).read("weights") == b"v" * 1001
    assert model_identity(bucket) != identity
    assert not list(cache.glob(".*")), "half a copy is left"


def test_a_copy_that_fails_leaves_nothing_to_believe(bucket, cache, monkeypatch):
    Folder(bucket).write("config.json", b"{}")
    Folder(bucket).write("weights", b"w" * 1000)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("pyarrow.fs.copy_files", full)
        with pytest.raises(OSError, match="No space left"):
            local_folder(bucket)
    assert [path.suffix for path in cache.iterdir()] == [".lock"]
    assert Folder(local_folder(bucket)).read("weights") == b"w" * 1000


def test_a_file_is_copied_once_and_again_when_it_changes(bucket, cache):
    Folder(bucket).write("pages.db", b"one")
    Folder(bucket).write("other.db", b"other")
    copy = local_file(f"{bucket}/pages.db")
    assert Path(copy).read_bytes() == b"one" and Path(copy).name == "pages.db"
    assert local_file(f"{bucket}/pages.db") == copy
    Folder(bucket).write("pages.db", b"three")
    assert Path(local_file(f"{bucket}/pages.db")).read_bytes() == b"three"
    with pytest.raises(UserError, match="no file at .*none.db"):
        local_file(f"{bucket}/none.db")
    assert local_file("/a/local.db") == "/a/local.db"
