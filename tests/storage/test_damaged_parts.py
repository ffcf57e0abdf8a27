"""Parts that are cut short or changed: named, removed, and their rows done again."""

import pytest

from maskdpo_ray.config import DataConfig, PoolConfig, ResourcesConfig
from maskdpo_ray.questions import import_questions
from maskdpo_ray.records import QUESTION_SCHEMA
from maskdpo_ray.rundir import StageStore
from maskdpo_ray.storage import DamagedFile, Folder
from maskdpo_ray.stream import StreamStage, run_stream


def question(row_id: str) -> dict:
    return {
        "id": row_id, "topic": "t", "question": f"question {row_id}", "document": None,
        "language": "en", "candidates": [],
    }  # fmt: skip


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def one_bit(content: bytes) -> bytes:
    """Changes the text of a row, which stands uncompressed or not before the footer."""
    at = len(content) // 4
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def nothing(_: bytes) -> bytes:
    return b""


@pytest.fixture
def store(place):
    store = StageStore(Folder(place), "sample", "key", {}, QUESTION_SCHEMA)
    store.begin({})
    for name in "ab":
        store.write([name], [question(name)], [], 8)
    return store


@pytest.mark.parametrize("harm", [half, one_bit, nothing])
def test_a_damaged_part_is_named_and_its_rows_are_to_do_again(store, harm):
    part = next(p for p in store.parts() if store._ids(p) == ["a"])
    store.folder.write(part, harm(store.folder.read(part)))
    with pytest.raises(DamagedFile, match=f"{part} is damaged"):
        list(store.rows())
    (line,) = store.drop_damaged()
    assert line.startswith(f"{store.folder}/{part} is damaged (") and "done again" in line
    assert store.finished() == ({"b"}, set())
    assert store.drop_damaged() == []


def test_a_complete_stage_with_a_truncated_part_is_complete_no_more(store):
    store.finish_rows(["a", "b"], 1.0)
    part = store.parts()[0]
    store.folder.write(part, half(store.folder.read(part)))
    assert len(store.drop_damaged()) == 1
    assert not store.complete


def test_a_part_that_somebody_removed_is_missed(store):
    store.finish_rows(["a", "b"], 1.0)
    assert not store.lacks_rows()
    store.folder.remove(store.parts()[0])
    assert store.lacks_rows()


class Shout:
    async def __call__(self, rows):
        return [row | {"question": row["question"].upper()} for row in rows]


def test_a_run_goes_on_over_damaged_parts_and_leaves_complete_stages_alone(
    tmp_path, ray_cluster, capsys
):
    lines = [f'{{"id": "q{n}", "topic": "t", "question": "x{n}"}}' for n in range(12)]
    (tmp_path / "q.jsonl").write_text("\n".join(lines))
    source, stage = (
        StageStore(Folder(tmp_path / name), name, name, {}, QUESTION_SCHEMA)
        for name in ("questions", "shout")
    )

    def run():
        import_questions(str(tmp_path / "q.jsonl"), DataConfig(), source, 4, {})
        pool = PoolConfig(cpus=0.5)
        resources = ResourcesConfig(questions_per_block=4)
        run_stream([StreamStage(stage, Shout, pool)], source, resources, {})
        return {row["id"]: row["question"] for row in stage.rows()}

    expected = {f"q{n}": f"X{n}" for n in range(12)}
    assert run() == expected
    manifest = tmp_path / "shout" / "manifest.json"
    untouched = manifest.stat()
    assert run() == expected
    assert (manifest.stat().st_ino, manifest.stat().st_mtime_ns) == (
        untouched.st_ino,
        untouched.st_mtime_ns,
    )
    kept = {}
    for store in (source, stage):
        part = store.parts()[0]
        kept[store.name] = set(store.parts()[1:])
        store.folder.write(part, half(store.folder.read(part)))
    capsys.readouterr()
    assert run() == expected
    assert capsys.readouterr().err.count("is damaged") == 2
    assert kept["shout"] <= set(stage.parts())
    assert stage.complete and source.complete

    # A part is removed, and what is done again is refused this time: nothing is left of it.
    source.folder.remove(next(part for part in source.parts() if "q0" in source._ids(part)))
    lines[0] = '{"id": "q0", "topic": "t", "question": ""}'
    (tmp_path / "q.jsonl").write_text("\n".join(lines))
    del expected["q0"]
    assert run() == expected
    assert "shout: 1 rows of before are no longer there to work on (q0)" in capsys.readouterr().err
    assert stage.complete and stage.manifest()["counts"]["in"] == 11
    assert run() == expected
