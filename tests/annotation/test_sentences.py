import subprocess
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from maskdpo_ray.annotation.sentences import split_sentences, unit_kind


def split(text, language="en"):
    return [text[start:end] for start, end in split_sentences(text, language)]


ANY_TEXT = st.text(
    st.characters()
    | st.characters(categories=["Cs"])
    | st.sampled_from(' \n\t.!?"”)]}*_-1aA[。！？…《》`~|#>“中')
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
        ["It matters (Crucial!): do it. ", "See [How?](http://a.b/c) first. ", "Rest."],
        ["He lived (c. 100–170) there. ", "Lee, J. (2009). ", "It was (ca. 5 km) far."],
        ["Run `a. B` now. ", "Then $$x. Y$$ holds. ", "[Who? He](u.v) did."],
        [
            "It rained.¹ ",
            "It poured.^[2] ",
            "Hail fell.[citation needed] ",
            "He ran.【3†source】 ",
            "End",
        ],
        [
            "It rained.<sup>1</sup> ",
            "He left (soon).[a] ",
            "Lee et al.² Smith et al.³ agree. ",
            "x",
        ],
        [
            "Then $x = 1. Y$ holds. ",
            "\\(a. B\\) and \\[c. D\\] too. ",
            "It costs $5. ",
            "Tax is $6.",
        ],
        ["Yahoo! was founded in 1994. ", "Panic! at the Disco sang. ", "Stop! ", "He did."],
        ["Who Is It? is a show. ", "Who Came? (1967) is a film. ", "Is it? ", "(He left.)"],
        ["She has a B.Sc. (Hons.) in law. ", "Apple Inc. (AAPL) grew. ", "P.S. It fell. ", "(So.)"],
        ["It is 5 p.m. ", "Let us go… ", "The end… World… so. ", "x"],
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
        ["“走吧！”他说。", "他走了。"],
        ["“你去哪？我也去。”她小声问道。", "“好！”全场观众齐声喊。"],
        ["他问：“真的吗？”", "他没有回答。", "“走吧！”", "这个口号很有名。"],
        ["被称为“中国的骄傲！”的运动员来了。", "他高喊“冲啊！”，然后跑了。"],
        ["他生于1950年. ", "他是作家. ", "圆周率是3.14. ", "卒于1990. ", "她在Apple Inc. 工作。"],
        ["步骤：", "1. 混合。", "2. 烘焙。"],
        ["步骤：", "1、混合；", "2、烘焙。"],
        [
            "他是作家。[1][2] ",
            "他走了。【3】",
            "她来了。^[4]^",
            "完。¹",
            "是。<sup>5</sup>",
            "【注】完。",
        ],
        ["**他说：“好。”**", "完。", "**重点。**", "是。", "**完**。"],
        ["他（1950年生。1990年卒。）是作家。", "（见上文。）", "完（真的！）。"],
    ],
)
def test_chinese(sentences):
    assert split("".join(sentences), "zh") == sentences


@pytest.mark.parametrize(
    "sentences",
    [
        ["Steps: ", "1. Mix it. ", "2. Bake it."],
        ["Do this: ", "1.\nMix it. ", "2.\nBake it."],
        ["1.\nMix it.\n", "2.\n\nBake it."],
        ["Note: ", "(1) it rains. ", "(2) it pours."],
        ["Choose: ", "1. rain or wind ", "2. snow or ice ", "3. sun"],
        ["He was ranked no. 1. ", "He won 2. ", "Then he rested."],  # counts up to nothing
    ],
)
def test_items_numbered_inside_a_paragraph(sentences):
    assert split("".join(sentences)) == sentences


@pytest.mark.parametrize(
    "sentences",
    [
        ["### 4. Title\n", "Text. ", "More."],
        ["**1. Early life**\n", "She was born. ", "**She died.** ", "Then rain."],
        ["- 1. Mix it.\n", "- 2. Bake it.\n  ", "a. The cat sat.\n", "1[12]. Mix it."],
        ["> - A quoted item. ", "It goes on.\n", "> - Another"],
        ["1) One. ", "It is.\n   ", "More on it.\n", "2) Two.\n", "After."],
        ["So:\n", "```python\n# x\n\nprint('a. B c.')\n```\n", "Done. ", "Yes."],
        ["So:\n", "~~~\nIt is. It was.\n"],  # cut off in the middle
        ["- Do\n  ", "```sh\n  a. B\n\n  c\n  ```\n", "- Then"],
        ["| a. B. | c |\n|---|---|\n", "| x. Y | z. |\n", "| 1 | 2 |\n\n", "Text."],
        ["a | b\n--|--\n", "No full stop | 2\n", "x | y\n\n", "End."],
        ["Sure!\n", "| Ada | 1815 |\n", "| Bob | 1920 |\n", "It is so."],
        ["One line\nand one more. ", "Next.\n---\n", "After."],
        ["## 生平\n", "他生于1950年。\n", "- **作品**：无。\n", "完"],
    ],
)
def test_markdown(sentences):
    assert split("".join(sentences)) == sentences
    assert split("".join(sentences).replace("\n", "\r\n")) == [
        sentence.replace("\n", "\r\n") for sentence in sentences
    ]


def test_kinds_of_units():
    text = "## Life\nShe was born.\n```\nx. Y\n```\n| a | b |\n- an item\n**Bold heading**\nEnd."
    kinds = [unit_kind(sentence) for sentence in split(text)]
    assert kinds == ["heading", "text", "code", "row", "text", "heading", "text"]
    assert unit_kind("") == "text"


@pytest.mark.parametrize("hint", ["en", "zh"])
@pytest.mark.parametrize(
    "sentences",
    [
        ["She was born in 1950. ", "She died in 1990."],
        ["她生于1950年。", "她卒于1990年。"],
        ["She was a writer. ", "She died.\n\n", "她是作家。", "她去世了。"],
        ["Hello there my friend. ", "你好。 ", "他走了。"],
        ["他说 I love you. 然后走了。", "她在 Apple Inc. 工作。"],
        ["The word 你好 means hello. ", "It is polite."],
    ],
)
def test_a_text_is_split_by_the_rules_of_its_own_language(sentences, hint):
    assert split("".join(sentences), hint) == sentences


LOOPS = ["a", "!", ". ", "a. ", "(", "\n", "Dr. ", "\"'", ".[1] ", 'x!"', "1.\n", "。", "。”"]
LOOPS += ["1. a. ", "|", "|-", "```\n", "> ", "- ", "1. ", "“", "“。", "**", "`", "[x](", " |"]


@pytest.mark.parametrize("unit", LOOPS)
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
