"""The protocol with scripted replies, and once over a real engine."""

import asyncio
import json

import pytest
import yaml

from maskdpo_ray.annotation.annotate import Annotate
from maskdpo_ray.annotation.annotators.anah import AnahAnnotator, read_anah_templates
from maskdpo_ray.engine.chat_model import ChatModel, Reply
from maskdpo_ray.engine.refusal import RequestRefused
from maskdpo_ray.errors import RowRejected, UserError

TEMPLATES = read_anah_templates()
QUESTION = {
    "id": "q0",
    "topic": "Ada",
    "question": "Where was Ada born?",
    "document": "Ada was born in {question} Ashcombe in 1901.",
    "language": "en",
    "candidates": [],
}


class Script:
    """A model that says what it is told to, and remembers what it was asked."""

    def __init__(self, *replies: str | Reply | Exception) -> None:
        self.replies = list(replies)
        self.asked: list[list[dict]] = []

    async def reply(self, messages):
        self.asked.append([dict(message) for message in messages])
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply if isinstance(reply, Reply) else Reply(reply, complete=True)


def judge(model, sentence="She was born in Ashcombe.", **changes):
    annotator = AnahAnnotator(model, TEMPLATES)
    return asyncio.run(annotator.verdict({**QUESTION, **changes}, sentence))


@pytest.mark.parametrize(
    ("replies", "verdict"),
    [
        (["<No Facts>"], "nofact"),
        (["<Facts Present>", "<No Reference Information>"], "unverifiable"),
        (["<Facts Present>", "born in Ashcombe", "<No Hallucination>"], "ok"),
        (["<Facts Present>", "a<SEP>b", "<Contradictory>"], "contradictory"),
        (["<Facts Present>", "a", "<Contradiction>"], "contradictory"),
        (["<Facts Present>", "a", "<Unverifiable>"], "unverifiable"),
        (["facts present.", "a", " no hallucination \n"], "ok"),
    ],
)
def test_turns_end_where_the_verdict_is_known(replies, verdict):
    model = Script(*replies)
    found, detail, _ = judge(model)
    assert found == verdict
    assert json.loads(detail) == {"replies": replies}
    assert len(model.asked) == len(replies) and not model.replies


@pytest.mark.parametrize(
    ("replies", "turn"),
    [
        ([""], 1),
        (["<No Facts> <Facts Present>"], 1),
        (["<Facts Present>", ""], 2),
        (["<Facts Present>", "a", "不矛盾"], 3),
        (["<Facts Present>", "a", "<Contradictory> <Unverifiable>"], 3),
    ],
)
def test_an_unreadable_reply_is_an_error_and_never_a_default(replies, turn):
    verdict, detail, _ = judge(Script(*replies))
    assert verdict == "error"
    assert json.loads(detail)["replies"] == replies
    assert json.loads(detail)["reason"].startswith(f"turn {turn}: ")


def test_a_reply_that_was_cut_is_an_error_even_where_it_can_be_read():
    cut = Reply("Ada was born in", complete=False)
    verdict, detail, _ = judge(Script("<Facts Present>", cut))
    assert verdict == "error"
    assert "raise annotation.max_tokens" in json.loads(detail)["reason"]


def test_a_conversation_that_is_too_long_is_an_error_with_the_reason():
    model = Script("<Facts Present>", RequestRefused("prompt of 9000 tokens, context 4096"))
    verdict, detail, _ = judge(model)
    assert verdict == "error"
    reason = json.loads(detail)["reason"]
    assert reason == "turn 2: prompt of 9000 tokens, context 4096"


def test_one_conversation_grows_over_the_turns():
    model = Script("<Facts Present>", " born in Ashcombe ", "<No Hallucination>")
    judge(model, "She was born in Ashcombe.")
    first, second, third = model.asked
    assert [message["role"] for message in third] == ["user", "assistant"] * 2 + ["user"]
    assert second[:1] == first and third[:3] == second
    assert second[1]["content"] == "<Facts Present>"
    assert third[3]["content"] == " born in Ashcombe "


def test_each_turn_shows_what_the_protocol_says():
    model = Script("<Facts Present>", "THE PASSAGE", "<No Hallucination>")
    judge(model, "THE SENTENCE")
    one, two, three = (messages[-1]["content"] for messages in model.asked)
    for turn in (one, two, three):
        assert QUESTION["question"] in turn and "THE SENTENCE" in turn
    assert QUESTION["document"] in two  # braces in the document stay as they are
    assert QUESTION["document"] not in one + three
    assert "THE PASSAGE" in three and "THE PASSAGE" not in one + two


def test_a_chinese_question_is_asked_in_chinese():
    model = Script("<有事实>", "生于伦敦。", "<矛盾>")
    assert judge(model, "她出生于巴黎。", language="zh")[0] == "contradictory"
    assert "<无事实>" in model.asked[0][0]["content"]
    assert "<无参考信息>" in model.asked[1][-1]["content"]
    assert "<无法验证>" in model.asked[2][-1]["content"]


@pytest.mark.parametrize("document", [None, ""])
def test_a_missing_document_rejects_the_row_before_anything_is_asked(document):
    model = Script()
    with pytest.raises(RowRejected) as caught:
        judge(model, document=document)
    assert caught.value.reason == "document_missing"
    assert "'q0'" in caught.value.detail
    assert model.asked == []


def custom(tmp_path, change) -> str:
    tree = {language: dict(turns) for language, turns in TEMPLATES.languages.items()}
    change(tree)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
    return str(path)


def test_the_wording_can_be_replaced(tmp_path):
    def change(tree):
        tree["en"]["fact_existence"] = "MY WORDS {sentence} / {question}"

    model = Script("<No Facts>")
    annotator = AnahAnnotator(model, read_anah_templates(custom(tmp_path, change)))
    asyncio.run(annotator.verdict(QUESTION, "Hello."))
    assert model.asked[0][0]["content"] == "MY WORDS Hello. / Where was Ada born?"


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("turn", ["fact_existence", "references", "hallucination"])
def test_a_missing_turn_or_placeholder_is_named(tmp_path, language, turn):
    with pytest.raises(UserError, match=rf"mine.yaml: {language}\.{turn} is missing"):
        read_anah_templates(custom(tmp_path, lambda tree: tree[language].pop(turn)))

    def change(tree):
        tree[language][turn] = tree[language][turn].replace("{sentence}", "")

    with pytest.raises(UserError, match=rf"{language}\.{turn} lacks {{sentence}}"):
        read_anah_templates(custom(tmp_path, change))


def test_a_misspelt_placeholder_is_named(tmp_path):
    def change(tree):
        tree["en"]["references"] += "{documnet}"

    with pytest.raises(UserError, match="has {documnet}, which nothing fills in"):
        read_anah_templates(custom(tmp_path, change))


def test_a_language_that_the_file_lacks_rejects_its_rows(tmp_path):
    templates = read_anah_templates(custom(tmp_path, lambda tree: tree.pop("zh")))
    annotator = AnahAnnotator(Script(), templates)
    with pytest.raises(RowRejected) as caught:
        asyncio.run(annotator.verdict({**QUESTION, "language": "zh"}, "她。"))
    assert caught.value.reason == "no_template" and "'zh'" in caught.value.detail


@pytest.mark.parametrize("text", ["", "- a\n- b", "en: just text", "en: [", "a: b: c"])
def test_a_file_that_is_no_template_is_named(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="mine.yaml"):
        read_anah_templates(str(path))
    with pytest.raises(UserError, match="annotation.templates: no file at"):
        read_anah_templates(str(tmp_path / "none.yaml"))


def test_random_replies_of_a_real_model_are_errors_and_lose_no_row(engine):
    annotate = Annotate(
        AnahAnnotator(ChatModel(engine, max_tokens=24), short_templates()), split=by_period
    )
    rows = [
        {**QUESTION, "id": f"q{i}", "candidates": [answer("One here. Two."), answer("Two. One.")]}
        for i in range(4)
    ]
    out = asyncio.run(annotate(rows))
    assert [row["id"] for row in out] == [row["id"] for row in rows]
    sentences = [s for row in out for c in row["candidates"] for s in c["sentences"]]
    assert len(sentences) == 16
    for sentence in sentences:
        detail = json.loads(sentence["detail"])
        assert sentence["verdict"] == "error"
        assert len(detail["replies"]) == 1 and detail["reason"].startswith("turn 1: ")


def test_a_document_beyond_the_context_of_a_real_model_is_an_error(engine):
    class FactsFirst(ChatModel):
        """The real model, but for the first turn, which must say yes."""

        async def reply(self, messages):
            if len(messages) == 1:
                return Reply("<Facts Present>", complete=True)
            return await super().reply(messages)

    annotator = AnahAnnotator(FactsFirst(engine, max_tokens=8), short_templates())
    question = {**QUESTION, "document": "Ada was born in Ashcombe. " * 200}
    verdict, detail, _ = asyncio.run(annotator.verdict(question, "Ada was born."))
    assert verdict == "error"
    assert "maximum model length of 512" in json.loads(detail)["reason"]


def short_templates():
    """Wording that leaves room in the tiny model's context."""
    templates = read_anah_templates()
    templates.languages["en"] = {
        "fact_existence": "{question} {sentence}",
        "references": "{question} {sentence} {document}",
        "hallucination": "{question} {sentence} {references}",
    }
    return templates


def answer(response: str) -> dict:
    return {"response": response, "token_ids": [1], "sentences": []}


def by_period(text: str, language: str) -> list[tuple[int, int]]:
    ends = [i + 1 for i, char in enumerate(text) if char == "."]
    return list(zip([0, *ends[:-1]], ends, strict=True))
