"""Evaluation of anything: answers of a file beside, or without, a policy and what it became."""

import asyncio
import json

import models
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from maskdpo_ray.annotation.annotate import Annotate
from maskdpo_ray.answers import Answer, Answers, match, read_answers
from maskdpo_ray.config import build_config
from maskdpo_ray.engine.chat import open_tokenizer
from maskdpo_ray.errors import UserError
from maskdpo_ray.evaluation.best_answers import best_answers
from maskdpo_ray.pipeline import report
from maskdpo_ray.rundir import RunDir
from maskdpo_ray.stages import Stages

JUDGE = {
    "annotator": "judge",
    "endpoint": {"base_url": "http://host/v1", "model": "m", "constrain": "vllm"},
}
GIVEN = {"responses": "a.jsonl"}


def tree(**sections):
    return {
        "run_dir": "x",
        "data": {"test": "t.jsonl"},
        "systems": {},
        "annotation": JUDGE,
        "evaluation": {"models": {"theirs": GIVEN}},
        **sections,
    }


def test_answers_alone_need_no_policy_and_no_training_questions():
    config = build_config(tree())
    assert not config.has_policy and config.evaluates
    assert build_config(config.model_dump(mode="json")) == config
    assert build_config(tree(model={"path": "m"}, evaluation={})).has_policy


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"evaluation": {}}, "model.path is missing"),
        ({"systems": {"a": {}}}, "model.path is missing"),
        ({"systems": {"a": {}}, "model": {"path": "m"}}, "without training set systems={}"),
        ({"data": {}, "evaluation": {}, "model": {"path": "m"}}, "data.train is missing"),
        ({"model": {"dtype": "float32"}}, "model.dtype is of a policy, and there is none"),
        ({"evaluation": {"models": {"base": GIVEN}}}, "'base' is the policy before training"),
        ({"evaluation": {"models": {"a b": GIVEN}}}, "models: 'a b' cannot name one of them"),
        ({"evaluation": {"models": {"a": {}}}}, "models.a: give path, endpoint or responses"),
        ({"evaluation": {"models": {"a": {**GIVEN, "path": "m"}}}}, "(got path and responses)"),
        ({"evaluation": {"models": {"a": {**GIVEN, "system_prompt": "s"}}}}, "need no system_"),
        (
            {"evaluation": {"models": {"a": {"endpoint": JUDGE["endpoint"]}}}},
            "unknown key 'evaluation.models.a.endpoint.constrain'",
        ),
        (
            {
                "evaluation": {
                    "models": {
                        "a": {
                            "endpoint": {"base_url": "http://h/v1", "model": "m"},
                            "dtype": "float32",
                        }
                    }
                }
            },
            "the server of endpoint decides dtype",
        ),
        (
            {"evaluation": {"models": {"theirs": GIVEN}, "temperature": 0.5}},
            "evaluation.temperature: all answers exist already",
        ),
        (
            {"evaluation": {"models": {"a": {"path": "m", "engine": {"model": "n"}}}}},
            "decided by the section's model",
        ),
        (
            {"evaluation": {"models": {"a": {"path": "m", "engine": {"tensor_parallel_size": 2}}}}},
            "needs resources.sampler.gpus=2",
        ),
        (
            {
                "systems": {"theirs": {}},
                "model": {"path": "m"},
                "data": {"train": "q", "test": "t"},
            },
            "'theirs' stands in systems and in evaluation.models",
        ),
    ],
)
def test_what_would_be_ignored_is_refused(sections, words):
    with pytest.raises(UserError) as caught:
        build_config(tree(**sections))
    assert words in str(caught.value)


def test_another_model_is_another_run_and_its_room_is_not(tmp_path):
    def claim(path, engine):
        given = {"models": {"theirs": GIVEN, "other": {"path": path, "engine": engine}}}
        run_dir = str(tmp_path / "run")
        RunDir(build_config(tree(evaluation=given, run_dir=run_dir))).claim()

    claim("m", {"max_num_seqs": 4})
    (tmp_path / "run" / "answer-other").mkdir()
    claim("m", {"max_num_seqs": 8})
    with pytest.raises(UserError, match="differ: evaluation.models.other.path"):
        claim("n", {"max_num_seqs": 8})


def labelled(response, start, end, label="ok") -> str:
    sentences = [{"start": start, "end": end, "label": label}]
    return json.dumps({"id": "a", "response": response, "sentences": sentences})


# -- the file ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2 is not JSON"),
        (b"\xff", "line 2 is not UTF-8"),
        ("[]", "line 2 must be a JSON object, not list"),
        ('{"response": "a"}', "line 2 has neither 'id' nor 'question'"),
        ('{"id": "a"}', "line 2 has neither 'response', a text, nor 'responses'"),
        ('{"id": "a", "responses": []}', "line 2: 'responses' is empty"),
        ('{"id": "a", "responses": "b"}', "'responses' must be a list, not str"),
        ('{"id": "a", "response": null}', "'response' must be a string, not NoneType"),
        ('{"id": "a", "responses": ["b", 1]}', r"'responses\[1\]' must be a string, not int"),
        ('{"id": 1.5, "response": "b"}', "'id' must be a string, not float"),
        ('{"id": "a", "responses": [{"text": "b"}]}', r"'responses\[0\]' must be a string, not N"),
        ('{"id": "a", "responses": ["b"], "sentences": [1]}', "label 'response', and no 'resp"),
        ('{"id": "a", "response": "b", "sentences": "c"}', "sentences of 'response' must be list"),
        ('{"id": "a", "response": "b", "sentences": [{}]}', "of 'response' has no key 'label'"),
        (labelled("bc", 0, 3), "'response' of 2 characters has a sentence at 0:3"),
        ('{"id": "a", "candidates": "b"}', "'candidates' must be a list, not str"),
        (labelled("b", 0, 1, "true"), "labelled 'true'; a label is one of ok, nofact"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, words):
    path = tmp_path / "a.jsonl"
    line = line if isinstance(line, bytes) else line.encode()
    path.write_bytes(b'{"id": 7, "response": "ok"}\n' + line)
    with pytest.raises(UserError, match=words):
        list(read_answers(str(path)))


def test_a_missing_or_empty_file_is_told(tmp_path):
    with pytest.raises(UserError, match="no answer file at .*none.jsonl: No such file"):
        list(read_answers(str(tmp_path / "none.jsonl")))
    (tmp_path / "a.jsonl").write_text("\n\n")
    with pytest.raises(UserError, match="holds no answer"):
        list(read_answers(str(tmp_path / "a.jsonl")))


def test_answers_may_come_as_parquet(tmp_path):
    rows = [
        {"id": "a", "responses": ["b", "c"], "response": None},
        {"id": "d", "responses": None, "response": ""},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    first, second = read_answers(str(tmp_path / "a.parquet"))
    assert (first.response, first.place[-5:]) == (None, "row 1")
    assert [each.text for each in first.responses] == ["b", "c"]
    assert (second.response.text, second.responses) == ("", [])


def test_labels_come_with_an_answer_or_stand_within_several(tmp_path):
    sentences = [
        {"start": 0, "end": 2, "label": "ok"},
        {"start": 3, "end": 5, "label": "contradictory"},
    ]
    row = {"id": "a", "response": "A. B.", "sentences": sentences, "responses": ["C."]}
    row["responses"].append({"response": "A. B.", "sentences": sentences})
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    [read] = read_answers(str(tmp_path / "a.jsonl"))
    plain, labelled = read.responses
    assert (plain.text, plain.sentences) == ("C.", [])
    assert labelled == read.response
    cut = [(each["start"], each["end"], each["verdict"]) for each in labelled.sentences]
    assert cut == [(0, 3, "ok"), (3, 5, "contradictory")], "white space goes to its sentence"


def test_labels_that_leave_text_out_are_left_out_themselves(tmp_path):
    (tmp_path / "a.jsonl").write_text(labelled("b. c.", 0, 2))
    [read] = read_answers(str(tmp_path / "a.jsonl"))
    assert read.response.text == "b. c." and not read.response.sentences
    assert "a.jsonl line 1: sentences of 'response': mask_text_outside" in read.response.left_out


@pytest.mark.parametrize(
    ("name", "all_", "labelled", "left_out"),
    [("factscore_bio", 549, 501, 4), ("tofueval", 1777, 1777, 0)],
)
def test_a_file_of_labelled_questions_is_one_of_labelled_answers(
    real_data, name, all_, labelled, left_out
):
    answers = [each for row in read_answers(str(real_data / f"{name}.jsonl")) for each in row.every]
    assert len(answers) == all_
    assert sum(bool(each.sentences) for each in answers) == labelled
    assert sum(bool(each.left_out) for each in answers) == left_out


def answer(place: str, id_=None, question=None) -> Answers:
    return Answers(place, id_, question, Answer("r", []), [])


def test_the_id_comes_before_the_text_and_one_text_answers_all_questions_that_have_it():
    questions = [("a", "Who?"), ("b", "Who? "), ("c", "Where?"), ("d", "When?")]
    lines = [
        answer("f line 1", "c", "Who?"),
        answer("f line 2", "other name", " Who?"),
        answer("f line 3", "x", "Why?"),
    ]
    found, unmatched = match(lines, questions, "f")
    where = {row_id: each.place for row_id, each in found.items()}
    assert where == {"c": "f line 1", "a": "f line 2", "b": "f line 2"}
    assert unmatched == ["x"]
    with pytest.raises(UserError, match="f line 4: question 'a' is answered in f line 2 already"):
        match([*lines, answer("f line 4", "a")], questions, "f")
    with pytest.raises(UserError, match="none of its 1 rows answers a test question.*'Why.'"):
        match([answer("f line 1", None, "Why?")], questions, "f")


# -- the run ----------------------------------------------------------------------------------


QUESTIONS = [
    {"id": f"q{n}", "topic": f"t{n}", "question": f"Who was {name}?", "document": "d"}
    for n, name in enumerate(("Ada", "Bo", "Cy", "Di"))
]
LINES = [
    {"id": "q0", "response": "True one. False two.", "responses": ["True.", "False.", "True."]},
    {"question": "Who was Bo?", "response": "I'm sorry, I do not know him.",
     "responses": ["True.", ""]},
    {"id": "q2", "response": "True.", "responses": ["False.", "True. False."]},
    {"id": "q9", "response": "Nobody asked."},
]  # fmt: skip


@pytest.fixture
def opened(tmp_path):
    """Opens the stages of a run that evaluates answers of a file, with or without a policy."""

    def write(name, rows):
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
        return str(tmp_path / name)

    def open_(lines=LINES, folder="run", judges=None, **sections) -> Stages:
        given = {"models": {"theirs": {"responses": write("a.jsonl", lines)}}, "judges": judges}
        run = {"run_dir": str(tmp_path / folder), "data": {"test": write("t.jsonl", QUESTIONS)}}
        ns = {"samples": 4, "best_of_n": [1, 2, 4]}
        return Stages(build_config(tree(**run, evaluation=given | ns, **sections)))

    return open_


class ByTheFirstWord:
    async def verdict(self, question, sentence):
        return {"True": "ok", "False": "contradictory"}.get(sentence[:5].strip(" ."), "nofact"), ""


def examine(stages: Stages, policy, judge: str | None = None) -> None:
    """The stage of an examiner, without an actor."""
    rows = asyncio.run(Annotate(ByTheFirstWord())(list(stages.answered(policy).rows())))
    store = stages.evaluate(policy, judge).store
    store.begin({})
    store.write([row["id"] for row in rows], rows, [], group=8)
    store.finish_rows([row["id"] for row in rows], 0.0)


def test_missing_and_unmatched_answers_are_counted_and_named(opened, capsys):
    stages = opened()
    [theirs] = stages.policies()
    store = stages.answered(theirs)
    counts = {"in": 4, "out": 3, "rejected": {"response_missing": 1}, "unmatched": 1}
    assert store.manifest()["counts"] == counts and store.manifest()["unmatched"] == ["q9"]
    assert [row["id"] for row in store.rejected_rows()] == ["q3"]
    said = capsys.readouterr().err
    assert "1 lines answer no test question: 'q9'" in said
    assert "1 test questions have no usable answer: 'q3'" in said
    assert stages.answered(theirs).manifest()["counts"] == counts
    assert capsys.readouterr().err == "", "it is brought in once"
    changed = opened([*LINES, {"id": "q3", "response": "True."}])
    assert changed.answered(changed.policies()[0]).folder.uri != store.folder.uri


def test_given_answers_are_scored_as_sampled_ones_are(opened, capsys):
    stages = opened()
    [theirs] = stages.policies()
    examine(stages, theirs)
    report(stages)
    made = json.loads(stages.dir.folder.read("report.json"))
    greedy, sampled = made["systems"]["theirs"]["greedy"], made["systems"]["theirs"]["sampled"]
    assert (greedy["correct"], greedy["incorrect"], greedy["responses"]) == (3, 1, 3)
    assert (greedy["abstained"], greedy["respond_ratio"]) == (1, pytest.approx(200 / 3))
    assert (sampled["responses"], sampled["abstained"], sampled["unscored"]) == (7, 1, 1)
    assert greedy["mean_tokens"] is sampled["mean_tokens"] is None
    # Of four answers to no question, of two to each: 1, 1 (its other one is empty), 0.5.
    assert made["best_of_n"]["theirs"] == {"1": pytest.approx(100 * (2 / 3 + 1 + 0.25) / 3),
                                           "2": pytest.approx(100 * (1 + 1 + 0.5) / 3)}  # fmt: skip
    assert made["best_of_n_detail"]["theirs"]["short"] == {"1": 0, "2": 1}
    assert list(made["stages"]) == ["questions-test", "answer-theirs", "evaluate-theirs"]
    printed = capsys.readouterr()
    assert "theirs, best of 4, has no score: some questions have fewer responses" in printed.err
    scores, details = printed.out.split("\n\n")
    header, _, row, _ = scores.splitlines()
    assert row.split()[:3] == ["theirs", "greedy", "75.0"]
    assert "F1@1" in header, "K is the median of the first system's greedy answers"
    assert greedy["f1_at_k"]["k"] == sampled["f1_at_k"]["k"] == 1
    assert details.splitlines()[0].split()[-1] == "responded"
    page = stages.dir.folder.read("report.html").decode()
    assert "theirs" in page and "Preference pairs" not in page
    best = list(best_answers(stages.evaluate(theirs).store.rows(), 2))
    assert [each["messages"][1]["content"] for each in best] == ["True.", "True.", "True. False."]


def test_examiners_are_held_against_the_labels_that_people_gave_the_answers(opened, capsys):
    """People have made one sentence of what our splitter would cut in two."""
    ok, wrong = "ok", "unverifiable"

    def of(response, *cut):
        ends = [end for end, _ in cut]
        starts = [0, *ends[:-1]]
        spans = zip(starts, ends, [label for _, label in cut], strict=True)
        return {
            "response": response,
            "sentences": [{"start": a, "end": b, "label": label} for a, b, label in spans],
        }

    gap = of("False. And.", (6, ok))
    lines = [
        {"id": "q0", **of("True one. False two.", (10, ok), (20, wrong)), "candidates": [gap]},
        {"id": "q1", **of("True. 1 so. False.", (12, wrong), (18, wrong))},
        {"id": "q2", "response": "True.", "responses": ["False.", of("True.", (5, ok))]},
    ]
    stages = opened(lines, judges={"other": {**JUDGE, "max_tokens": 9}})
    [theirs] = stages.policies()
    examine(stages, theirs)
    examine(stages, theirs, "other")
    report(stages)
    made = json.loads(stages.dir.folder.read("report.json"))
    found = made["human_labels"]["theirs"]
    assert list(found) == ["annotation", "evaluation.judges.other"]
    first = found["annotation"]
    assert (first["sentences"], first["questions"], first["topics"]) == (5, 3, 3)
    assert (first["hallucinated_examined"], first["hallucinated_believed"]) == (2, 3)
    assert (first["precision"][0], first["recall"][0]) == (1, pytest.approx(2 / 3))
    # Agreed on 4 of 5, by chance on 2/5 * 3/5 twice.
    assert first["kappa"][0] == pytest.approx((4 / 5 - 12 / 25) / (13 / 25))
    assert first["annotator"] == "judge" and first["model"] == "m"
    # Answers that nobody labelled count in the score as ever.
    assert made["systems"]["theirs"]["sampled"]["responses"] == 3
    assert made["stages"]["answer-theirs"]["answers without their labels"] == 1
    printed, said = capsys.readouterr()
    assert "a.jsonl: labels of 1 answers are left out, the first: " in said
    assert "theirs, as people labelled it\n" in printed
    assert "annotation, judge m: 5 sentences of 3 questions" in printed
    page = stages.dir.folder.read("report.html").decode()
    assert "theirs, as people labelled it" in page and "evaluation.judges.other: judge m" in page


def test_without_labels_nobody_is_held_against_them(opened, capsys):
    stages = opened()
    [theirs] = stages.policies()
    examine(stages, theirs)
    report(stages)
    assert json.loads(stages.dir.folder.read("report.json"))["human_labels"] == {}
    assert "labelled" not in capsys.readouterr().out


def test_one_answer_a_question_has_no_sampled_score_and_no_best_of_n(opened, capsys):
    stages = opened([{"id": "q0", "response": "True."}, {"id": "q1", "response": "False."}])
    [theirs] = stages.policies()
    examine(stages, theirs)
    report(stages)
    made = json.loads(stages.dir.folder.read("report.json"))
    assert made["systems"]["theirs"]["greedy"]["micro"] == 50
    assert made["systems"]["theirs"]["sampled"] is None and made["best_of_n"] == {}
    assert capsys.readouterr().out.splitlines()[2].split()[:3] == ["theirs", "greedy", "50.0"]
    assert made["systems"]["theirs"]["greedy"]["f1_at_k"]["k"] == 1


def test_with_a_policy_its_tokens_tell_the_length(opened):
    path = models.tiny_llama()
    stages = opened(model={"path": path})
    base, theirs = stages.policies()
    assert (base.name, theirs.name) == ("base", "theirs")
    first = next(row for row in stages.answered(theirs).rows() if row["id"] == "q0")
    tokenizer = open_tokenizer(path)
    [greedy, *sampled] = first["candidates"]
    assert greedy["token_ids"][:-1] == tokenizer.encode(LINES[0]["response"])
    assert (greedy["decoding"], greedy["model"]) == ("greedy", "theirs")
    assert [each["decoding"] for each in sampled] == ["sampled"] * 3
    alone = opened(folder="alone")
    assert alone.answered(alone.policies()[0]).key != stages.answered(theirs).key


def test_what_needs_a_policy_says_that_there_is_none(opened):
    stages = opened()
    with pytest.raises(UserError, match="there is no policy, only evaluation.models"):
        stages.sample()
    with pytest.raises(UserError, match="data.train is missing"):
        stages.questions("train")
    with pytest.raises(UserError, match="data.train is missing"):
        stages.judge_checks()


def test_what_is_not_there_does_not_take_the_directory(opened, tmp_path):
    with pytest.raises(UserError, match="evaluation.models.other.path 'no/such/model' is neither"):
        models_ = {"other": {"path": "no/such/model"}}
        run = {"run_dir": str(tmp_path / "other"), "data": {"test": str(tmp_path / "t.jsonl")}}
        Stages(build_config(tree(**run, evaluation={"models": models_})))
    assert not (tmp_path / "other").exists()


def test_questions_to_train_on_are_not_read_where_nothing_is_trained(opened, tmp_path):
    stages = opened()
    data = {"train": str(tmp_path / "none.jsonl"), "test": str(tmp_path / "t.jsonl")}
    given = stages.config.model_dump(mode="json") | {"data": data, "run_dir": str(tmp_path / "r")}
    assert len(list(Stages(build_config(given)).questions("test").rows())) == 4


def test_a_further_model_has_settings_of_its_own(tmp_path):
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, QUESTIONS)))
    path = models.tiny_llama()

    def key(**of_model):
        given = tree(
            run_dir=str(tmp_path / "run"),
            data={"test": str(tmp_path / "t.jsonl")},
            model={"path": path, "dtype": "float32"},
            sampling={"engine": {"max_model_len": 256}},
            evaluation={"models": {"other": {"path": path, **of_model}}},
        )
        base, other = (policies := Stages(build_config(given))).policies()
        assert policies.answer(base).store.name == "answer-base"
        policies.answer(other).store.begin({})  # what is finished of it would be made anew
        return policies.answer(other).store.settings

    settings = key(dtype="float32", system_prompt="Be brief.")
    assert settings["model"]["system_prompt"] == "Be brief."
    assert (settings["model"]["dtype"], settings["engine"]) == ("float32", {"max_model_len": 256})
    assert settings["policy"].startswith("sha256:")
    with pytest.raises(UserError, match="these keys differ: evaluation.models.other.engine"):
        key(dtype="float32", system_prompt="Be brief.", engine={"max_model_len": 512})
