import pytest

from maskdpo_ray.annotation.anah_replies import (
    FACTS_PRESENT,
    NO_FACTS,
    UnreadableReply,
    read_fact_existence,
    read_hallucination_type,
    read_references,
)


def spellings(marker: str) -> list[str]:
    """Forms of a marker that mean the same."""
    return [
        f"<{marker}>",
        f"  <{marker}>\n\n",
        f"<{marker}>.",
        f"<{marker}>。",
        f"<{marker}.>",
        f"< {marker} >",
        f"＜{marker}＞",
        marker,
        f"{marker}.",
        f"<{marker}",
        f"{marker}>",
        f"<{marker.upper()}>",
        marker.lower(),
        f"<{marker.replace(' ', '  ')}>",
        f"<{marker.replace(' ', chr(10))}>",
    ]


def all_spellings(markers: dict[str, str]) -> list[tuple[str, str]]:
    return [(text, meaning) for marker, meaning in markers.items() for text in spellings(marker)]


FACTS = {
    "No Facts": NO_FACTS,
    "Facts Present": FACTS_PRESENT,
    "无事实": NO_FACTS,
    "有事实": FACTS_PRESENT,
}
TYPES = {
    "No Hallucination": "ok",
    "Contradictory": "contradictory",
    "Contradiction": "contradictory",
    "Unverifiable": "unverifiable",
    "无幻觉": "ok",
    "矛盾": "contradictory",
    "无法验证": "unverifiable",
}


@pytest.mark.parametrize(("reply", "meaning"), all_spellings(FACTS))
def test_fact_existence_is_read_in_every_spelling(reply, meaning):
    assert read_fact_existence(reply) == meaning


@pytest.mark.parametrize(("reply", "verdict"), all_spellings(TYPES))
def test_hallucination_type_is_read_in_every_spelling(reply, verdict):
    assert read_hallucination_type(reply) == verdict


@pytest.mark.parametrize(
    "reply",
    [
        "",
        " \n",
        "<>",
        ".",
        "Facts",
        "No",
        "No Facts Present",
        "There are <No Facts> here",
        "<No Facts> <Facts Present>",
        "<No Facts>\n<No Facts>",
        "<No Facts> because it is a greeting",
        "<NoFacts>",
        "<<No Facts>>",
        "Not <Facts Present>",
        "没有事实",
        "<无事实><有事实>",
        "<No Hallucination>",
        "<Nofact>",
    ],
)
def test_anything_else_is_no_answer_to_turn_1(reply):
    with pytest.raises(UnreadableReply):
        read_fact_existence(reply)


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "\t",
        "不矛盾",
        "<不矛盾>",
        "没有矛盾",
        "Not Contradictory",
        "No Contradiction",
        "<No Hallucination> <Contradictory>",
        "<Contradictory><Unverifiable>",
        "<矛盾>、<无法验证>",
        "<Contradictory> or <Contradiction>",
        "Hallucination",
        "ok",
        "The sentence is <Unverifiable>",
        "<Unverifiable> since the passages are silent",
        "<No Facts>",
        "<No Reference Information>",
        "无法",
    ],
)
def test_anything_else_is_no_answer_to_turn_3(reply):
    with pytest.raises(UnreadableReply):
        read_hallucination_type(reply)


def test_the_error_shows_the_reply_and_what_was_expected():
    with pytest.raises(UnreadableReply, match="no hallucination.*got '不矛盾'"):
        read_hallucination_type("不矛盾")


@pytest.mark.parametrize("marker", ["No Reference Information", "无参考信息"])
def test_no_reference_is_read_in_every_spelling(marker):
    assert [read_references(reply) for reply in spellings(marker)] == [[]] * len(spellings(marker))


@pytest.mark.parametrize(
    ("reply", "fragments"),
    [
        ("She was born in 1901.", ["She was born in 1901."]),
        ("Born in 1901.<SEP>Died in 1960.", ["Born in 1901.", "Died in 1960."]),
        (" Born in 1901. \n< sep >\nDied.\n", ["Born in 1901.", "Died."]),
        ("生于伦敦。＜SEP＞卒于巴黎。", ["生于伦敦。", "卒于巴黎。"]),
        ("One.<SEP><SEP>Two.<SEP>", ["One.", "Two."]),
        ("The SEP field was seized in September.", ["The SEP field was seized in September."]),
        ("x < 3 and y > 2", ["x < 3 and y > 2"]),
        ("The claim is unverifiable today.", ["The claim is unverifiable today."]),
        ("两国的矛盾加深。", ["两国的矛盾加深。"]),
    ],
)
def test_references_are_fragments_between_separators(reply, fragments):
    assert read_references(reply) == fragments


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "  \n ",
        "<SEP>",
        "<SEP> <sep>",
        "<No Reference Information><SEP>Born in 1901.",
        "Born in 1901.<SEP><No Reference Information>",
        "The document holds No Reference Information on this.",
        "文档中<无参考信息>。还有",
        "<No Reference Information> <No Reference Information>",
        "<No Hallucination>",
        "Contradictory",
        "<Facts Present> Born in 1901.",
        "<无幻觉>",
        "<No Reference>",
        "<No Hallucinations>.",
        "‹不矛盾>",
        "[No Facts]",
        "<SEP>.",
        "Born in 1901.<SEP><nothing else>",
        "...",
    ],
)
def test_markers_beside_text_are_no_references(reply):
    with pytest.raises(UnreadableReply):
        read_references(reply)
