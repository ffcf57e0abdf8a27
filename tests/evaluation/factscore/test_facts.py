import asyncio
import json

import pytest

from maskdpo_ray.engine.chat_model import Reply
from maskdpo_ray.engine.refusal import RequestRefused
from maskdpo_ray.errors import UserError
from maskdpo_ray.evaluation.factscore.facts import (
    FactWriter,
    checked,
    figures,
    is_truncated,
    listed_facts,
)
from maskdpo_ray.evaluation.factscore.wording import read_wording

SENTENCE = "Ada Quill was born in Selby on 3 May 1901 and judged 2,475 cases in thirty-five years."


class Scripted:
    """A chat model that says one thing, and keeps what it was asked."""

    def __init__(self, *replies: str | Exception, complete: bool = True) -> None:
        self.replies = list(replies)
        self.complete = complete
        self.asked: list[list[dict]] = []

    async def reply(self, messages, choices=None):
        self.asked.append(messages)
        said = self.replies.pop(0)
        if isinstance(said, Exception):
            raise said
        return Reply(said, self.complete)


def facts_of(*replies, sentence=SENTENCE, complete=True):
    writer = FactWriter(Scripted(*replies, complete=complete), read_wording(), 2)
    return asyncio.run(writer.facts(sentence, "en"))


def test_a_list_becomes_facts_and_what_was_dropped_is_told():
    found = facts_of(
        "Here are the facts:\n- Ada Quill was born in Selby.\n- Ada Quill was born in\n"
        "- Ada Quill was born in Selby.\n- Ada Quill was born in 1902.\n- She judged 2475 cases."
    )
    assert found.facts == ["Ada Quill was born in Selby.", "She judged 2475 cases."]
    assert not found.error
    assert json.loads(found.detail)["dropped"] == {
        "Ada Quill was born in": "truncated",
        "Ada Quill was born in 1902.": "not in the sentence: 1902",
    }


@pytest.mark.parametrize("reply", ["None", "none.", " - None", "None\n"])
def test_a_sentence_that_states_nothing(reply):
    found = facts_of(reply)
    assert (found.facts, found.error) == ([], False)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", "no list of facts"),
        ("I cannot help with that.", "no list of facts"),
        ("None of it is true.", "no list of facts"),
        (RequestRefused("too long"), "too long"),
    ],
)
def test_a_reply_that_is_no_list_is_an_error_and_not_a_sentence_without_facts(reply, reason):
    found = facts_of(reply)
    assert (found.facts, found.error) == ([], True)
    assert json.loads(found.detail)["reason"] == reason


def test_a_reply_that_was_cut_is_an_error():
    found = facts_of("- Ada Quill was born in Selby.\n- Ada Qui", complete=False)
    assert (found.facts, found.error) == ([], True)
    assert "max_tokens" in json.loads(found.detail)["reason"]


@pytest.mark.parametrize(
    ("reply", "items"),
    [
        ("- a b\n- c", ["a b", "c"]),
        ("1. a\n2) b\n* c\n• d", ["a", "b", "c", "d"]),
        ("-a\n-\n- \n", None),
        ("1901 was a year", None),
        ("- None\n- a", ["None", "a"]),
        ("- 她生于1901年。", ["她生于1901年。"]),
        ("1、她生于1901年。\n2、1930年她是法官。", ["她生于1901年。", "1930年她是法官。"]),
        ("（1）她是法官。\n (2)她得过奖。\n3）她去世了", ["她是法官。", "她得过奖。", "她去世了"]),
        ("1.她是法官。\n2．《法典》是她写的。", ["她是法官。", "《法典》是她写的。"]),
        ("1.1901年她出生。\n2. 1.5米高。", ["1901年她出生。", "1.5米高。"]),
        ("1、无", ["无"]),
        ("1.5 million people read it.", None),
        ("1.5米高。", None),
        ("１．５米高。", None),
        ("- a\n1.75 m is tall", ["a"]),
        ("1.\n2、\n（3）", None),
        ("12...", None),
        ("1901、1902年她是法官。", None),
    ],
)
def test_lists(reply, items):
    assert listed_facts(reply, "None") == items


def test_a_chinese_list_that_says_nothing_states_nothing():
    nothing = read_wording().languages["zh"]["nothing"]
    for reply in (nothing, f"1、{nothing}。", f"（1）{nothing}"):
        assert listed_facts(reply, nothing) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SENTENCE, {"3", "may", "1901", "2475", "35"}),
        ("It may rain on Mayflower.", set()),
        ("born Sept. 5", {"september", "5"}),
        ("from 2005–09, 17th of two", {"2005", "09", "2009", "17", "2"}),
        ("a two-episode stint, 1.75m", {"2", "1.75"}),
        ("她生于1901年2月3日", {"1901", "2", "3"}),
        ("one of them", set()),
        ("twenty-one", {"21"}),
    ],
)
def test_figures(text, expected):
    assert figures(text) == expected


@pytest.mark.parametrize(
    ("sentence", "fact"),
    [
        ("Chagall painted it.", "Marc Chagall painted it."),
        ("The actress sang.", "June Carter sang."),
        ("De Bont directed Speed in 1994.", "Jan de Bont directed Speed in 1994."),
        ("Prime minister from 2016, she resigned.", "May resigned."),
        ("Wilson wrote it.", "August Wilson wrote it."),
        ("She married in 1949.", "In 1949 April Jones married."),
        ("He led it.", "He led the March."),
    ],
)
def test_names_are_no_months(sentence, fact):
    assert checked([fact], sentence) == ([fact], {})


@pytest.mark.parametrize(
    "date",
    [
        "March 5",
        "5 March",
        "5th of March",
        "March 1949",
        "March, 1949",
        "March of 1949",
        "Mar. 5th",
    ],
)
def test_a_month_beside_a_day_or_a_year_must_stand_in_the_sentence(date):
    fact = f"He died on {date}."
    sentence = "He died on 5 June 1949."
    assert checked([fact], sentence)[1] == {fact: "not in the sentence: march"}
    for known in ("He died on 5 March 1949.", "Ill since mid-March, he died on 5 May 1949."):
        assert checked([fact], known) == ([fact], {})


def test_a_month_that_is_nobodys_name_needs_no_number():
    fact = "He died in December."
    assert checked([fact], "He died in 1949.")[1] == {fact: "not in the sentence: december"}
    assert checked([fact], "He died in Dec. 1949.") == ([fact], {})


def test_broken_off_facts_go_and_short_ones_stay():
    facts = ["He was born in.", "He was born in Selby.", "He has a son.", "He has a son with Ann."]
    assert [is_truncated(fact, facts) for fact in facts] == [True, False, False, False]
    assert not is_truncated("He was born in", ["He was born in"])
    assert checked(["He is known.", "He is known for it."], "") == (
        ["He is known for it."],
        {"He is known.": "truncated"},
    )


def test_facts_that_people_wrote_are_kept(biographies):
    """All but 14 of 16,040, repetitions apart; those have numbers that the sentence lacks."""
    written = kept = 0
    dropped = {}
    for row in biographies:
        for answer in row["candidates"]:
            for sentence in answer["sentences"]:
                text = answer["response"][sentence["start"] : sentence["end"]]
                facts = [fact["text"] for fact in sentence["facts"]]
                stays, goes = checked(facts, text)
                written, kept = written + len(set(facts)), kept + len(stays)
                dropped |= goes
    assert written == 16035
    assert written - kept == len(dropped) == 14
    assert all(reason.startswith("not in the sentence") for reason in dropped.values())


def test_the_closest_demonstrations_are_shown():
    model = Scripted("- She scored 9 goals.")
    sentence = "The winger scored 9 goals in 12 matches for Ashcombe between 2001 and 2003."
    asyncio.run(FactWriter(model, read_wording(), 2).facts(sentence, "en"))
    (messages,) = model.asked
    assert [message["role"] for message in messages] == ["user", "assistant"] * 2 + ["user"]
    assert messages[0]["content"].startswith("Take sentences apart")
    assert any("Okafor scored 12 goals" in message["content"] for message in messages)
    assert messages[-1]["content"] == f"Sentence: {sentence}"
    assert all("Take sentences" not in message["content"] for message in messages[1:])


def test_without_demonstrations_the_instruction_is_all():
    (message,) = FactWriter(Scripted(), read_wording(), 0).messages("她生于1901年。", "zh")
    assert message["content"].startswith("请把句子拆成事实")
    assert message["content"].endswith("句子：她生于1901年。")


def test_our_demonstrations_obey_our_own_rules():
    for language, wording in read_wording().languages.items():
        for shown in wording["demonstrations"]:
            facts = shown["facts"]
            assert checked(facts, shown["sentence"]) == (facts, {}), shown["sentence"]
            listed = "\n".join(f"- {fact}" for fact in facts) or wording["nothing"]
            assert listed_facts(listed, wording["nothing"]) == facts, language


GOOD = """en:
  instruction: List facts.
  sentence: "S: {sentence}"
  nothing: Nothing
  demonstrations: [{sentence: A is a b., facts: [A is a b.]}]
  verification: {prompt: "{passages} {fact}?", supported: "Yes", not_supported: "No"}
"""


def test_a_file_of_the_users_own(tmp_path):
    (tmp_path / "w.yaml").write_text(GOOD)
    wording = read_wording(str(tmp_path / "w.yaml"))
    assert FactWriter(Scripted(), wording, 1).messages("C.", "en") == [
        {"role": "user", "content": "List facts.\n\nS: A is a b."},
        {"role": "assistant", "content": "- A is a b."},
        {"role": "user", "content": "S: C."},
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("nothing: Nothing", "hint: x\n  nothing: N"), "en.hint is read by nothing"),
        (("S: {sentence}", "S"), r"en.sentence lacks \{sentence\}"),
        (("facts: [A is a b.]", "facts: A"), "en.demonstrations, number 1: needs"),
        (("[{sentence", "x #"), "en.demonstrations must list"),
        (("{passages} ", ""), r"en.verification.prompt lacks \{passages\}"),
        (('"No"', "no"), "each needs a word; quote"),
        (('"No"', '"Yes"'), "two share a word"),
        (('supported: "Yes", ', ""), "must hold prompt, supported, not_supported"),
    ],
)
def test_a_wrong_file_is_named_with_the_entry(tmp_path, change, reason):
    (tmp_path / "w.yaml").write_text(GOOD.replace(*change, 1))
    with pytest.raises(UserError, match=reason):
        read_wording(str(tmp_path / "w.yaml"))


def test_a_missing_file_is_named_with_its_key():
    with pytest.raises(UserError, match="evaluation.factscore.templates: no file at /none"):
        read_wording("/none")
