import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskdpo_ray.knowledge.passages import SEPARATOR, cut_passages, words


def spaceless(text: str) -> str:
    return "".join(text.split())


def test_real_pages_are_cut_between_sentences_and_nothing_is_lost(biographies):
    ends = []
    for row in biographies:
        page = "\n".join(answer["response"] for answer in row["candidates"])
        passages = cut_passages(page, "en", 64)
        assert spaceless("".join(passages)) == spaceless(page)
        assert all(len(words(passage)) <= 64 for passage in passages)
        ends += [passage[-1] for passage in passages]
    assert sum(end in '.!?])"”' for end in ends) / len(ends) > 0.95


@given(st.text(alphabet="ab .!?\n好人。，1", max_size=200), st.integers(1, 9))
def test_no_passage_is_too_long_and_nothing_is_lost(page, size):
    for language in ("en", "zh"):
        passages = cut_passages(page, language, size)
        assert spaceless("".join(passages)) == spaceless(page)
        assert all(passage.strip() for passage in passages)
        assert all(len(words(passage)) <= size for passage in passages)


def test_passages_are_as_long_as_they_may_be():
    page = "One two three. " * 10  # four tokens each
    assert [len(words(p)) for p in cut_passages(page, "en", 12)] == [9, 9, 9, 3]
    assert [len(words(p)) for p in cut_passages("word " * 600, "en")] == [256, 256, 88]


def test_a_page_that_was_cut_stays_cut():
    page = f"<s>Ada is a judge.</s><s>She lives.</s>{SEPARATOR}<s>She won a prize.</s>"
    assert cut_passages(page, "en") == ["Ada is a judge. She lives.", "She won a prize."]
    assert cut_passages("<s>Ada is a judge.</s>", "en") == ["Ada is a judge."]


def test_a_page_that_merely_holds_a_mark_is_cut():
    page = "Tags are <s>struck</s> out. " * 5
    passages = cut_passages(page, "en", 20)
    assert len(passages) > 1 and all(len(words(passage)) <= 20 for passage in passages)
    assert spaceless("".join(passages)) == spaceless(page)


def test_an_empty_page_has_no_passage():
    assert cut_passages("", "en") == cut_passages(" \n ", "zh") == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ada's Prize (1901)!", ["ada", "s", "prize", "1901"]),
        ("她生于1901年。", ["她", "生", "于", "1901", "年"]),
        ("Émile Zöe", ["émile", "zöe"]),
        ("...", []),
    ],
)
def test_words(text, expected):
    assert words(text) == expected
