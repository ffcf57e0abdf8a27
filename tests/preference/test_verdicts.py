import pytest

from maskdpo_ray.config import PreferenceConfig
from maskdpo_ray.preference.verdicts import counted_as, learnt_as
from maskdpo_ray.records import CORRECT_VERDICTS, INCORRECT_VERDICTS

# How each setting counts its verdict where answers are compared, and where they are learnt from.
MEANINGS = [
    ("nofact", {"no_fact": "correct"}, 1, 1),
    ("nofact", {"no_fact": "mask"}, 1, 0),
    ("nofact", {"no_fact": "ignore"}, 0, 0),
    ("unverifiable", {"unverifiable": "incorrect"}, -1, -1),
    ("unverifiable", {"unverifiable": "mask"}, 0, 0),
    ("unverifiable", {"unverifiable": "correct"}, 1, 1),
]


@pytest.mark.parametrize(("verdict", "given", "counted", "learnt"), MEANINGS)
def test_a_setting_says_what_its_verdict_counts_as_and_leaves_the_others(
    verdict, given, counted, learnt
):
    settings, paper = PreferenceConfig(**given), PreferenceConfig()
    assert (counted_as(verdict, settings), learnt_as(verdict, settings)) == (counted, learnt)
    for other in {*CORRECT_VERDICTS, *INCORRECT_VERDICTS} - {verdict}:
        assert counted_as(other, settings) == learnt_as(other, settings) == counted_as(other, paper)


def test_the_default_is_the_papers():
    settings = PreferenceConfig()
    assert {learnt_as(v, settings) for v in CORRECT_VERDICTS} == {1}
    assert {learnt_as(v, settings) for v in INCORRECT_VERDICTS} == {-1}


@pytest.mark.parametrize("verdict", ["error", "skipped", "OK", ""])
def test_what_is_no_verdict_on_a_sentence_counts_as_nothing_known(verdict):
    for settings in (PreferenceConfig(), PreferenceConfig(no_fact="ignore", unverifiable="mask")):
        with pytest.raises(ValueError, match="neither correct nor incorrect"):
            counted_as(verdict, settings)
