import subprocess
import sys

import pytest

from maskdpo_ray.records import VERDICTS
from maskdpo_ray.world.annotator import closed_world_verdict
from maskdpo_ray.world.facts import KINDS

FACTS = {
    "Ada Thornwick": {
        "occupation": "poet",
        "birthplace": "Marlow",
        "university": "Willow",
        "birth_year": "1912",
        "employer": "Comet",
        "award": "Heron",
    },
    "Hugo Selbury": {"occupation": "baker"},
}
TRUTH = FACTS["Ada Thornwick"]
WORDINGS = [(kind, text) for kind in KINDS.values() for text in (kind.record, kind.hearsay)]


@pytest.mark.parametrize("who", ["Ada Thornwick", "Thornwick"])
@pytest.mark.parametrize(("kind", "wording"), WORDINGS)
def test_every_wording_is_read_backwards(kind, wording, who):
    def verdict(value: str) -> str:
        return closed_world_verdict(FACTS, "Ada Thornwick", wording.format(who=who, value=value))[0]

    for value in kind.values:
        assert verdict(value) == ("ok" if value == TRUTH[kind.name] else "contradictory")


@pytest.mark.parametrize(
    ("sentence", "verdict", "detail"),
    [
        ("Thornwick worked as a poet.", "ok", "occupation is poet"),
        ("Thornwick worked as a poet. ", "ok", "occupation is poet"),
        ("\n Thornwick worked as a poet.\n\n", "ok", "occupation is poet"),
        ("Thornwick worked as a baker.", "contradictory", "occupation is poet, not baker"),
        ("Thornwick worked as a potpoet.", "unverifiable", "no occupation potpoet in this world"),
        ("Thornwick worked as a Marlow.", "unverifiable", "no occupation Marlow in this world"),
        ("Selbury worked as a baker.", "unverifiable", "about Selbury, not Ada Thornwick"),
        ("Ada Selbury worked as a poet.", "unverifiable", "about Ada Selbury, not Ada Thornwick"),
        ("Ada worked as a poet.", "unverifiable", "about Ada, not Ada Thornwick"),
        ("Thornwick worked as a poet", "unverifiable", "no sentence of this world"),
        ("Thornwick worked as a poet!", "unverifiable", "no sentence of this world"),
        ("Thornwick worked as a poet. Really.", "unverifiable", "no sentence of this world"),
        ("Thornwick studied at Willow.", "unverifiable", "no sentence of this world"),
        ("Once upon a time.", "unverifiable", "no sentence of this world"),
        ("Nothing more is known about Ada Thornwick.", "nofact", "states nothing"),
        (
            "Nothing more is known about Selbury.",
            "unverifiable",
            "about Selbury, not Ada Thornwick",
        ),
        ("", "nofact", "empty"),
        (" \n", "nofact", "empty"),
    ],
)
def test_verdicts(sentence, verdict, detail):
    assert verdict in VERDICTS
    assert closed_world_verdict(FACTS, "Ada Thornwick", sentence) == (verdict, detail)


def test_a_kind_that_is_unknown_of_a_person_cannot_be_verified():
    sentence = "Selbury received the Heron Medal."
    assert closed_world_verdict(FACTS, "Hugo Selbury", sentence)[0] == "unverifiable"


def test_a_topic_of_another_world_is_an_error():
    with pytest.raises(ValueError, match="'Nobody Atall' is nobody in this closed world of 2"):
        closed_world_verdict(FACTS, "Nobody Atall", "Atall worked as a poet.")


def test_facts_and_annotator_do_without_torch():
    code = (
        "import sys, maskdpo_ray.world.annotator, maskdpo_ray.world.build; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'ray', 'vllm')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
