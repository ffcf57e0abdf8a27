import subprocess
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from maskdpo_ray.annotation.sentences import split_sentences


def split(text, language="en"):
    return [text[start:end] for start, end in split_sentences(text, language)]


ANY_TEXT = st.text(
    st.characters()
    | st.characters(categories=["Cs"])
    | st.sampled_from(' \n\t.!?"”)]}*_-1aA[。！？…《》')
)


@settings(max_examples=500)
@given(text=ANY_TEXT, language=st.sampled_from(["en", "zh"]))
@example(text="\ud83d. \udc00 Then.\n\n\ud800", language="en")
@example(text="👩‍👩‍👧. 🎉! 是。\u2028\r\n\r\nX", language="en")
@example(text=" \n\n ", language="zh")
def test_spans_tile_any_text(text, language):
    spans = split_sentences(text, language)
    assert "".join(text[start:end] for start, end in spans) == text
    assert all(start < end for start, end in spans)
    assert [end for _, end in spans[:-1]] == [start for start, _ in spans[1:]]
    for start, end in spans if len(spans) > 1 else []:
        assert any(char.isalnum() for char in text[start:end])
        assert start == 0 or not text[start].isspace()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_texts_without_words(language):
    assert split_sentences("", language) == []
    assert split_sentences(" \n ", language) == [(0, 3)]
    assert split("... !!!\n\n--", language) == ["... !!!\n\n--"]


def test_unknown_language():
    with pytest.raises(ValueError, match="'fr'; known: en, zh"):
        split_sentences("Bonjour.", "fr")


@pytest.mark.parametrize(
    "sentences",
    [
        ["  She wrote.  ", "He read.\t", "They left. "],
        ["Dr. J. R. Smith of St. Louis met Mr. Bean. ", "He left."],
        ["She has a Ph.D. from M.I.T. and a B.A. in law. ", "It helped."],
        ["He moved to the U.S. ", "He worked for Acme Inc. ", "In 1990 he left."],
        ["The U.S. Marines came at 3 p.m. on Jan. 5. ", "They stayed."],
        ["See Vol. 3, No. 5, pp. 10-12. ", "No. ", "I said no. ", "Nobody came."],
        ["He met Malcolm X. ", "The two talked."],
        ["It costs 3.50 dollars, e.g. The Times says so. ", "Prices vary."],
        ["Wait... what? ", "Yes!! ", "Really?! ", "Good."],
        ['"Go!" he said. ', "He cried “stop.” ", "(She stayed.) ", "They cried (loud!) and ran."],
        ["Born in 1950. [1] ", "She died.[2][3] ", "It rained [4]. ", "It poured.[5, 6-8] ", "x"],
        ["R.K. Narayan of N.A.T.O. left the B.B.C. ", "The end."],
        ["It rained.[1](http://a.b/c.d) ", "It poured."],
        ["**Early life.** ", "She was born. ", "*It was cold.* ", "So?"],
        ["No full stop here\n\n", "Nor here\n \n", "End"],
        ["Awards:\n", "- one prize. ", "It was big.\n", "- another\n", "After the list."],
        ["1. Ada was born.\n", "2. Bob, Jr. died.\n", "10) Eve left"],
        ["# Life of Ada\n", "She was\nborn there. ", "It was 1815."],
        ["Hello. !!! ", "Good.\n\n***\n\n", "Bye. 🎉"],
        ["!!! Hello. ", "Bye."],
    ],
)
def test_english(sentences):
    assert split("".join(sentences)) == sentences


@pytest.mark.parametrize(
    "sentences",
    [
        ["她出生于伦敦。", "她是数学家！", "真的吗？！", "是的……", "没有句号"],
        ["他说：“你好。”", "然后走了。 ", "（见上文。）", "完。"],
        ["他演过《你好！李焕英》，也演过《走吧！》等片。", "圆周率是3.14。"],
        ["第一点；", "第二点。\n", "1. 出生\n", "2. 去世。\n\n", "结束"],
        ["「真的？」", "『好。』", "**重点。**\n", "完"],
    ],
)
def test_chinese(sentences):
    assert split("".join(sentences), "zh") == sentences


@pytest.mark.parametrize(
    "unit", ["a", "!", ". ", "a. ", "(", "\n", "Dr. ", "\"'", ".[1] ", 'x!"', "1.\n", "。", "。”"]
)
def test_degenerate_answers_take_no_time(unit):
    """Policies loop; a splitter that is quadratic in the loop would stop the pipeline."""
    text = unit * 8000
    for language in ("en", "zh"):
        assert "".join(split(text, language)) == text


def boundaries(rows):
    """(text, where human sentences begin) of every fully labelled answer."""
    for row in rows:
        for candidate in row["candidates"]:
            starts = [sentence["start"] for sentence in candidate["sentences"]]
            if starts and not candidate.get("incomplete"):
                yield candidate["response"], set(starts[1:])


@pytest.mark.parametrize("name", ["biographies", "tofueval"])
def test_human_boundaries(name, request):
    hits = found = human = 0
    for text, starts in boundaries(request.getfixturevalue(name)):
        ours = {start for start, _ in split_sentences(text, "en")[1:]}
        hits, found, human = hits + len(ours & starts), found + len(ours), human + len(starts)
    assert human > 3000
    assert 2 * hits / (found + human) > 0.995


def test_nothing_heavy_is_imported():
    code = (
        "import sys, maskdpo_ray.annotation.sentences as s; assert 'nltk' not in sys.modules; "
        "s.split_sentences('A b. C d.', 'en'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
