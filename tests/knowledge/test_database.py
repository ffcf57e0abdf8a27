import bz2
import gzip
import json
import os
import signal
import sqlite3

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mwparserfromhell.parser import ParserError

from maskdpo_ray.errors import UserError
from maskdpo_ray.knowledge import wikipedia
from maskdpo_ray.knowledge.database import (
    Knowledge,
    build_knowledge,
    knowledge_identity,
)
from maskdpo_ray.knowledge.wikipedia import plain_text

PAGE = """<page><title>{title}</title><ns>{ns}</ns><id>1</id>{redirect}
<revision><id>9</id><contributor><username>title</username><id>3</id></contributor>
<model>wikitext</model><text bytes="1" xml:space="preserve">{text}</text></revision></page>"""
ARTICLE = """{{Infobox person|name=Ada Quill|birth_date={{birth date|1901|2|3}}}}
[[File:Ada.jpg|thumb|Ada in [[Selby]] in 1930]]
'''Ada Quill''' ({{IPA|x}}; born 3 February 1901) was a [[judge (law)|judge]] in
[[Ashcombe]].&lt;ref name="a"&gt;{{cite web|title=Ada}}&lt;/ref&gt; She won the ''Larch Prize''.

== Career ==
{| class="wikitable"
! Year !! Court
|-
| 1930 || Selby
|}
* Judge of [http://court.example the High Court]&lt;ref&gt;A note&lt;/ref&gt;

[[Category:Judges]]
[[de:Ada Quill]]
__NOTOC__"""


def lines(path, *pages):
    path.write_text("".join(json.dumps(page) + "\n" for page in pages))
    return path


def page(title, text, ns=0, redirect=""):
    return PAGE.format(title=title, text=text, ns=ns, redirect=redirect)


def dump(*pages) -> bytes:
    head = '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/" xml:lang="en">'
    return f"{head}<siteinfo><sitename>W</sitename></siteinfo>{''.join(pages)}</mediawiki>".encode()


def test_pages_come_back_by_title(tmp_path):
    source = lines(
        tmp_path / "pages.jsonl",
        {"title": "Jose\u0301", "text": "José is a judge."},
        {"title": "Focus (band)", "text": "A band.", "id": 7},
        {"title": "Nobody", "text": " \n"},
    )
    counts = build_knowledge(tmp_path / "k.db", [source])
    assert counts == {"pages": 2, "empty": 1}
    knowledge = Knowledge(tmp_path / "k.db")
    assert knowledge.page("Jos\u00e9") == knowledge.page(" Jose\u0301 ") == "José is a judge."
    assert knowledge.page("focus (band)") == "A band."
    assert knowledge.page("Focus") is knowledge.page("Nobody") is knowledge.page("") is None
    assert sorted(file.name for file in tmp_path.iterdir()) == ["k.db", "pages.jsonl"]


def test_it_is_opened_to_be_read_alone(tmp_path):
    build_knowledge(tmp_path / "k.db", [lines(tmp_path / "p.jsonl", {"title": "A", "text": "a"})])
    knowledge = Knowledge(tmp_path / "k.db")
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        knowledge._database.execute("DELETE FROM documents")


def test_a_dump_becomes_running_text(tmp_path):
    content = dump(
        page("Ada Quill", ARTICLE),
        page("A. Quill", "#REDIRECT [[Ada Quill]]", redirect='<redirect title="Ada Quill" />'),
        page("Talk:Ada Quill", "Hello", ns=1),
        page("Ashcombe", "'''Ashcombe''' is a town."),
        page("Stub", "{{stub}}"),
    )
    (tmp_path / "w.xml.bz2").write_bytes(bz2.compress(content))
    (tmp_path / "w2.xml-p6p7").write_bytes(dump(page("Selby", "A [[town]].")))
    counts = build_knowledge(tmp_path / "k.db", [tmp_path / "w.xml.bz2", tmp_path / "w2.xml-p6p7"])
    assert counts == {"pages": 3, "redirects": 1, "other_namespaces": 1, "empty": 1}
    knowledge = Knowledge(tmp_path / "k.db")
    text = knowledge.page("Ada Quill")
    assert text.startswith("Ada Quill (born 3 February 1901) was a judge in\nAshcombe. She won")
    assert "the Larch Prize." in text and "Judge of the High Court" in text
    for gone in ("Infobox", "thumb", "cite", "Court\n|", "Category", "de:", "NOTOC", "[[", "{{"):
        assert gone not in text
    assert knowledge.page("A. Quill") is None
    assert knowledge.page("Selby") == "A town."


def test_markup_inside_markup_is_taken_off_once():
    text = (
        "{| \n| [[File:A.jpg|thumb|[[Selby]]<ref>x</ref>]] <ref>y</ref>\n|}\nShe lived ([[a]]) ()."
    )
    assert plain_text(text) == "She lived (a)."
    assert plain_text("[[Category]] [[Star Wars: A New Hope]]") == "Category Star Wars: A New Hope"


@pytest.mark.parametrize("failure", [ParserError("a bug"), RecursionError("too deep")])
def test_a_page_on_which_the_parser_fails_is_none(monkeypatch, failure):
    def parse(_):
        raise failure

    monkeypatch.setattr("mwparserfromhell.parse", parse)
    assert plain_text("She is a [[judge]].") is None


def test_a_lone_surrogate_is_replaced():
    assert plain_text("It is &#xD800; and &#233;.") == "It is \ufffd and é."


def fails_on_odd_pages(wikitext):
    return None if "odd" in wikitext else wikitext


def test_a_page_that_cannot_be_read_is_counted_and_the_others_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(wikipedia, "plain_text", fails_on_odd_pages)
    pages = [page(f"P{n}", "odd" if n == 60 else f"Text {n}.") for n in range(120)]
    (tmp_path / "w.xml").write_bytes(dump(*pages))
    counts = build_knowledge(tmp_path / "k.db", [tmp_path / "w.xml"])
    assert counts == {"pages": 119, "unreadable": 1}
    knowledge = Knowledge(tmp_path / "k.db")
    assert knowledge.page("P60") is None
    assert knowledge.page("P61") == "Text 61."


def is_killed(_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_is_told_with_its_pages(tmp_path, monkeypatch):
    monkeypatch.setattr(wikipedia, "plain_text", is_killed)
    (tmp_path / "w.xml").write_bytes(dump(page("Ada", "a"), page("Ben", "b")))
    with pytest.raises(UserError, match="w.xml: a process .* from page 'Ada' to 'Ben'.*memory"):
        build_knowledge(tmp_path / "k.db", [tmp_path / "w.xml"])
    assert [file.name for file in tmp_path.iterdir()] == ["w.xml"]


def test_pages_of_parquet_and_of_packed_lines_are_the_same(tmp_path):
    rows = [{"title": "A", "text": "a", "url": "x"}, {"title": "B", "text": "b", "url": "y"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    (tmp_path / "p.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    for name in ("p.parquet", "p.jsonl.gz"):
        assert build_knowledge(tmp_path / f"{name}.db", [tmp_path / name]) == {"pages": 2}
    assert knowledge_identity(tmp_path / "p.parquet.db") == knowledge_identity(
        tmp_path / "p.jsonl.gz.db"
    )
    assert Knowledge(tmp_path / "p.parquet.db").page("B") == "b"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"title": "A", "text": "a"}\n{"title": "A"}\n', "line 2: 'text' is missing"),
        ('{"title": "A", "text": "a"}\nno\n', "line 2 is not JSON"),
        ("[1]\n", "line 1 must be a JSON object, not list"),
        ('{"title": " ", "text": "a"}\n', "line 1: the title is empty"),
        ('{"title": "A", "text": "\\ud800"}\n', "line 1: 'text' holds a lone surrogate"),
        ('{"title": "A", "text": "a"}\n{"title": "A", "text": "b"}\n', "'A' stands twice"),
        ('{"title": "A", "text": ""}\n', "no page for .*: 1 empty"),
        ("\n", "no page for .*: the sources are empty"),
    ],
)
def test_bad_lines_are_named_and_nothing_is_left(tmp_path, content, reason):
    (tmp_path / "p.jsonl").write_text(content)
    with pytest.raises(UserError, match=reason):
        build_knowledge(tmp_path / "k.db", [tmp_path / "p.jsonl"])
    assert [file.name for file in tmp_path.iterdir()] == ["p.jsonl"]


def test_a_damaged_dump_is_named_and_nothing_is_left(tmp_path):
    whole = bz2.compress(dump(*(page(f"P{n}", f"Text {n}.") for n in range(50))))
    for name, content in [
        ("cut.xml.bz2", whole[: len(whole) // 2]),
        ("no.xml.bz2", b"hello"),
        ("cut.xml", bz2.decompress(whole)[:-20]),
        ("empty.xml", b""),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name} is damaged or no Wikipedia dump"):
            build_knowledge(tmp_path / "k.db", [tmp_path / name])
    assert not list(tmp_path.glob("k.db*"))


def test_what_is_no_source_is_refused_before_anything_is_written(tmp_path):
    good = lines(tmp_path / "p.jsonl", {"title": "A", "text": "a"})
    (tmp_path / "p.txt").write_text("a")
    with pytest.raises(UserError, match="p.txt: pages come from .jsonl"):
        build_knowledge(tmp_path / "k.db", [good, tmp_path / "p.txt"])
    with pytest.raises(UserError, match="no file of pages at .*none.jsonl"):
        build_knowledge(tmp_path / "k.db", [tmp_path / "none.jsonl"])
    (tmp_path / "k.db").touch()
    with pytest.raises(UserError, match="k.db exists: remove it"):
        build_knowledge(tmp_path / "k.db", [good])


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    source = lines(tmp_path / "p.jsonl", {"title": "A", "text": "a"})
    with pytest.raises(UserError, match="cannot make .*p.jsonl/k.db: "):
        build_knowledge(source / "k.db", [source])


def test_what_is_no_database_is_refused(tmp_path):
    with pytest.raises(UserError, match="no knowledge database at .*: make one with maskdpo"):
        Knowledge(tmp_path / "none.db")
    (tmp_path / "text.db").write_text("hello, this is text and no database at all" * 20)
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("CREATE TABLE pages (name)")
    for name in ("text.db", "other.db"):
        with pytest.raises(UserError, match=f"{name} is no knowledge database"):
            Knowledge(tmp_path / name)


def test_an_identity_follows_the_content(tmp_path):
    names = []
    for number, text in enumerate(["a", "a", "b"]):
        source = lines(tmp_path / f"{number}.jsonl", {"title": "A", "text": text})
        build_knowledge(tmp_path / f"{number}.db", [source])
        names.append(knowledge_identity(str(tmp_path / f"{number}.db")))
    assert names[0] == names[1] != names[2]
    with sqlite3.connect(tmp_path / "made-elsewhere.db") as other:
        other.execute("CREATE TABLE documents (title PRIMARY KEY, text)")
    assert knowledge_identity(str(tmp_path / "made-elsewhere.db")).startswith("sha256:")
