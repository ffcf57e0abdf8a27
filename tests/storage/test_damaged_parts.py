"""Parts that are cut short or changed: named, removed, and their rows done again."""

import json

import pytest

from maskdpo_ray.config import DataConfig, PoolConfig, ResourcesConfig
from maskdpo_ray.digests import fingerprint
from maskdpo_ray.errors import RowRejected
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


@pytest.fixture
def three(tmp_path, ray_cluster):
    """Runs three stages over twelve questions, whose texts it is given; what the last one holds."""
    names = ("questions", "shout", "again", "last")
    stores = [
        StageStore(Folder(tmp_path / name), name, name, {}, QUESTION_SCHEMA) for name in names
    ]
    pool = PoolConfig(cpus=0.25)

    def run(texts):
        lines = [json.dumps({"id": i, "topic": "t", "question": text}) for i, text in texts.items()]
        (tmp_path / "q.jsonl").write_text("\n".join(lines))
        import_questions(str(tmp_path / "q.jsonl"), DataConfig(), stores[0], 4, {})
        graph = [StreamStage(store, Shout, pool) for store in stores[1:]]
        run_stream(graph, stores[0], ResourcesConfig(questions_per_block=4), {})
        for store in stores[1:]:
            assert {row["id"]: row["question"] for row in store.rows()} == {
                i: text.upper() for i, text in texts.items()
            }
        return stores

    return run


def test_what_is_made_anew_as_another_row_leaves_nothing_of_the_old_one(three, capsys):
    texts = {f"q{n}": f"x{n}" for n in range(12)}
    stores = three(texts)
    part = next(part for part in stores[0].parts() if "q0" in stores[0]._ids(part))
    content = stores[3].content

    # Made anew as it was: nothing is done again.
    kept = {store: [(p, store.folder.read(p)) for p in store.parts()] for store in stores[1:]}
    stores[0].folder.remove(part)
    three(texts)
    assert all(store.folder.read(p) == old for store, parts in kept.items() for p, old in parts)
    assert "rows of before" not in capsys.readouterr().err and stores[3].content == content

    stores[0].folder.remove(part)
    texts["q0"], texts["q1"] = "another", ""  # the second is refused
    del texts["q1"]
    three(texts)
    printed = capsys.readouterr().err
    assert "shout: 1 rows of before are no longer there to work on (q1) and 1 rows" in printed
    assert "are others now (q0): what was made of them is removed; 3 in the same" in printed
    assert stores[3].content != content
    for store in stores[1:]:
        assert store.complete and store.manifest()["counts"] == {
            "in": 11,
            "out": 11,
            "rejected": {},
        }
    three(texts)
    assert capsys.readouterr().err.count("rows of before") == 0


def test_a_later_stage_alone_sees_that_what_it_was_made_of_is_another_row(store, tmp_path):
    later = StageStore(Folder(tmp_path / "later"), "later", "key", {}, QUESTION_SCHEMA)
    later.begin({})
    coming = store.coming()
    rows = sorted(store.rows(), key=lambda row: row["id"])
    assert coming == {row["id"]: fingerprint(row) for row in rows}
    later.write_outcomes(["a", "b"], [rows[0], RowRejected("odd", "b")], 8, coming)
    assert later.settle(coming, 0.0) is None and later.complete
    assert later.block(["a", "b"], coming)["id"].to_pylist() == ["a"]

    store.write(["b"], [question("b") | {"topic": "other"}], [], 8)  # was rejected, is another row
    assert later.block(["a", "b"], store.coming()) is None
    told = later.settle(store.coming(), 0.0)
    assert told == (
        "later: 1 rows of before are others now (b): what was made of them is removed; 1 in the "
        "same files are done again"
    )
    assert not later.complete and later.held().keys() == set(later.parts())


def test_files_without_notes_stand(store, tmp_path):
    """Of runs before there were any."""
    part = store.parts()[0]
    with store.folder.parquet(part) as file:
        table = file.read().replace_schema_metadata(None)
    store.folder.write_table(part, table)
    later = StageStore(Folder(tmp_path / "later"), "later", "key", {}, QUESTION_SCHEMA)
    later.begin({})
    later.write(["a"], [question("a")], [], 8, store.coming())
    later.write(["b"], [question("b")], [], 8)
    assert set(store.coming().values()) - {None} and None in store.coming().values()
    assert later.settle(store.coming(), 0.0) is None
