import pytest

from maskdpo_ray.annotation.sentences import split_sentences
from maskdpo_ray.preference.repetition import repetition


def candidate(text, language="en", token_ids=None):
    """With a token per character, unless others are given."""
    spans = split_sentences(text, language)
    return {
        "response": text,
        "token_ids": list(map(ord, text)) if token_ids is None else token_ids,
        "sentences": [{"start": start, "end": end} for start, end in spans],
    }


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("It lies in Asia. " * 6, "en"),
        ("它位于亚洲。" * 6, "zh"),
        ("Vatulalu, " * 14, "en"),
        ("瓦图拉卢、" * 14, "zh"),
        ("\n".join(f"{n}. Vatulalu" for n in range(1, 15)), "en"),
        ("\n".join(f"{n}. **VATULALU**" for n in range(1, 15)), "en"),
        ("It lies in Asia. It borders Oman. " * 5, "en"),
    ],
)
def test_answers_that_have_lost_their_way(text, language):
    assert repetition(candidate(text, language)) > 0.7


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Oman lies in Asia. Its capital is Muscat. The currency is the rial.", "en"),
        ("阿曼位于亚洲。首都是马斯喀特。货币是里亚尔。", "zh"),
        ("1. Yemen\n2. Saudi Arabia\n3. United Arab Emirates", "en"),
        ("Yes.", "en"),
        ("", "en"),
    ],
)
def test_answers_that_go_on(text, language):
    assert repetition(candidate(text, language)) < 0.3


def test_the_share_by_hand():
    said = candidate("One. Two. One. ", token_ids=[1, 2, 3])
    assert repetition(said) == pytest.approx(1 / 3), "one sentence of three; no run of four tokens"
    looped = candidate("One.", token_ids=[5, 6, 5, 6, 5, 6, 5, 6])
    assert repetition(looped) == pytest.approx(3 / 5), "five runs, of two kinds"


def test_real_answers_go_on(biographies):
    for row in biographies:
        for answer in row["candidates"]:
            assert repetition(candidate(answer["response"], token_ids=[])) < 0.5


def test_a_reasoning_that_goes_round_in_circles_is_not_the_answer():
    said = candidate("One.", token_ids=[7] * 40 + [1, 2, 3, 4, 5])
    assert repetition(said | {"reasoning": "so " * 40, "reasoning_tokens": 40}) == 0
    assert repetition(said) > 0.8
    looped = candidate("One.", token_ids=[1, 2, 3, 4, 5] + [7] * 40)
    assert repetition(looped | {"reasoning": "so", "reasoning_tokens": 5}) > 0.8
