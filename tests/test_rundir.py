import pyarrow as pa
import pytest
import yaml

from maskdpo_ray.config import build_config
from maskdpo_ray.digests import fingerprint
from maskdpo_ray.errors import RowRejected, UserError
from maskdpo_ray.records import QUESTION_SCHEMA
from maskdpo_ray.rundir import RunDir, read_run_config
from maskdpo_ray.storage import DamagedFile, Folder


def question(row_id: str) -> dict:
    return {
        "id": row_id, "topic": "t", "question": "q", "document": None, "language": "en",
        "candidates": [],
    }  # fmt: skip


def config(run_dir, **sections):
    given = {"run_dir": str(run_dir), "world": {}, "annotation": {"annotator": "closed_world"}}
    return build_config(given | sections)


@pytest.fixture
def store(tmp_path):
    return RunDir(config(tmp_path)).store("sample", {"k": 1}, QUESTION_SCHEMA)


def ids(rows) -> list[str]:
    return [row["id"] for row in rows]


def test_rows_and_rejections_are_durable_and_counted(store):
    refused = RowRejected("prompt_too_long", "row c: 9 tokens")
    store.begin({})
    store.write(["a", "b", "c"], [question("a"), question("b")], [("c", refused)], group=1)
    assert store.finished() == ({"a", "b"}, {"c"})
    assert store.rejected_rows() == [
        {"id": "c", "reason": "prompt_too_long", "detail": "row c: 9 tokens"}
    ]
    assert not store.complete
    store.finish_rows(["a", "b", "c"], seconds=1.5)
    assert store.complete
    manifest = store.manifest()
    assert manifest["counts"] == {"in": 3, "out": 2, "rejected": {"prompt_too_long": 1}}
    assert manifest["seconds"] == 1.5
    assert store.summary() == "sample: 3 in, 2 out, 1 rejected (prompt_too_long)"


def test_a_question_may_give_several_rows_and_counts_once(tmp_path):
    schema = pa.schema([("id", pa.string()), ("question_id", pa.string())])
    store = RunDir(config(tmp_path)).store("pair", {}, schema)
    rows = [{"id": f"a#{n}", "question_id": "a"} for n in (1, 2)]
    single, refused = {"id": "b#1", "question_id": "b"}, RowRejected("odd", "row c")
    written = store.write_outcomes(["a", "b", "c"], [rows, single, refused], 8)
    assert written == store.block(["a", "b", "c"])
    assert store.finished() == ({"a", "b"}, {"c"})
    assert ids(store.rows()) == ["a#1", "a#2", "b#1"]
    assert [store.count(part) for part in store.parts("part", "rejected")] == [2, 1]
    store.begin({})
    store.finish_rows("abc", 0.0)
    assert store.summary() == "pair: 3 in, 2 out, 3 pairs, 1 rejected (odd)"
    with pytest.raises(RuntimeError, match="1 rows lost"):
        store.finish_rows("abcd", 0.0)


def test_why_rows_were_rejected_is_told_with_the_first_of_each_reason(store):
    assert store.why_rejected() == ""
    refused = [("b", RowRejected("long", "row b: 9")), ("a", RowRejected("long", "row a: 8"))]
    store.write(["a", "b", "c"], [], [*refused, ("c", RowRejected("odd", "row c"))], group=1)
    assert store.why_rejected() == "2 rejected (long), first: row a: 8; 1 rejected (odd): row c"


def test_a_block_worked_on_twice_replaces_itself(store):
    store.write(["a", "b"], [question("a"), question("b")], [], group=8)
    store.write(["a", "b"], [question("a"), question("b")], [], group=8)
    assert ids(store.rows()) == ["a", "b"]


def test_a_row_that_two_blocks_finished_is_read_once(store):
    store.write(["a", "b"], [question("a"), question("b")], [], group=8)
    store.write(["b", "c"], [question("b"), question("c")], [], group=8)
    assert sorted(ids(store.rows())) == ["a", "b", "c"]


def test_rows_of_some_columns(store):
    """In the order of the schema, whatever the order asked for."""
    store.write(["a", "b"], [question("a"), question("b")], [], group=1)
    assert list(store.rows(["question", "id"])) == [
        {"id": "a", "question": "q"}, {"id": "b", "question": "q"}
    ]  # fmt: skip


def test_blocks_leave_out_what_is_done_and_keep_to_row_groups(store):
    names = [f"q{n}" for n in range(10)]
    store.write(names, [question(n) for n in names], [], group=4)
    blocks = store.blocks(without={"q0", "q5"})
    assert [block.ids for block in blocks] == [["q1", "q2", "q3"], ["q4", "q6", "q7"], ["q8", "q9"]]
    assert store.read_block(blocks[1])["id"].to_pylist() == ["q4", "q6", "q7"]


def test_lost_and_unknown_rows_stop_the_run(store):
    store.begin({})
    store.write(["a"], [question("a")], [], group=8)
    with pytest.raises(RuntimeError, match=r"1 rows lost \['b'\]"):
        store.finish_rows(["a", "b"], 0.0)
    with pytest.raises(RuntimeError, match=r"1 unknown \['a'\]"):
        store.finish_rows([], 0.0)
    assert not store.complete


def test_seconds_of_sessions_add_up(store):
    store.begin({})
    store.finish({}, 2.0)
    store.begin({})
    assert not store.complete
    store.finish({}, 1.0)
    assert store.manifest()["seconds"] == 3.0


def test_a_setting_changes_exactly_what_depends_on_it(tmp_path):
    run = RunDir(config(tmp_path))

    def keys(temperature, beta):
        sample = run.store("sample", {"temperature": temperature}, QUESTION_SCHEMA)
        pair = run.store("pair", {}, QUESTION_SCHEMA, sample)
        train = run.store("train", {"beta": beta}, QUESTION_SCHEMA, pair)
        return [sample.key, pair.key, train.key]

    before = keys(0.8, 0.1)
    assert keys(0.8, 0.1) == before
    changed = [a != b for a, b in zip(before, keys(0.8, 0.2), strict=True)]
    assert changed == [False, False, True]
    assert all(a != b for a, b in zip(before, keys(0.7, 0.1), strict=True))


def test_another_configuration_is_refused_with_the_differing_keys(tmp_path):
    run = RunDir(config(tmp_path))
    run.claim()
    run.store("sample", {}, QUESTION_SCHEMA).begin({})
    run.claim()
    other = RunDir(config(tmp_path, seed=1, training={"beta": 0.2}))
    with pytest.raises(UserError, match=r"these keys differ: seed, training\.beta\."):
        other.claim()
    other.claim(rerun=True)
    other.claim()
    assert read_run_config(str(tmp_path), []).training.beta == 0.2


def test_what_was_saved_is_read_back_by_any_reader(tmp_path):
    """Texts that look like numbers, in one version of YAML or another."""
    words = ["1e5", "010", "1:30", "1_0", ".5", "0x1f", "yes", "2026-01-01", "~", "1."]
    for word in words:
        given = config(tmp_path, model={"system_prompt": word})
        RunDir(given).claim(rerun=True)
        assert read_run_config(str(tmp_path), []) == given
        saved = yaml.safe_load((tmp_path / "config.yaml").read_text())
        assert saved["model"]["system_prompt"] == word


@pytest.mark.parametrize("content", [b"", b"seed: [", b"\xff\xfe", b"hello", b"a: 1\na: 2"])
def test_a_damaged_configuration_of_a_run_is_named(tmp_path, content):
    run = RunDir(config(tmp_path))
    run.claim()
    run.store("sample", {}, QUESTION_SCHEMA).begin({})
    (tmp_path / "config.yaml").write_bytes(content)
    for read in (run.claim, lambda: read_run_config(str(tmp_path), [])):
        with pytest.raises(UserError, match="config.yaml is damaged: .*; remove it and run"):
            read()


def test_a_damaged_manifest_is_named_and_costs_no_row(store):
    store.begin({})
    store.write(["a"], [question("a")], [], group=1)
    store.folder.write("manifest.json", b'{"state": "comp')
    with pytest.raises(DamagedFile, match="manifest.json is damaged .*: remove it and run"):
        _ = store.complete
    store.folder.remove("manifest.json")
    store.begin({})
    store.finish_rows(["a"], 0.0)
    assert store.complete and ids(store.rows()) == ["a"]


def test_a_command_that_made_nothing_has_not_taken_the_directory(tmp_path):
    RunDir(config(tmp_path)).claim()
    RunDir(config(tmp_path, seed=1)).claim()


def test_where_and_in_what_portions_a_run_works_may_change(tmp_path):
    run = RunDir(config(tmp_path))
    run.claim()
    run.store("sample", {}, QUESTION_SCHEMA).begin({})
    RunDir(
        config(
            tmp_path,
            resources={"sampler": {"actors": 4}},
            training={"micro_batch_tokens": 100, "checkpoint_every": 7},
            systems={"mask_dpo": {"checkpoint_every": 3}},
            sampling={"engine": {"gpu_memory_utilization": 0.5, "max_num_seqs": 8}},
        )
    ).claim()
    other = RunDir(config(tmp_path, sampling={"engine": {"max_model_len": 8}}))
    with pytest.raises(UserError, match=r"these keys differ: sampling\.engine\.max_model_len\."):
        other.claim()


def test_fingerprints_do_not_depend_on_the_order_of_keys():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def test_a_failed_write_leaves_the_older_file_and_nothing_else(tmp_path, monkeypatch):
    folder = Folder(tmp_path)
    folder.write("a.json", b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        folder.write("a.json", b"new")
    assert folder.read("a.json") == b"old"
    assert folder.names() == ["a.json"]
