"""Pages found by their words, and sentences held against the passages that are found."""

import asyncio
import json
import sqlite3
from contextlib import closing

import pytest

from maskdpo_ray.annotation import Annotator
from maskdpo_ray.annotation.annotate import Annotate
from maskdpo_ray.config import AnnotationConfig, build_config
from maskdpo_ray.errors import UserError
from maskdpo_ray.knowledge.database import Knowledge, build_knowledge
from maskdpo_ray.knowledge.finder import Finder
from maskdpo_ray.knowledge.retrieval import Bm25Index
from maskdpo_ray.stages.annotating import verdicts_depend_on

PAGES = {
    "Ada Quill": "Ada Quill was born in Selby. She was a judge of the High Court.",
    "Bob Reed": "Bob Reed was born in Ashcombe. He was a baker, the best of Selby.",
    "鲁迅": "鲁迅是中国作家。他生于绍兴。",
    "The": "The the the, and of the and.",
}


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("pages")
    rows = "".join(json.dumps({"title": t, "text": x}) + "\n" for t, x in PAGES.items())
    (folder / "pages.jsonl").write_text(rows)
    build_knowledge(folder / "pages.db", [folder / "pages.jsonl"])
    return str(folder / "pages.db")


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("a judge of a court", "Ada Quill"),
        ("the baker of ASHCOMBE", "Bob Reed"),
        ("谁生于绍兴？", "鲁迅"),
        ("born in Selby", "Ada Quill"),
    ],
)
def test_the_closest_page_comes_first(database, query, first):
    found = Knowledge(database).search(query, 3)
    assert found[0] == (first, PAGES[first])


@pytest.mark.parametrize("query", ["", "...", "zebra quagga", '") OR 1=1 --', "\ud800"])
def test_words_that_stand_nowhere_find_nothing(database, query):
    assert Knowledge(database).search(query, 3) == []


def test_a_database_that_cannot_be_searched_becomes_one_that_can(database, tmp_path):
    """The one that FActScore published has the pages alone."""
    with closing(sqlite3.connect(tmp_path / "published.db")) as made, made:
        made.execute("CREATE TABLE documents (title PRIMARY KEY, text)")
        made.executemany("INSERT INTO documents VALUES (?, ?)", PAGES.items())
    published = Knowledge(tmp_path / "published.db")
    assert not published.searchable and published.page("Bob Reed")
    counts = build_knowledge(tmp_path / "new.db", [tmp_path / "published.db"])
    assert counts == {"pages": 4}
    new = Knowledge(tmp_path / "new.db")
    assert new.searchable and new.search("baker", 1) == Knowledge(database).search("baker", 1)
    assert Finder(published, Bm25Index, 2).knowledge is published
    found = asyncio.run(Finder(published, Bm25Index, 2).passages("Nobody", "a baker", "en"))
    assert found.texts == []


def test_passages_of_the_topic_or_of_all_pages(database):
    finder = Finder(Knowledge(database), Bm25Index, 1)

    def passages(topic, text):
        return asyncio.run(finder.passages(topic, text, "en")).texts

    assert passages("Ada Quill", "She was a baker.") == [PAGES["Ada Quill"]]
    assert passages("Who baked?", "He was a baker.") == [PAGES["Bob Reed"]]
    assert passages("Nobody", "Quagga!") == []


class Shown(Annotator):
    """Says what it was shown."""

    needs = {"document"}
    failures = ()

    def __init__(self) -> None:
        self.shown: dict[str, str] = {}

    async def verdict(self, question, sentence):
        self.shown[sentence] = question["document"]
        return "ok"


def row(topic: str, response: str) -> dict:
    candidate = {"response": response, "token_ids": [1], "decoding": "sampled", "sentences": []}
    question = {"id": "q", "topic": topic, "question": "?", "document": None, "language": "en"}
    return {**question, "candidates": [candidate]}


def test_each_sentence_is_held_against_what_was_found_for_it(database):
    annotator = Shown()
    annotate = Annotate(annotator, finder=Finder(Knowledge(database), Bm25Index, 1))
    text = "She was a judge. He was a baker. Quagga zebra."
    [out] = asyncio.run(annotate([row("nobody", text)]))
    assert annotator.shown == {
        "She was a judge.": PAGES["Ada Quill"],
        "He was a baker.": PAGES["Bob Reed"],
    }
    said = [sentence["verdict"] for sentence in out["candidates"][0]["sentences"]]
    assert said == ["ok", "ok", "unverifiable"]
    assert "nothing found" in out["candidates"][0]["sentences"][2]["detail"]
    assert out["document"] is None, "the row stays what it was"


JUDGE = {"annotator": "judge", "model": "m"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({**JUDGE, "passages": 3}, "passages is of knowledge: give that too"),
        ({**JUDGE, "knowledge": "p.db", "templates": "closed_book"}, "shows no passages"),
        ({**JUDGE, "knowledge": "p.db", "retrieval": "dense"}, "dense needs embedding"),
        ({**JUDGE, "knowledge": "p.db", "embedding": "e"}, "bm25 uses no embedding"),
        ({"annotator": "labels", "knowledge": "p.db"}, "'labels' reads no pages"),
    ],
)
def test_settings_that_cannot_be(settings, words):
    tree = {"run_dir": "x", "model": {"path": "m"}, "data": {"train": "q"}, "annotation": settings}
    with pytest.raises(UserError) as caught:
        build_config(tree)
    assert words in str(caught.value)


def test_verdicts_depend_on_the_pages_and_not_on_where_they_lie(database, tmp_path):
    (tmp_path / "moved.db").write_bytes(open(database, "rb").read())
    build_knowledge(tmp_path / "other.db", [database, _one_more(tmp_path)])

    def settings(path, **more):
        endpoint = {"base_url": "http://host/v1", "model": "m", "constrain": "vllm"}
        given = {"annotator": "judge", "endpoint": endpoint, "knowledge": str(path), **more}
        return verdicts_depend_on(AnnotationConfig.of(**given), "annotation")

    assert settings(database) == settings(tmp_path / "moved.db")
    assert settings(database) != settings(tmp_path / "other.db")
    assert settings(database) != settings(database, passages=2)
    assert (
        AnnotationConfig.of(**JUDGE, knowledge="p").kind.needs_document(
            AnnotationConfig.of(**JUDGE, knowledge="p"), "en"
        )
        is False
    )


def _one_more(folder) -> str:
    (folder / "more.jsonl").write_text('{"title": "Cy", "text": "Cy sang."}')
    return str(folder / "more.jsonl")
