"""What the stages of the questions depend on: content, columns and split, not names of files."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from maskdpo_ray.config import build_config
from maskdpo_ray.errors import UserError
from maskdpo_ray.stages import Stages

ROWS = [
    {"prompt": f"What is {n}?", "entity": f"T{n // 3}", "subject": f"S{n}", "id": n}
    for n in range(90)
]
COLUMNS = {"question": "prompt", "topic": "entity"}


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "questions.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path)
    (tmp_path / "config.json").write_text("{}")
    return path


def stages(folder, **data) -> Stages:
    tree = {
        "run_dir": f"{folder}/run",
        "model": {"path": str(folder)},
        "data": {"columns": COLUMNS, **data},
        "sampling": {"source": "input"},
        "annotation": {"annotator": "labels"},
        "evaluation": {"annotation": {"annotator": "judge", "model": "a/b"}},
    }
    return Stages(build_config(tree), rerun=True)


def topics(store) -> set[str]:
    return {row["topic"] for row in store.rows()}


def test_a_split_makes_both_sets_of_questions_of_one_file(tmp_path, questions):
    made = stages(tmp_path, train=str(questions), split={"test": 0.3})
    train, test = made.questions("train"), made.questions("test")
    assert not topics(train) & topics(test)
    assert topics(train) | topics(test) == {f"T{n}" for n in range(30)}
    assert sum(1 for store in (train, test) for _ in store.rows()) == len(ROWS)
    assert train.settings["columns"] == COLUMNS
    assert train.settings["split"] == {"test": 0.3, "seed": 0}


def test_columns_and_split_are_what_the_questions_depend_on(tmp_path, questions):
    split = {"test": 0.3}
    first = stages(tmp_path, train=str(questions), split=split).questions("train")
    moved = questions.rename(tmp_path / "other.parquet")
    again = stages(tmp_path, train={"path": str(moved), "columns": COLUMNS}, split=split)
    assert again.questions("train").key == first.key, "the file's name is not its content"
    keys = {first.key}
    for data in (
        {"split": {"test": 0.2}},
        {"split": {"test": 0.3, "seed": 1}},
        {"split": split, "columns": {**COLUMNS, "topic": "subject"}},
        {"split": split, "limit": 60},
    ):
        keys.add(stages(tmp_path, train=str(moved), **data).questions("train").key)
    assert len(keys) == 5


def test_a_limit_counts_rows_before_the_split(tmp_path, questions):
    made = stages(tmp_path, train=str(questions), split={"test": 0.3}, limit=30)
    rows = [row["id"] for part in ("train", "test") for row in made.questions(part).rows()]
    assert sorted(map(int, rows)) == list(range(30))


def test_train_and_test_may_have_columns_of_their_own(tmp_path, questions):
    test = tmp_path / "test.jsonl"
    test.write_text(json.dumps({"question": "Who is Ada?", "document": "Ada."}) + "\n")
    made = stages(tmp_path, train=str(questions), test={"path": str(test), "columns": {}})
    assert topics(made.questions("test")) == {"Ada."}
    with pytest.raises(UserError, match=r"data\.columns\.question: .*test.jsonl has no column"):
        stages(tmp_path, train=str(questions), test=str(test)).questions("test")
    wrong = {"path": str(test), "columns": {"question": "q"}}
    with pytest.raises(UserError, match=r"data\.test\.columns\.question: .*has no column 'q'"):
        stages(tmp_path, train=str(questions), test=wrong).questions("test")


def test_a_selected_question_may_stand_twice_where_none_has_an_id(tmp_path):
    """As in the file that it was selected from: there the second one is counted and left out."""
    lines = [{"prompt": f"What is {n}?", "entity": f"T{n}"} for n in (0, 1, 2, 1)]
    for name, kept in (("train", lines), ("part", lines[1:])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, kept)))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "test.jsonl").write_text('{"prompt": "What is it?", "entity": "other"}')
    made = stages(tmp_path, train=str(tmp_path / "train.jsonl"), test=str(tmp_path / "test.jsonl"))
    part = made.config.preference.model_copy(update={"questions": str(tmp_path / "part.jsonl")})
    made = Stages(made.config.model_copy(update={"preference": part}), rerun=True)
    chosen = {row["id"] for row in made.questions("train").rows() if row["topic"] != "T0"}
    assert made.selected == chosen and len(chosen) == 2
