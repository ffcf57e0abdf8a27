import json
import time
from pathlib import Path

import pytest

from maskdpo_ray.evaluation.abstention import abstains


@pytest.fixture(scope="module")
def written() -> list[dict]:
    """Answers that we wrote, labelled."""
    path = Path(__file__).with_name("abstentions.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_people_and_the_rule_agree_on_who_answered(biographies):
    """The five it misses tell facts in their first sentence, three of them nothing else."""
    answers = [answer for row in biographies for answer in row["candidates"]]
    by_rule = [abstains(answer["response"], "en") for answer in answers]
    by_people = [answer["abstained"] for answer in answers]
    both = list(zip(by_rule, by_people, strict=True))
    assert (len(answers), sum(by_people)) == (549, 44)
    assert both.count((True, True)) == 39
    assert both.count((True, False)) == 0


def test_of_the_summaries_only_those_abstain_that_the_document_says_nothing_for(tofueval):
    answers = [answer["response"] for row in tofueval for answer in row["candidates"]]
    assert len(answers) > 1700
    found = [answer for answer in answers if abstains(answer, "en")]
    assert len(found) == 3
    assert all(answer.startswith("The provided document does not ") for answer in found)


def test_the_rule_agrees_with_498_answers_of_our_own(written):
    by_rule = [abstains(each["answer"], each["language"]) for each in written]
    both = list(zip(by_rule, (each["abstains"] for each in written), strict=True))
    assert len(written) == 498
    counts = {pair: both.count(pair) for pair in set(both)}
    # docs/evaluation.md tells them.
    assert counts == {(True, True): 305, (True, False): 3, (False, True): 1, (False, False): 189}


def test_apostrophes_and_scripts_make_no_difference(written):
    for each in written:
        found = abstains(each["answer"], each["language"])
        for one, other in (("'", "’"), ("’", "'"), ("无", "無"), ("没", "沒")):
            assert abstains(each["answer"].replace(one, other), each["language"]) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n",
        "I'm sorry, but I could not find anybody of that name.",
        "I don’t have any information about Ada Quill.",
        "As an AI language model, I cannot browse the web.",
        "Unfortunately, there is no reliable information about her.",
        "I am not familiar with Ada Quill. She may be a private person.",
        "I'm unable to provide that.",
        "I'm glad you asked! Sadly, I have no information about her.",
    ],
)
def test_english_wordings(text):
    assert abstains(text, "en")


@pytest.mark.parametrize(
    "text",
    [
        "Ada Quill is a judge. I could not find her date of birth.",
        "There is a museum of information technology in Ashcombe.",
        "Ada Quill could not find work and moved to Selby.",
        "The Sorry Business is an album by Ada Quill.",
        "I Don't Know How She Does It is a 2011 film.",
        "Sorry to Bother You is a 2018 film.",
        "I'm glad you asked! Ada Quill is a judge.",
        "I'm not sure, but I think that she is a judge.",
    ],
)
def test_answers_in_english(text):
    assert not abstains(text, "en")


@pytest.mark.parametrize(
    "text",
    [
        "很抱歉，我无法找到关于林婉清的信息。",
        "我目前没有找到相关资料。",
        "作为一个人工智能语言模型，我无法提供个人信息。",
        "目前没有关于此人的信息。",
        "I'm sorry, I don't know this person.",
    ],
)
def test_chinese_wordings(text):
    assert abstains(text, "zh")


@pytest.mark.parametrize(
    "text",
    [
        "林婉清是大提琴演奏家。我无法找到她的生日。",
        "无锡人林婉清是信息学家。",
        "她没有上过大学，自学成才，后来创办了信息公司。",
    ],
)
def test_answers_in_chinese(text):
    assert not abstains(text, "zh")


@pytest.mark.parametrize("word", ["我", "really ", "no ", "there is a ", "我对", "the document "])
def test_the_same_word_again_and_again_is_read_in_no_time(word):
    begun = time.perf_counter()
    assert not abstains(word * 20_000, "en")
    assert time.perf_counter() - begun < 5


def test_another_language_is_an_error():
    with pytest.raises(ValueError, match="no rule of abstention for 'fr'"):
        abstains("Je ne sais pas.", "fr")
