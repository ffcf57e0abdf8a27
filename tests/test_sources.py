"""Rows of files, whatever their kind: the same content gives the same questions."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from maskdpo_ray.config import ColumnsConfig, SourceConfig
from maskdpo_ray.errors import RowRejected, UserError
from maskdpo_ray.questions import read_questions
from maskdpo_ray.sources import Source

LABELLED = {
    "response": "A b.",
    "model": "m",
    "sentences": [{"start": 0, "end": 4, "label": "ok"}],
}
ROWS = [
    {"id": "a", "topic": "Ada", "question": "Who is Ada?", "document": "Ada wrote.", "extra": 1},
    {"id": "b", "topic": "Bo", "question": "谁是博？", "language": "zh", "extra": 2},
    {"id": "c", "topic": "Cy", "question": "Who is Cy?", "candidates": [LABELLED], "extra": 3},
]


def lines(rows) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def write(folder, kind: str, rows=ROWS):
    """The rows as a file of one kind, or as a folder of Parquet files."""
    path = folder / f"q.{kind}"
    if kind == "jsonl":
        path.write_bytes(lines(rows))
    elif kind == "jsonl.gz":
        path.write_bytes(gzip.compress(lines(rows)))
    elif kind == "json":
        path.write_text(json.dumps(rows))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(_same_keys(rows)), path, row_group_size=2)
    elif kind == "folder":
        path.mkdir()
        table = pa.Table.from_pylist(_same_keys(rows))
        pq.write_table(table.slice(0, 1), path / "part-0.parquet")
        pq.write_table(table.slice(1), path / "part-1.parquet")
        (path / "_SUCCESS").touch()
    return path


def _same_keys(rows) -> list[dict]:
    keys = dict.fromkeys(key for row in rows for key in row)
    return [{key: row.get(key) for key in keys} for row in rows]


def read(path, **columns):
    return list(read_questions(Source(path, ColumnsConfig(**columns))))


KINDS = ("jsonl", "jsonl.gz", "json", "parquet", "folder")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same_questions(tmp_path, kind):
    wanted = read(write(tmp_path, "jsonl"))
    assert [row_id for row_id, _ in wanted] == ["a", "b", "c"]
    assert wanted[2][1]["candidates"][0]["sentences"][0]["verdict"] == "ok"
    assert read(write(tmp_path, kind)) == wanted


@pytest.mark.parametrize("kind", KINDS)
def test_columns_of_other_names(tmp_path, kind):
    theirs = [{"prompt": r["question"], "entity": r["topic"], "n": n} for n, r in enumerate(ROWS)]
    mapped = read(write(tmp_path, kind, theirs), question="prompt", topic="entity", id="n")
    assert [(i, row["topic"], row["question"]) for i, row in mapped] == [
        (str(n), row["topic"], row["question"]) for n, row in enumerate(ROWS)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_named_column_that_is_not_there_names_those_that_are(tmp_path, kind):
    path = write(tmp_path, kind)
    with pytest.raises(UserError, match=r"data\.columns\.topic: .* has no column 'entity'; it ha"):
        read(path, topic="entity")
    with pytest.raises(UserError, match="it has: id, topic, question, document, extra, language"):
        read(path, question="prompt")


@pytest.mark.parametrize("kind", KINDS)
def test_data_without_a_question_is_told_how_to_name_one(tmp_path, kind):
    path = write(tmp_path, kind, [{"prompt": "Who?", "n": 1}])
    with pytest.raises(UserError, match=r"'question' is missing; there are: prompt, n\. Name the"):
        read(path)


def test_a_mapping_takes_the_named_column_though_another_has_our_name(tmp_path):
    path = write(tmp_path, "jsonl", [{"question": "Q?", "topic": "theirs", "entity": "wanted"}])
    ((_, row),) = read(path, topic="entity")
    assert row["topic"] == "wanted"


def test_an_optional_column_may_first_appear_in_a_later_line(tmp_path):
    path = write(tmp_path, "jsonl", [{"question": "Q?"}, {"question": "R?", "entity": "R"}])
    assert [row["topic"] for _, row in read(path, topic="entity")] == ["Q?", "R"]


@pytest.mark.parametrize("kind", ["parquet", "folder"])
def test_nulls_are_left_out_keys_and_a_null_question_rejects_its_row(tmp_path, kind):
    rows = [{"question": "Q?", "topic": None, "id": None}, {"question": None, "topic": "T"}]
    first, second = (outcome for _, outcome in read(write(tmp_path, kind, rows)))
    assert first["topic"] == "Q?" and first["id"]
    assert isinstance(second, RowRejected) and second.reason == "empty_question"
    place = "q.parquet row 2" if kind == "parquet" else "part-1.parquet row 1"
    assert place in second.detail


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("jsonl.gz", "line 2: 'topic'"),
        ("json", "row 2: 'topic'"),
        ("parquet", "row 2: 'question'"),
    ],
)
def test_values_of_the_wrong_type_name_their_row(tmp_path, kind, place):
    wrong = [{"question": "Q?", "topic": "a"}, {"question": "R?", "topic": 7}]
    if kind == "parquet":  # a column has one type
        wrong = [{"question": None, "topic": "a"}, {"question": [1], "topic": "b"}]
    with pytest.raises(UserError, match=rf"{place} must be a string, not (int|list)"):
        read(write(tmp_path, kind, wrong))


def test_files_that_are_not_what_their_name_says(tmp_path):
    path = tmp_path / "q.parquet"
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match="q.parquet is no whole Parquet file"):
        read(path)
    whole = write(tmp_path, "folder") / "part-1.parquet"
    whole.write_bytes(whole.read_bytes()[:-20])
    with pytest.raises(UserError, match="part-1.parquet is no whole Parquet file"):
        read(tmp_path / "q.folder")
    path = tmp_path / "q.json"
    path.write_bytes(lines(ROWS))
    with pytest.raises(UserError, match=r"is not JSON: .* one object a line is named \.jsonl"):
        read(path)
    path.write_text('{"question": "Q?"}')
    with pytest.raises(UserError, match="must hold a list of objects, not dict"):
        read(path)
    path = tmp_path / "q.jsonl.gz"
    path.write_bytes(gzip.compress(lines(ROWS))[:-9])
    with pytest.raises(UserError, match="is no whole gzip file"):
        read(path)


@pytest.mark.parametrize("name", ["none.jsonl", "none.json", "none.parquet", "none.jsonl.gz"])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(UserError, match=f"no question file at {tmp_path}/{name}"):
        read(tmp_path / name)
    with pytest.raises(UserError, match=f"no question file at {tmp_path}/{name}"):
        Source(tmp_path / name).digest()


def test_an_address_that_nothing_reaches(tmp_path):
    with pytest.raises(UserError, match="no question file at https://host/q.jsonl"):
        read("https://host/q.jsonl")


def test_a_folder_of_several_splits_is_not_read_as_one(tmp_path):
    for name in ("train-00000-of-00001", "test-00000-of-00001"):
        pq.write_table(pa.Table.from_pylist(ROWS[:1]), tmp_path / f"{name}.parquet")
    with pytest.raises(UserError, match=r"several splits \(test, train\): name one with data\.tr"):
        read(tmp_path)


def test_parquet_in_an_object_store(bucket):
    from maskdpo_ray.storage import Folder

    table = pa.Table.from_pylist(_same_keys(ROWS))
    Folder(bucket).write_table("all.parquet", table)
    (Folder(bucket) / "parts").write_table("part-0.parquet", table.slice(0, 2))
    (Folder(bucket) / "parts").write_table("part-1.parquet", table.slice(2))
    one, several = read(f"{bucket}/all.parquet"), read(f"{bucket}/parts")
    assert one == several and len(one) == 3
    with pytest.raises(UserError, match="no question file at"):
        read(f"{bucket}/none.parquet")


@pytest.mark.parametrize("kind", KINDS)
def test_a_digest_follows_the_content_and_not_the_place(tmp_path, kind):
    (tmp_path / "other").mkdir()
    digests = [Source(write(at, kind)).digest() for at in (tmp_path, tmp_path / "other")]
    (tmp_path / "changed").mkdir()
    changed = write(tmp_path / "changed", kind, [*ROWS[:2], {**ROWS[2], "topic": "Dee"}])
    if kind != "jsonl.gz":  # its header holds the time
        assert digests[0] == digests[1]
    assert Source(changed).digest() != digests[0]


def test_a_digest_covers_the_order_of_a_folder(tmp_path):
    path = write(tmp_path, "folder")
    before = Source(path).digest()
    (path / "part-0.parquet").rename(path / "part-2.parquet")
    assert Source(path).digest() != before


def test_what_is_of_data_sets_is_refused_beside_a_file_without_an_ending(tmp_path):
    path = tmp_path / "questions"
    path.write_bytes(lines(ROWS))
    assert len(read(path)) == 3
    with pytest.raises(UserError, match="data.train: split is of a data set, and .* is none"):
        Source(SourceConfig(path=str(path), split="train")).digest()


def test_pairs_come_from_parquet_too(tmp_path):
    from maskdpo_ray.questions import read_pairs

    item = {"sents": ["She sang."], "type": ["hallucination"]}
    pair = {
        "prompt": [{"role": "user", "content": "Who?"}],
        "chosen": [{"role": "assistant", "content": "She sang."}],
        "chosen_item": item,
        "rejected": [{"role": "assistant", "content": "She sang."}],
        "rejected_item": item,
    }
    pq.write_table(pa.Table.from_pylist([pair, pair]), tmp_path / "p.parquet")
    (tmp_path / "p.jsonl").write_bytes(lines([pair, pair]))
    assert list(read_pairs(tmp_path / "p.parquet")) == list(read_pairs(tmp_path / "p.jsonl"))
    pair["prompt"] = []
    pq.write_table(pa.Table.from_pylist([pair]), tmp_path / "bad.parquet")
    ((_, bad),) = read_pairs(tmp_path / "bad.parquet")
    assert "bad.parquet row 1: 'prompt' must be a list of one mess" in bad.detail
