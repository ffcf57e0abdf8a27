"""Replies outlive those who asked for them."""

import asyncio

import pytest
from labelled_facts import People
from test_examiner import questions

from maskdpo_ray.engine.chat_model import Reply
from maskdpo_ray.engine.refusal import RequestRefused
from maskdpo_ray.errors import UserError
from maskdpo_ray.evaluation.factscore import replies as module
from maskdpo_ray.evaluation.factscore.replies import Remembering, Replies
from maskdpo_ray.storage import Folder


@pytest.fixture(params=["local", "s3"])
def folder(request, tmp_path) -> Folder:
    place = tmp_path if request.param == "local" else request.getfixturevalue("bucket")
    return Folder(place) / "scratch"


class Echo:
    """Says what it was asked; the first replies, if any are given, are others."""

    def __init__(self, *first: Reply | Exception) -> None:
        self.first = list(first)
        self.asked: list[str] = []

    async def reply(self, messages, choices=None):
        said = messages[-1]["content"]
        self.asked.append(said)
        first = self.first.pop(0) if self.first else Reply(f"{said}: {choices}", True)
        if isinstance(first, Exception):
            raise first
        return first


def ask(model: Remembering, *texts: str, choices=None) -> list[Reply]:
    async def all_at_once():
        asked = ([{"role": "user", "content": text}] for text in texts)
        return await asyncio.gather(*(model.reply(each, choices) for each in asked))

    return asyncio.run(all_at_once())


def test_what_one_was_told_another_knows(folder):
    first, second = Echo(Reply("她说\u2028\ud800", True), Reply("cut", False)), Echo()
    told = ask(Remembering(first, "writer", Replies(folder)), "a", "b", "c")
    assert told == [Reply("她说\u2028\ud800", True), Reply("cut", False), Reply("c: None", True)]
    assert ask(Remembering(second, "writer", Replies(folder)), "c", "a", "b") == [
        told[2], *told[:2]
    ]  # fmt: skip
    assert second.asked == []


def test_another_model_or_other_choices_are_another_question(folder):
    ask(Remembering(Echo(), "writer", Replies(folder)), "a")
    again = Echo()
    ask(Remembering(again, "verifier", Replies(folder)), "a")
    ask(Remembering(again, "writer", Replies(folder)), "a", choices=["True", "False"])
    ask(Remembering(again, "writer", Replies(folder)), "a ")
    assert again.asked == ["a", "a", "a "]


def test_replies_of_all_actors_are_read_and_full_files_are_left_alone(folder, monkeypatch):
    monkeypatch.setattr(module, "FILE", 2)
    one, other = (Remembering(Echo(), "writer", Replies(folder)) for _ in range(2))
    for text in "abcde":
        ask(one, text)
    ask(other, "f", "g", "h")
    assert len(folder.names()) == 4
    again = Echo()
    ask(Remembering(again, "writer", Replies(folder)), *"abcdefgh")
    assert again.asked == []


def test_replies_that_come_together_share_a_write(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(Folder, "write", lambda self, name, content: written.append(content))
    ask(Remembering(Echo(), "writer", Replies(Folder(tmp_path))), *"abcdefgh")
    assert [content.count(b"\n") for content in written] == [8]


def test_a_refusal_is_not_remembered(tmp_path):
    model = Remembering(Echo(RequestRefused("too long")), "writer", Replies(Folder(tmp_path)))
    with pytest.raises(RequestRefused, match="too long"):
        ask(model, "a")
    again = Echo()
    assert ask(Remembering(again, "writer", Replies(Folder(tmp_path))), "a")[0].complete
    assert again.asked == ["a"]


def test_half_a_line_is_asked_again_and_foreign_files_are_let_alone(tmp_path):
    ask(Remembering(Echo(), "writer", Replies(Folder(tmp_path))), "a", "b")
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-20])
    (tmp_path / f".{file.name}.1234.tmp").write_text("half a file")
    again = Echo()
    ask(Remembering(again, "writer", Replies(Folder(tmp_path))), "a", "b")
    assert again.asked == ["b"]


def test_a_folder_that_cannot_be_used_is_named(tmp_path):
    place = tmp_path / "file"
    model = Remembering(Echo(), "writer", Replies(Folder(place)))
    place.touch()
    with pytest.raises(UserError, match="cannot use .*/file: "):
        ask(model, "a")
    with pytest.raises(UserError, match="cannot use .*/file: "):
        Replies(Folder(place))


class Stopping(People):
    """Gives so many replies and no more."""

    def __init__(self, rows, model, most: int) -> None:
        super().__init__(rows, model)
        self.most = most

    async def reply(self, messages, choices=None):
        if len(self.asked) == self.most:
            await asyncio.Event().wait()
        return await super().reply(messages, choices)


def test_a_block_that_was_broken_off_asks_for_what_it_was_not_told(biographies, examiner, tmp_path):
    block = questions(biographies[:3], "ChatGPT")

    def examined(people: People):
        model = Remembering(people, "writer", Replies(Folder(tmp_path)))
        return examiner("ChatGPT", model)(block)

    async def broken_off(people: Stopping) -> None:
        work = asyncio.ensure_future(examined(people))
        while sum(file.read_bytes().count(b"\n") for file in tmp_path.glob("[!.]*")) < people.most:
            await asyncio.sleep(0.01)
        assert not work.done()  # and ends with the loop

    undisturbed = People(biographies, "ChatGPT")
    rows = asyncio.run(examiner("ChatGPT", undisturbed)(block))
    sentences = sum("Statement: " not in asked for asked in undisturbed.asked)
    first = Stopping(biographies, "ChatGPT", sentences + 5)  # some facts are verified, others not
    asyncio.run(asyncio.wait_for(broken_off(first), 60))
    second = People(biographies, "ChatGPT")
    assert asyncio.run(examined(second)) == rows
    assert len(first.asked) == sentences + 5
    assert sorted(first.asked + second.asked) == sorted(undisturbed.asked)
