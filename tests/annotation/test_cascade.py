"""A cascade: who is asked about what, whose verdict stands, and what is refused at the start."""

import asyncio
import copy
import json
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from members import ASKED
from selections import SELECTIONS
from test_own_annotators import row
from test_pruning import LETTERS, outcome, question, split, tables

from maskdpo_ray.annotation.annotate import Annotate
from maskdpo_ray.annotation.annotator import Verdict
from maskdpo_ray.annotation.bands import stands
from maskdpo_ray.annotation.calls import count_calls
from maskdpo_ray.config import AnnotationConfig, PreferenceConfig, build_config
from maskdpo_ray.errors import RowRejected, UserError


def member(name="first", kind="Knows", **says):
    return {"annotator": f"members:{kind}", "name": name, "says": says}


def cascade(*members, bands, **more):
    return AnnotationConfig.of(cascade=list(members), bands=bands, **more)


def annotated(section, *rows):
    ASKED.clear()
    return asyncio.run(Annotate(section.kind.build(section, None))(list(rows)))


def verdicts(out):
    return [
        [(each["verdict"], each["confidence"]) for each in candidate["sentences"]]
        for candidate in out["candidates"]
    ]


def details(out):
    return [
        json.loads(each["detail"])
        for candidate in out["candidates"]
        for each in candidate["sentences"]
    ]


FIRST = {"annotator": "members:Knows", "name": "first", "cost": 2}
SECOND = {"annotator": "members:Unsure", "name": "second", "cost": 30}
THREE = "Ada won. He lost. It rained."
SAYS = {"Ada won.": "ok 0.95", "He lost.": "contradictory 0.7", "It rained.": "unverifiable 0.6"}
REST = {"He lost.": "contradictory", "It rained.": "ok"}


def test_the_next_gets_what_the_first_is_not_sure_of():
    section = cascade({**FIRST, "says": SAYS}, {**SECOND, "says": REST}, bands=[0.9])
    [out] = annotated(section, row(THREE, "He lost."))
    assert verdicts(out) == [
        [("ok", 0.95), ("contradictory", None), ("ok", None)], [("contradictory", None)],
    ]  # fmt: skip
    assert sorted(ASKED) == [
        ("first", "Ada won."), ("first", "He lost."), ("first", "It rained."),
        ("second", "He lost."), ("second", "It rained."),
    ]  # fmt: skip
    sure, left, *_ = details(out)
    assert (sure["decided_by"], sure["tokens"]) == ("members:Knows", 2)
    assert (left["decided_by"], left["tokens"]) == ("members:Unsure", 32)
    first, second = left["said"]
    assert (first["by"], first["verdict"], first["confidence"]) == (
        "members:Knows", "contradictory", 0.7,
    )  # fmt: skip
    assert second["by"] == "members:Unsure"
    counts = count_calls([out])
    assert counts["asked"] == 3
    assert counts["decided_by_members:Knows"] == 1 and counts["decided_by_members:Unsure"] == 2


@pytest.mark.parametrize(
    ("band", "asked"),
    [
        (0.0, []),
        (0.6, []),
        (0.7, ["It rained."]),
        (1, ["Ada won.", "He lost.", "It rained."]),
        ({"ok": 0.9}, ["He lost.", "It rained."]),
        ({"contradictory": 0.7, "unverifiable": 0}, ["Ada won."]),
    ],
)
def test_a_band_says_which_verdicts_stand(band, asked):
    section = cascade({**FIRST, "says": SAYS}, {**SECOND, "says": REST}, bands=[band])
    annotated(section, row(THREE))
    assert [text for name, text in ASKED if name == "second"] == asked


@pytest.mark.parametrize(
    ("said", "band", "found"),
    [
        (Verdict("ok", "", 0.9), 0.9, True),
        (Verdict("ok", "", 0.8999), 0.9, False),
        (Verdict("ok", "", 0.89999998), 0.9, True),  # 0.9 as it is stored, in 32 bits
        (Verdict("ok"), 0.0, False),
        (Verdict("error", "", 1.0), 0.0, False),
        (Verdict("nofact", "", 1.0), {"ok": 0.0}, False),
    ],
)
def test_what_stands(said, band, found):
    assert stands(said, band) is found


def test_what_a_member_fails_on_goes_on_and_the_last_error_is_the_sentences():
    first = {"Ada won.": "raise", "He lost.": "error 1", "It rained.": "refuse"}
    last = {"Ada won.": "contradictory", "He lost.": "raise"}
    [out] = annotated(
        cascade({**FIRST, "says": first}, {**SECOND, "says": last}, bands=[0]), row(THREE)
    )
    assert [said for [*said] in verdicts(out)] == [
        [("contradictory", None), ("error", None), ("ok", None)]
    ]
    found = details(out)
    assert found[0]["said"][0]["detail"] == "KeyError: 'Ada won.'"
    assert found[1]["said"][1]["detail"] == "KeyError: 'He lost.'"
    assert found[2]["said"][0]["detail"] == "document_missing: none"


def test_what_the_last_will_not_judge_is_rejected():
    last = {**SECOND, "says": {"He lost.": "refuse"}}
    [out] = annotated(cascade({**FIRST, "says": SAYS}, last, bands=[0.9]), row(THREE))
    assert isinstance(out, RowRejected) and out.reason == "document_missing"


def test_a_document_that_the_last_needs_is_needed_whatever_the_first_is_sure_of():
    """Else it would depend on pruning, which leaves sentences out, whether a question is there."""
    last = {"annotator": "members:NeedsDocument", "name": "second"}
    section = cascade(FIRST, last, bands=[0.5])
    rejected, out = annotated(section, row("Ada won."), row("Ada won.", document="Ada"))
    assert isinstance(rejected, RowRejected) and rejected.reason == "document_missing"
    assert verdicts(out) == [[("ok", 1.0)]]
    assert section.kind.needs_document(section, "en")
    other_way = cascade(last, {**SECOND}, bands=[0.5])
    assert not other_way.kind.needs_document(other_way, "en")


def test_members_of_one_kind_are_told_apart_by_their_places():
    section = cascade(
        {**FIRST, "says": {"Ada won.": "ok 0.5"}}, {**FIRST, "name": "other"}, bands=[0.9]
    )
    assert section.names == ["members:Knows.0", "members:Knows.1"]
    [out] = annotated(section, row("Ada won."))
    assert details(out)[0]["decided_by"] == "members:Knows.1"
    assert ASKED == [("first", "Ada won."), ("other", "Ada won.")]


def test_what_the_verdicts_depend_on():
    def identity(first=FIRST, second=SECOND, bands=(0.9,), **more):
        section = cascade(first, second, bands=list(bands), **more)
        return json.dumps(section.kind.identity(section, "annotation"), sort_keys=True)

    before = identity()
    assert identity() == identity(agreement=0.8) == before
    others = {
        identity(second=FIRST, first=FIRST), identity(bands=[0.8]), identity({**FIRST, "cost": 3}),
        identity(bands=[{"ok": 0.9}]), identity(SECOND | {"annotator": "members:Knows"}, FIRST),
    }  # fmt: skip
    assert len(others | {before}) == 6


def tree(**annotation):
    return {"run_dir": "x", "world": {}, "annotation": annotation}


ENCODER = {"annotator": "encoder", "model": "owner/name"}
JUDGE = {
    "annotator": "judge",
    "endpoint": {"base_url": "http://host/v1", "model": "one", "constrain": "vllm"},
}
HERE = {"annotator": "judge", "model": "m"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"bands": []}, "bands: one for each of cascade but the last, 1, not 0"),
        ({"bands": [0.9, 0.9]}, "bands: one for each of cascade but the last, 1, not 2"),
        ({"bands": [2]}, "annotation.bands.0: a number from 0 to 1, or one for each verdict"),
        ({"bands": [{"okay": 0.9}]}, "annotation.bands.0: a band is of verdicts (ok, nofact"),
        ({"bands": [{}]}, "annotation.bands.0: a band is of verdicts"),
        ({"cascade": [ENCODER]}, "annotation.cascade: List should have at least 2 items"),
        ({"cascade": [JUDGE, ENCODER]}, "cascade.0: annotator 'judge' tells no confidence here"),
        ({"cascade": [{**ENCODER, "widnow": 9}, JUDGE]}, "'annotation.cascade.0.widnow': did you"),
        ({"cascade": [ENCODER, {**JUDGE, "modle": 9}]}, "'annotation.cascade.1.modle': did you"),
        ({"cascade": [{**ENCODER, "prune": True}, JUDGE]}, "cascade.0.prune is of all members"),
        ({"cascade": [ENCODER, {"annotator": "labels"}]}, "annotator 'labels' judges nothing"),
        ({"cascade": [{**HERE, "confidence": True}, HERE]}, "start an engine each, and an actor"),
        ({"cascade": [{**ENCODER, "task": "tokens"}, JUDGE], "prune": True}, "whole answers"),
        ({"annotator": "judge", "model": "m"}, "unknown key 'annotation.bands'"),
    ],
)
def test_what_cannot_be_is_refused_at_the_start(given, words):
    with pytest.raises(UserError) as caught:
        build_config(tree(**{"cascade": [ENCODER, JUDGE], "bands": [0.9], **given}))
    assert words in str(caught.value)


def test_it_is_taken_where_its_list_stands_and_read_again_as_it_was_saved():
    config = build_config(tree(cascade=[ENCODER, JUDGE], bands=[{"ok": 0.9}]))
    assert config.annotation.annotator == "cascade"
    assert build_config(config.saved()) == config
    assert config.annotation.asked == "owner/name, one"
    assert config.annotation.servers == [
        config.annotation.cascade[1].endpoint.model_dump(
            include={"base_url", "model", "parameters", "constrain", "api_key_env", "api_key_file"}
        )
    ]


def test_what_its_members_need_is_needed_of_the_run():
    both = tree(cascade=[ENCODER, {**HERE, "engine": {"tensor_parallel_size": 2}}], bands=[0.9])
    with pytest.raises(UserError, match="engine over 2 GPUs needs resources.annotator.gpus=2"):
        build_config(both)
    exact = tree(cascade=[ENCODER, {"annotator": "closed_world"}], bands=[0.9])
    assert build_config(exact).annotation.needs == {"document", "world"}
    outside = {"world": None, "model": {"path": "m"}, "data": {"train": "q.jsonl"}}
    with pytest.raises(UserError, match="knows only the closed world"):
        build_config(exact | outside)


def test_a_secret_of_a_member_is_saved_nowhere_and_its_room_is_no_other_annotation():
    first = {**ENCODER, "batch_size": 4}
    second = {**HERE, "engine": {"hf_token": "hf_secret", "max_num_seqs": 3, "max_model_len": 9}}
    config = build_config(tree(cascade=[first, second], bands=[0.9]))
    assert "hf_secret" not in json.dumps(config.saved())
    assert config.annotation.cascade[1].engine["hf_token"] == "hf_secret"
    decides = config.annotation.decides()["cascade"]
    assert decides[1]["engine"] == {"max_model_len": 9} and "batch_size" not in decides[0]


def test_confidence_weights_need_the_last_to_tell_it_too():
    given = {"preference": {"weights": "confidence"}}
    build_config(tree(cascade=[FIRST, FIRST], bands=[0.9]) | given)
    with pytest.raises(UserError, match="needs verdicts that come with one"):
        build_config(tree(cascade=[FIRST, SECOND], bands=[0.9]) | given)


def test_the_policy_as_second_judge_is_that_of_the_last_member():
    data = {"train": "a.jsonl", "test": "b.jsonl"}
    given = {"run_dir": "x", "model": {"path": "policy"}, "data": data}
    annotation = {"cascade": [ENCODER, JUDGE], "bands": [0.9], "knowledge": "pages.db"}
    config = build_config({**given, "annotation": annotation})
    policy = config.evaluation.judges["policy"]
    assert (policy.annotator, policy.model, policy.knowledge) == ("judge", "policy", "pages.db")
    closed = {**JUDGE, "templates": "closed_book"}
    config = build_config({**given, "annotation": {**annotation, "cascade": [ENCODER, closed]}})
    policy = config.evaluation.judges["policy"]
    assert (policy.templates, policy.knowledge) == ("closed_book", None)


class Pages:
    """Finds one passage for each sentence but the last."""

    async def passages(self, topic, text, language):
        return SimpleNamespace(texts=[] if "rained" in text else [f"of {text}"])


def test_passages_are_found_once_for_all_members_and_nobody_is_asked_where_there_are_none():
    needy = {"annotator": "members:NeedsDocument"}
    says = dict.fromkeys(SAYS, "ok 0.5")
    section = cascade({**needy, "says": says}, {**needy, "name": "last"}, bands=[0.9],
                      knowledge="pages.db")  # fmt: skip
    ASKED.clear()
    annotate = Annotate(section.kind.build(section, None), finder=Pages())
    [out] = asyncio.run(annotate([row(THREE)]))
    assert [said for said, _ in verdicts(out)[0]] == ["ok", "ok", "unverifiable"]
    assert sorted(text for _, text in ASKED) == ["Ada won."] * 2 + ["He lost."] * 2
    alone = dict(section.with_members("annotation"))
    assert list(alone) == ["annotation", "annotation.cascade.0", "annotation.cascade.1"]
    assert alone["annotation.cascade.1"].knowledge == "pages.db"


MARKS = {"annotator": "members:Marks", "name": "marks"}


def test_a_member_may_judge_whole_answers_and_shared_sentences_are_asked_once():
    says = {"won": "ok 0.95", "lost": "contradictory 0.6"}
    section = cascade({**MARKS, "says": says}, {**SECOND, "says": REST}, bands=[0.9])
    [out] = annotated(section, row(THREE, "He lost. It rained.", THREE))
    first = [("ok", 0.95), ("contradictory", None), ("ok", None)]
    assert verdicts(out) == [first, first[1:], first]
    assert sorted(ASKED) == [
        ("marks", THREE), ("marks", "He lost. It rained."), ("second", "He lost."),
        ("second", "It rained."),
    ]  # fmt: skip


def test_the_rest_of_an_answer_is_what_a_later_member_is_asked_about():
    says = {"He lost.": "ok 0.2", "It rained.": "ok 0.3"}
    marks = {**MARKS, "says": {"lost": "unverifiable 0.8", "won": "contradictory 1"}}
    section = cascade({**FIRST, "says": says}, marks, bands=[0.9])
    [out] = annotated(section, row(THREE))
    assert verdicts(out) == [[("ok", 1.0), ("unverifiable", 0.8), ("ok", None)]]


def test_code_is_no_question_in_whole_answers_either():
    section = cascade(FIRST, MARKS, bands=[0.9])
    [out] = annotated(section, row("Ada won.\n```\nx. Y\n```\nHe lost."))
    assert [said for said, _ in verdicts(out)[0]] == ["ok", "nofact", "ok"]
    assert all("x. Y" not in text for _, text in ASKED)


def test_a_cascade_within_a_cascade():
    inner = {
        "cascade": [{**FIRST, "name": "a", "says": SAYS}, {**SECOND, "name": "b"}],
        "bands": [0.9],
    }
    section = AnnotationConfig.of(
        cascade=[{**FIRST, "says": dict.fromkeys(SAYS, "ok 0.1")}, inner], bands=[0.9]
    )
    [out] = annotated(section, row(THREE))
    assert [said["decided_by"] for said in details(out)] == ["cascade"] * 3
    assert [name for name, _ in ASKED] == ["first"] * 3 + ["a"] * 3 + ["b"] * 2
    assert details(out)[1]["tokens"] == 2 + 2 + 30


@settings(max_examples=300)
@given(tables(), SELECTIONS, st.data())
def test_pruned_and_unpruned_give_the_same_pairs(table, selection, data):
    answers, verdicts = table
    sure = data.draw(st.lists(st.sampled_from([0.2, 0.95]), min_size=len(verdicts),
                              max_size=len(verdicts)))  # fmt: skip
    letters = data.draw(st.lists(st.sampled_from("oucn"), min_size=len(verdicts),
                                 max_size=len(verdicts)))  # fmt: skip
    first = {
        text: f"{LETTERS[letter]} {confidence}"
        for text, letter, confidence in zip(verdicts, letters, sure, strict=True)
    }
    section = cascade({**FIRST, "says": first}, {**SECOND, "says": verdicts}, bands=[0.9])
    chosen, outcomes, asked = PreferenceConfig(**selection), [], []
    for prune in (None, chosen):
        ASKED.clear()
        annotator = section.kind.build(section, None)
        given = copy.deepcopy(question(*answers))
        [out] = asyncio.run(Annotate(annotator, split, prune=prune)([given]))
        outcomes.append(outcome(out, chosen))
        asked.append(set(ASKED))
    assert outcomes[0] == outcomes[1]
    assert asked[1] <= asked[0]
    assert {text for name, text in asked[0] if name == "second"} == {
        text for name, text in asked[0] if name == "first" and first[text].endswith("0.2")
    }
