"""Data sets through the ``datasets`` library, offline."""

import sys

import datasets
import pytest

from maskdpo_ray.config import ColumnsConfig, SourceConfig
from maskdpo_ray.errors import UserError
from maskdpo_ray.questions import read_questions
from maskdpo_ray.sources import Source

ROWS = [{"prompt": f"Who is {n}?", "entity": n, "index": i} for i, n in enumerate(["Ada", "Bo"])]
NAMES = ColumnsConfig(question="prompt", topic="entity", id="index")


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.fixture
def repository(tmp_path):
    """A folder laid out like a data set on the hub, with a split for each file."""
    data = datasets.Dataset.from_list(ROWS)
    data.to_json(tmp_path / "repository" / "train.jsonl")
    data.select([1]).to_json(tmp_path / "repository" / "test.jsonl")
    return str(tmp_path / "repository")


def read(path, default="train", **given):
    source = Source(SourceConfig(path=path, **given), NAMES, default)
    return [(i, row["topic"], row["question"]) for i, row in read_questions(source)]


def test_a_folder_gives_the_split_of_its_setting_or_the_one_named(repository):
    both = [("0", "Ada", "Who is Ada?"), ("1", "Bo", "Who is Bo?")]
    assert read(repository) == both
    assert read(repository, "test") == both[1:]
    source = Source(SourceConfig(path=repository, split="train[:1]"), NAMES, "test")
    assert [place for place, _ in source.rows()] == [f"{repository} (split train[:1]) row 1"]


def test_a_missing_split_and_a_missing_column_name_those_there_are(repository):
    with pytest.raises(UserError, match=r"data\.train: .*Should be one of \['train', 'test'\]"):
        read(repository, split="dev")
    source = Source(repository, ColumnsConfig(question="prompt", topic="subject"))
    with pytest.raises(UserError, match="has no column 'subject'; it has: prompt, entity, index"):
        list(source.rows())


def test_what_save_to_disk_wrote(tmp_path):
    data = datasets.Dataset.from_list(ROWS)
    data.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=data, test=data.select([0])).save_to_disk(tmp_path / "several")
    assert read(str(tmp_path / "one")) == read(str(tmp_path / "several"))
    assert len(read(str(tmp_path / "several"), "train", split="test")) == 1
    with pytest.raises(UserError, match="no split 'dev'; there are: train, test"):
        read(str(tmp_path / "several"), split="dev")
    with pytest.raises(UserError, match="has no splits: remove split"):
        list(Source(SourceConfig(path=str(tmp_path / "one"), split="train"), NAMES).rows())
    with pytest.raises(UserError, match="revision is of a data set on the hub"):
        list(Source(SourceConfig(path=str(tmp_path / "one"), revision="main"), NAMES).rows())


def test_a_digest_follows_what_is_read(tmp_path):
    def digest(name, rows, columns=NAMES):
        datasets.Dataset.from_list(rows).save_to_disk(tmp_path / name)
        return Source(str(tmp_path / name), columns).digest()

    first = digest("a", ROWS)
    assert digest("b", ROWS) == first
    assert digest("c", [{**row, "unread": 1} for row in ROWS]) == first
    assert digest("d", ROWS[::-1]) != first
    assert digest("e", [ROWS[0], {**ROWS[1], "entity": "Cy"}]) != first


def test_every_setting_reaches_the_library(monkeypatch):
    asked = []

    def load_dataset(path, name=None, *, split=None, revision=None):
        asked.append((path, name, split, revision))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    read("owner/name")
    read("owner/name", "test", name="small", revision="v1")
    read("owner/name", "test", split="dev")
    assert asked == [
        ("owner/name", None, "train", None),
        ("owner/name", "small", "test", "v1"),
        ("owner/name", None, "dev", None),
    ]


def test_a_data_set_that_the_hub_does_not_give():
    with pytest.raises(UserError, match=r"owner/none \(split train\): .*no such file or folder"):
        read("owner/none")


def test_without_the_library_the_extra_is_named(monkeypatch, repository):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'maskdpo-ray\[datasets\]'"):
        read(repository)
