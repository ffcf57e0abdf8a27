"""Short answers by their reference answers: by words, by a judge, as a score and in a run."""

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskdpo_ray.config import ColumnsConfig, ShortFormConfig, build_config
from maskdpo_ray.engine.chat_model import Reply
from maskdpo_ray.engine.refusal import RequestRefused
from maskdpo_ray.errors import UserError
from maskdpo_ray.evaluation.intervals import wilson
from maskdpo_ray.evaluation.short_form.grader import WORDING, Grader, build_grader
from maskdpo_ray.evaluation.short_form.match import grade
from maskdpo_ray.evaluation.short_form.references import read_references
from maskdpo_ray.evaluation.short_form.score import short_form_score
from maskdpo_ray.records import GRADED_SCHEMA
from maskdpo_ray.report.write import write_report
from maskdpo_ray.sources import Source
from maskdpo_ray.stages import Stages


@pytest.mark.parametrize(
    ("response", "references", "language", "expected"),
    [
        ("Canberra", ["Canberra"], "en", "correct"),
        ("The capital is CANBERRA.", ["canberra"], "en", "correct"),
        ("It is Canberra, not Sydney.", ["Canberra"], "en", "correct"),
        ("It is not Canberra but Sydney.", ["Canberra"], "en", "incorrect"),
        ("It isn't Canberra.", ["Canberra"], "en", "incorrect"),
        ("Sydney", ["Canberra"], "en", "incorrect"),
        ("Romania", ["Oman"], "en", "incorrect"),  # whole words
        ("Café Müller", ["Cafe Muller"], "en", "correct"),
        ("The U.S.A.", ["USA"], "en", "correct"),
        ("USA", ["U.S.A."], "en", "correct"),
        ("Canberra's the one", ["Canberra"], "en", "correct"),
        ("Flann O’Brien", ["OBrien"], "en", "correct"),
        ("It isn’t Canberra", ["Canberra"], "en", "incorrect"),
        ("It is 5", ["-5"], "en", "incorrect"),
        ("Blood type A.", ["A"], "en", "correct"),
        ("Blood type B.", ["A"], "en", "incorrect"),
        ("It is −5", ["-5"], "en", "correct"),
        ("From 1815-1852", ["1852"], "en", "correct"),
        ("C", ["C++"], "en", "incorrect"),
        ("C++.", ["C++"], "en", "correct"),
        ("5+ people", ["5"], "en", "correct"),
        ("About 1,250,000 people", ["1250000"], "en", "correct"),
        ("In 1890", ["189"], "en", "incorrect"),
        ("the Beatles", ["Beatles"], "en", "correct"),
        ("Beatles, the", ["The Beatles"], "en", "correct"),
        ("José Martí", ["José Martí"], "en", "correct"),
        ("Ｃａｎｂｅｒｒａ", ["Canberra"], "en", "correct"),
        ("Marie Skłodowska-Curie", ["Marie Curie"], "en", "incorrect"),
        ("Marie Skłodowska-Curie", ["Marie Curie", "Skłodowska Curie"], "en", "correct"),
        ("I don't know.", ["Canberra"], "en", "not_attempted"),
        ("I'm not sure, but it may be Canberra.", ["Canberra"], "en", "correct"),
        ("", ["Canberra"], "en", "not_attempted"),
        ("首都是堪培拉。", ["堪培拉"], "zh", "correct"),
        ("首都不是堪培拉。", ["堪培拉"], "zh", "incorrect"),
        ("首都是堪培拉，不是悉尼。", ["堪培拉"], "zh", "correct"),
        ("首都是悉尼。", ["堪培拉"], "zh", "incorrect"),
        ("我不知道。", ["堪培拉"], "zh", "not_attempted"),
        ("The", ["the"], "en", "correct"),
        ("anything", ["..."], "en", "incorrect"),
    ],
)
def test_an_answer_is_graded_by_the_words_of_its_references(
    response, references, language, expected
):
    assert grade(response, references, language) == expected


@given(st.text(min_size=1), st.text(), st.text())
def test_a_reference_that_stands_among_other_words_is_found(reference, before, after):
    found = grade(f"{before} so. {reference} . {after}", [reference], "en")
    assert found in ("correct", "incorrect", "not_attempted")
    if any(char.isalnum() for char in reference) and not after and not before:
        assert found == "correct"


# -- references ---------------------------------------------------------------------------------


def source(path, rows, **columns) -> Source:
    path.write_text("\n".join(map(json.dumps, rows)))
    return Source(str(path), ColumnsConfig(**columns))


def test_references_are_a_text_or_several_in_a_column_of_any_name(tmp_path):
    rows = [
        {"id": 1, "question": "a", "gold": "x"},
        {"question": "b", "gold": ["y", " ", "z"]},
        {"id": "c", "question": "c", "gold": None},
        {"id": "d", "question": "d"},
    ]
    found = read_references(source(tmp_path / "q.jsonl", rows, answers="gold"))
    assert found.pop("1") == ["x"]
    assert list(found.values()) == [["y", "z"]], "named by its content"
    with pytest.raises(UserError, match="no question has reference answers"):
        read_references(source(tmp_path / "q.jsonl", rows))
    with pytest.raises(UserError, match="'answers' must be a text or a list of texts, not int"):
        read_references(source(tmp_path / "q.jsonl", [{"question": "a", "answers": [1]}]))


# -- the judge ----------------------------------------------------------------------------------


def row(name: str, *answers: str, decoding="greedy") -> dict:
    candidates = [
        {"index": n, "decoding": decoding, "response": text} for n, text in enumerate(answers)
    ]
    question = {"question": f"What is {name}?", "language": "en"}
    return {"id": name, "topic": name, **question, "candidates": candidates}


class Says:
    def __init__(self, *said) -> None:
        self.said, self.asked = list(said), []

    async def reply(self, messages, choices):
        self.asked.append(messages[0]["content"])
        said = self.said.pop(0)
        if isinstance(said, Exception):
            raise said
        return Reply(said, True)


def test_a_judge_sees_question_references_and_answer():
    judge = Says("Correct", "Not attempted", "Perhaps", RequestRefused("too long"))
    grader = Grader({"q": ["x", 'y "z"'], "r": ["x"]}, ["greedy"], judge, WORDING.read())
    rows = [row("q", "is x", "hm", "a", "b", " "), row("s", "x"), row("r", "x", decoding="sampled")]
    found, lost, none = asyncio.run(grader(rows))
    grades = [answer["grade"] for answer in found["answers"]]
    assert grades == ["correct", "not_attempted", "error", "error", "not_attempted"]
    assert "What is q?" in judge.asked[0] and 'x", "y \\"z\\"' in judge.asked[0]
    assert "Answer: is x\n" in judge.asked[0] and len(judge.asked) == 4
    assert lost.reason == "no_reference" and none["answers"] == []
    assert set(found) == set(GRADED_SCHEMA.names)


def test_without_a_judge_no_model_is_started():
    [found] = asyncio.run(build_grader(ShortFormConfig(), {"q": ["x"]})([row("q", "is x")]))
    assert found["answers"][0]["grade"] == "correct"


def test_our_wording_has_both_languages():
    assert set(WORDING.read().languages) == {"en", "zh"}


# -- the score ----------------------------------------------------------------------------------


def graded(topic: str, *grades: str, decoding="greedy") -> dict:
    answers = [{"decoding": decoding, "grade": each} for each in grades]
    return {"id": topic, "topic": topic, "answers": answers}


def test_the_score_is_that_of_simpleqa():
    """Of 10 answers 4 are correct, 4 incorrect, 2 not attempted."""
    rows = [graded(str(n), "correct", "incorrect") for n in range(4)]
    rows += [graded("u", "not_attempted"), graded("v", "not_attempted", "error")]
    found = short_form_score(rows, "greedy")
    accuracy, given_attempted = 40.0, 50.0
    assert (found["accuracy"], found["given_attempted"]) == (accuracy, given_attempted)
    harmonic = 2 * accuracy * given_attempted / (accuracy + given_attempted)
    assert found["f"] == pytest.approx(harmonic)
    counts = ("correct", "incorrect", "not_attempted", "errors", "answers", "topics")
    assert [found[key] for key in counts] == [4, 4, 2, 1, 10, 6]
    low, high = found["f_ci95"]
    assert low < harmonic < high
    # All topics say the same of what is attempted: half is right.
    assert found["given_attempted_ci95"] == pytest.approx([100 * e for e in wilson(0.5, 4)])


def test_nothing_attempted_and_nothing_graded():
    found = short_form_score([graded("a", "not_attempted"), graded("b", "not_attempted")], "greedy")
    assert (found["accuracy"], found["given_attempted"], found["f"]) == (0, None, 0)
    assert found["given_attempted_ci95"] is None
    with pytest.raises(UserError, match="no greedy short answer has a grade; the judge fail"):
        short_form_score([graded("a", "error")], "greedy")


# -- in a run -----------------------------------------------------------------------------------


def tree(tmp_path, **short_form) -> dict:
    endpoint = {"base_url": "http://h/v1", "model": "m", "constrain": "none"}
    return {
        "run_dir": str(tmp_path / "run"),
        "systems": {},
        "data": {"test": str(tmp_path / "t.jsonl")},
        "annotation": {"annotator": "judge", "endpoint": endpoint},
        "evaluation": {
            "judges": {},
            "models": {"theirs": {"responses": str(tmp_path / "a.jsonl")}},
            "samples": 2,
            "best_of_n": [1],
            "short_form": short_form,
        },
    }


def write(path, rows) -> None:
    path.write_text("\n".join(map(json.dumps, rows)))


def test_given_answers_are_graded_and_reported(tmp_path):
    questions = [{"id": f"q{n}", "question": f"{n}?", "topic": str(n)} for n in range(4)]
    golds = [{"answers": "one"}, {"answers": ["two", "2"]}, {"answers": "three"}, {}]
    write(tmp_path / "t.jsonl", [q | g for q, g in zip(questions, golds, strict=True)])
    given = ["It is one.", "2", "I don't know.", "four"]
    write(tmp_path / "a.jsonl", [{"id": f"q{n}", "response": text} for n, text in enumerate(given)])
    stages = Stages(build_config(tree(tmp_path)))
    [theirs] = stages.policies()
    [stage] = stages.examinations(theirs)
    rows = list(stages.answered(theirs).rows())
    outcomes = asyncio.run(stage.build()(rows))
    stage.store.begin({})
    stage.store.write_outcomes([row["id"] for row in rows], outcomes, 8)
    stage.store.finish_rows([row["id"] for row in rows], 0.0, False)
    made = write_report(stages)
    score = made["short_form"]["theirs"]["greedy"]
    assert (score["correct"], score["not_attempted"], score["answers"]) == (2, 1, 3)
    assert made["stages"]["short-form-theirs"]["rejected"] == {"no_reference": 1}
    page = stages.dir.folder.read("report.html").decode()
    assert "Short answers, by reference answers" in page and "by the words of" in page
    # Answers are graded anew by other references.
    write(tmp_path / "t.jsonl", [{**q, "answers": "five"} for q in questions])
    again = Stages(build_config(tree(tmp_path)), rerun=True)
    [other] = again.examinations(theirs)
    assert other.store.key != stage.store.key and not other.store.complete


def test_another_column_of_references_asks_no_model_again(tmp_path):
    write(tmp_path / "t.jsonl", [{"question": "a?", "answers": "one", "gold": "1"}])
    write(tmp_path / "a.jsonl", [{"question": "a?", "response": "1"}])
    given = tree(tmp_path)
    ours = Stages(build_config(given))
    given["data"]["test"] = {"path": given["data"]["test"], "columns": {"answers": "gold"}}
    theirs = Stages(build_config(given), rerun=True)
    policy = ours.policies()[0]
    assert theirs.answered(policy).key == ours.answered(policy).key
    assert theirs.short_form(policy).store.key != ours.short_form(policy).store.key


@pytest.mark.parametrize(
    ("short_form", "words"),
    [
        ({"templates": "w.yaml"}, "templates is the wording of a judge"),
        ({"judge": {}}, "model or endpoint is missing"),
        (
            {"judge": {"endpoint": {"base_url": "http://h/v1", "model": "m"}}},
            "constrain is missing",
        ),
        ({"decodings": ["greedy", "greedy"]}, "names one twice"),
        ({"judge": {"model": "m", "engine": {"tensor_parallel_size": 2}}}, "short_form.gpus=2"),
    ],
)
def test_what_would_be_ignored_is_refused(tmp_path, short_form, words):
    with pytest.raises(UserError) as caught:
        build_config(tree(tmp_path, **short_form))
    assert words in str(caught.value)


def test_missing_references_are_told_before_anything_starts(tmp_path):
    write(tmp_path / "t.jsonl", [{"question": "a?"}])
    write(tmp_path / "a.jsonl", [{"question": "a?", "response": "b"}])
    with pytest.raises(UserError, match="no question has reference answers"):
        Stages(build_config(tree(tmp_path)))
    world = {"world": {"small": True}, "annotation": {"annotator": "closed_world"}}
    with pytest.raises(UserError, match="the world's questions have none"):
        build_config({"run_dir": "x", **world, "evaluation": {"short_form": {}}})
