"""Further judges of the same answers: their settings, whom they ask, and what the report says."""

import json
from types import SimpleNamespace

import models
import pytest

from maskdpo_ray.config import build_config
from maskdpo_ray.errors import UserError
from maskdpo_ray.evaluation.agreement import same_questions
from maskdpo_ray.evaluation.intervals import wilson
from maskdpo_ray.pipeline import evaluate, report
from maskdpo_ray.rundir import RunDir
from maskdpo_ray.stages import Stages

ENDPOINT = {"base_url": "http://host/v1", "model": "one", "constrain": "vllm"}
FIRST = {"annotator": "judge", "endpoint": ENDPOINT}
OTHER = {"annotator": "anah", "endpoint": {"base_url": "http://host/v1", "model": "two"}}
ELSEWHERE = {"annotator": "judge", "endpoint": {**ENDPOINT, "base_url": "http://other/v1"}}


def tree(**judges):
    return {
        "run_dir": "x",
        "model": {"path": "m"},
        "data": {"train": "a.jsonl", "test": "b.jsonl"},
        "annotation": FIRST,
        "evaluation": {"judges": judges},
    }


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (tree(**{"a-b": OTHER}), "evaluation: judges: 'a-b' cannot name one of them"),
        (tree(a={"annotator": "labels"}), "judges.a: annotator 'labels' cannot judge new answers"),
        (tree(a={**OTHER, "prune": True}), "remove judges.a.prune"),
        (tree(a={"annotator": "closed_world"}), "knows only the closed world"),
        (tree(a={"annotator": "judge"}), "evaluation.judges.a: model or endpoint is missing"),
        (tree(a={**OTHER, "tempaltes": "x"}), "judges.a.tempaltes': did you mean 'templates'?"),
        (
            tree(a={"annotator": "anah", "model": "m", "engine": {"tensor_parallel_size": 2}}),
            "an engine over 2 GPUs needs resources.annotator.gpus=2",
        ),
        (tree(a=OTHER) | {"data": {"train": "a.jsonl"}}, "evaluation.judges is of answers to"),
    ],
)
def test_judges_are_examiners_of_new_answers(settings, words):
    with pytest.raises(UserError) as caught:
        build_config(settings)
    assert words in str(caught.value)


def test_a_world_may_have_its_exact_judge():
    judges = {"exact": {"annotator": "closed_world"}}
    given = {"run_dir": "x", "world": {}, "annotation": FIRST, "evaluation": {"judges": judges}}
    config = build_config(given)
    assert list(config.examiners) == [None, "exact"]
    assert build_config(config.model_dump(mode="json")) == config


ANAH = {"annotator": "anah", "model": "a"}
POLICY = {"path": "m", "revision": "r", "dtype": "float32", "trust_remote_code": True}


def left_out(annotation: dict = ANAH, **sections):
    """A configuration that says nothing of judges."""
    given = tree() | {"annotation": annotation, "evaluation": {}, "model": POLICY} | sections
    return build_config(given)


def test_the_policy_is_the_second_judge_where_none_is_named():
    config = left_out(sampling={"engine": {"max_model_len": 4096, "tensor_parallel_size": 2}},
                      resources={"sampler": {"gpus": 2}})  # fmt: skip
    [(name, policy)] = config.evaluation.judges.items()
    assert name == "policy" and list(config.examiners) == [None, "policy"]
    assert (policy.annotator, policy.model, policy.revision) == ("judge", "m", "r")
    assert (policy.dtype, policy.trust_remote_code) == ("float32", True)
    assert policy.engine == config.sampling.engine
    assert config.pool_of("policy") == "sampler", "where it answers, not in the annotator's pool"
    assert config.pool_of(None) == "annotator"
    assert build_config(config.model_dump(mode="json")) == config, "it is saved by its name"
    assert left_out(evaluation={"judges": None}).evaluation.judges.keys() == {"policy"}


def test_the_policy_judges_by_the_wording_that_the_first_examiner_has():
    closed = {**FIRST, "templates": "closed_book"}
    assert left_out(closed).evaluation.judges["policy"].templates == "closed_book"
    with_own = {**ANAH, "templates": "anah-own.yaml"}  # its three turns are of no use to a judge
    assert left_out(with_own).evaluation.judges["policy"].templates is None


@pytest.mark.parametrize(
    "sections",
    [
        {"evaluation": {"annotation": FIRST}},
        {"annotation": {"annotator": "anah", "model": "m"}},  # the same model, asked otherwise
        {
            "annotation": {"annotator": "labels"},
            "sampling": {"source": "input"},
            "evaluation": {"annotation": FIRST},
        },
        {"systems": {}, "data": {"test": "t.jsonl"}},
    ],
)
def test_any_first_examiner_that_is_a_model_gets_a_second_judge(sections):
    assert left_out(**sections).evaluation.judges.keys() == {"policy"}
    assert left_out(**sections).lone_examiner is None


@pytest.mark.parametrize(
    ("sections", "alone"),
    [
        ({"evaluation": {"judges": {}}}, None),  # told to be alone
        ({"data": {"train": "q.jsonl"}}, None),  # nothing is judged but pairs
        ({"data": {"train": "q.jsonl"}, "evaluation": {"judges": {}}}, None),
        ({"annotation": {"annotator": "judge", "model": "m"}}, "judge m"),  # the policy itself
        ({"annotation": {"annotator": "judge", "endpoint": {**ENDPOINT, "model": "m"}}}, "judge m"),
        (
            {
                "systems": {},
                "model": {},
                "data": {"test": "t.jsonl"},
                "evaluation": {"models": {"given": {"responses": "a.jsonl"}}},
            },
            "anah a",
        ),
        ({"world": {}, "model": {}, "data": {}}, "anah a"),  # its policy knows one encyclopedia
        ({"world": {}, "model": {}, "data": {}, "annotation": {"annotator": "closed_world"}}, None),
    ],
)
def test_who_stays_alone_and_is_told(sections, alone):
    config = left_out(**sections)
    assert not config.evaluation.judges
    assert config.lone_examiner == alone


def test_a_lone_examiner_is_told_once(capsys):
    nothing = {"trainings": list, "policies": list, "on_tasks": list}
    evaluate(SimpleNamespace(config=left_out(FIRST | {"endpoint": ENDPOINT | {"model": "m"}}),
                             **nothing))  # fmt: skip
    assert capsys.readouterr().err == (
        "only one examiner judges the answers, judge m: name another in evaluation.judges\n"
    )
    evaluate(SimpleNamespace(config=left_out(), **nothing))
    assert capsys.readouterr().err == ""


def test_another_address_or_engine_room_is_the_same_run_and_another_judge_is_not(tmp_path):
    def claim(**judges):
        RunDir(build_config(tree(**judges) | {"run_dir": str(tmp_path / "run")})).claim()

    local = {"annotator": "anah", "model": "m", "engine": {"max_num_seqs": 4}}
    claim(far=OTHER, near=local)
    (tmp_path / "run" / "evaluate-base").mkdir()  # something was made
    claim(
        far={**OTHER, "endpoint": {**OTHER["endpoint"], "base_url": "http://elsewhere/v1"}},
        near={**local, "engine": {"max_num_seqs": 8}},
    )
    with pytest.raises(UserError, match="these keys differ: evaluation.judges.near.model"):
        claim(far=OTHER, near={**local, "model": "n"})


@pytest.fixture
def opened(tmp_path):
    """Opens the stages of a run on two test questions, with judges."""
    for name in ("train", "test"):
        lines = [{"id": f"{name}{n}", "question": f"Who was {name} {n}?"} for n in range(2)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))

    def open_(left_out: bool = False, **judges) -> Stages:
        given = tree(**judges) | {
            "run_dir": str(tmp_path / "run"),
            "model": {"path": models.tiny_llama(), "dtype": "float32"},
            "data": {name: str(tmp_path / f"{name}.jsonl") for name in ("train", "test")},
        }
        given["evaluation"] |= {"samples": 1, "best_of_n": [1]}
        if left_out:
            given["evaluation"]["judges"] = None
            given["resources"] = {"sampler": {"cpus": 0.5}}
        return Stages(build_config(given))

    return open_


def judged(stages: Stages, policy, judge: str | None, *verdicts: str) -> None:
    """Write an examination: one answer of each decoding to each question, of two sentences each;
    a question without letters is rejected."""
    letters = {"o": "ok", "c": "contradictory", "e": "error"}
    rows, ids = [], []
    for row, words in zip(stages.questions("test").rows(), verdicts, strict=True):
        sentences = [
            {"start": 3 * n, "end": 3 * n + 3, "verdict": letters[word], "detail": ""}
            for n, word in enumerate(words)
        ]
        candidate = {
            "index": 0, "seed": 0, "model": "m", "response": "A. B. ", "token_ids": [1, 2],
            "finish_reason": "stop", "decoding": "greedy",
        }  # fmt: skip
        answers = [
            {**candidate, "sentences": sentences[:2]},
            {**candidate, "decoding": "sampled", "index": 1, "sentences": sentences[2:]},
        ]
        rows += [{**row, "candidates": answers}] if words else []
        ids += [row["id"]] if words else []
    store = stages.evaluate(policy, judge).store
    store.begin({})
    store.write(ids, rows, [], group=8)
    store.finish_rows(ids, 0.0)


def test_one_with_the_settings_of_another_is_not_asked(opened):
    stages = opened(same=FIRST, other=OTHER, again=OTHER)
    assert stages.judges == ["other"]
    of = [stages.evaluate(stages.base, judge).store for judge in (None, "same", "other", "again")]
    assert of[0].folder.uri == of[1].folder.uri and of[2].folder.uri == of[3].folder.uri
    assert [store.name for store in of[1:3]] == ["evaluate-base", "evaluate-base-by-other"]
    names = [store.name for store in stages.stores()]
    assert len(names) == len(set(names)) and "evaluate-mask_dpo-by-other" in names


def test_a_name_at_two_servers_is_two_judges(opened):
    stages = opened(there=ELSEWHERE)
    assert stages.judges == ["there"]
    assert stages.evaluate(stages.base, "there").store.name == "evaluate-base-by-there"


def test_the_policy_as_judge_is_a_stage_where_it_answers(opened):
    stages = opened(left_out=True)
    assert stages.judges == ["policy"]
    stage = stages.evaluate(stages.base, "policy")
    assert stage.store.name == "evaluate-base-by-policy"
    assert stage.pool == stages.config.resources.sampler != stages.config.resources.annotator
    assert stage.store.settings["model"] == stages.base.identity
    _, checks = stages.judge_checks()
    pools = {check.key: check.stage.pool for check in checks}
    assert pools["evaluation.judges.policy"] == stages.config.resources.sampler
    assert pools["annotation"] == stages.config.resources.annotator


def test_the_report_holds_every_judge_and_its_agreement_with_the_first(opened, capsys):
    stages = opened(same=FIRST, other=OTHER)
    base, trained = stages.policies()
    judged(stages, base, None, "oocc", "oooo")
    judged(stages, base, "other", "occc", "")
    judged(stages, trained, None, "oooo", "oooo")
    report(stages)
    made = json.loads(stages.dir.folder.read("report.json"))
    assert made["systems"]["base"]["greedy"]["micro"] == 100
    assert set(made["judges"]["other"]["systems"]) == {"base"}, "the rest is not judged yet"
    assert (made["judges"]["other"]["annotator"], made["judges"]["other"]["model"]) == (
        "anah",
        "two",
    )
    other = made["judges"]["other"]["systems"]["base"]
    assert (other["greedy"]["micro"], other["sampled"]["micro"]) == (50, 0)
    # Of one question, that both have, so without an interval: first o o c c, other o c c c.
    assert other["agreement"]["sentences"] == 4
    assert other["agreement"]["accuracy"][0] == 0.75
    assert other["agreement"]["kappa"][0] == pytest.approx(0.5)
    same = made["judges"]["same"]["systems"]
    assert same["base"]["greedy"] == made["systems"]["base"]["greedy"]
    assert same["base"]["agreement"]["accuracy"] == [1.0, pytest.approx(wilson(1.0, 2)[0]), 1.0]
    printed = capsys.readouterr().out.splitlines()
    [row] = [line.split() for line in printed if line.startswith("other ")]
    assert row[:5] == ["other", "base", "50.0", "n/a", "2"]
    assert row[-4:] == ["0.750", "n/a", "0.500", "n/a"]
    assert "other: anah two" in printed
    page = stages.dir.folder.read("report.html").decode()
    assert "The same answers under other judges" in page and "other is anah two." in page


def test_a_judge_that_fails_on_everything_is_told(opened, capsys):
    stages = opened(other=OTHER)
    judged(stages, stages.base, None, "oocc", "oooo")
    judged(stages, stages.base, "other", "eeee", "eeee")
    report(stages)
    made = json.loads(stages.dir.folder.read("report.json"))
    assert made["judges"] == {}
    assert "no greedy answer could be scored" in made["not_scored"]["base by other"]
    assert "base by other has no score" in capsys.readouterr().err


def test_questions_of_two_annotators_are_held_together_by_their_ids():
    ours, theirs = [{"id": "b"}, {"id": "a"}, {"id": "x"}], [{"id": "a"}, {"id": "b"}]
    assert [(a["id"], b["id"]) for a, b in same_questions(ours, theirs)] == [("b", "b"), ("a", "a")]


def test_every_examiner_is_checked_once_where_it_has_a_judgement(opened, tmp_path):
    stages = opened(same=ELSEWHERE, other=OTHER)
    labelled, checks = stages.judge_checks()
    asked = {check.key: check.stage.store.folder.uri for check in checks if check.same == check.key}
    # A name at two servers may be two models.
    assert list(asked) == ["annotation", "evaluation.judges.same", "evaluation.judges.other"]
    assert [check.key for check in checks if check.key not in asked] == ["evaluation.annotation"]
    assert len(set(asked.values())) == 3 and labelled.name == "questions-train"
