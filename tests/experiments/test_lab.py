"""Settings of the runs that experiments make."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from maskdpo_ray.config import ModelConfig
from maskdpo_ray.errors import RowRejected, UserError
from maskdpo_ray.experiments.compare import Counts
from maskdpo_ray.experiments.lab import Lab, other_model
from maskdpo_ray.experiments.ready_pairs import with_answers
from maskdpo_ray.questions import read_questions, source_of
from maskdpo_ray.records import FACT_SCHEMA, QUESTION_SCHEMA
from maskdpo_ray.rundir import StageStore
from maskdpo_ray.storage import Folder

CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"
ROW = {"id": "q", "topic": "t", "question": "Who?", "document": "D.", "language": "en"}


def lab(tmp_path, *settings: str, asked: dict = ROW) -> Lab:
    """With one test question."""
    (tmp_path / "asked.jsonl").write_text(json.dumps(asked))
    settings = (f"data.test={tmp_path}/asked.jsonl", *settings)
    return Lab(str(CONFIGS / "llama3.1-8b-anah.yaml"), str(tmp_path), [0], settings)


def test_greedy_answers_alone_unless_said_otherwise(tmp_path):
    assert lab(tmp_path).read(0).evaluation.samples == 1
    more = lab(tmp_path, "evaluation.samples=8", "evaluation.best_of_n=[1, 8]").read(0)
    assert (more.evaluation.samples, more.evaluation.best_of_n) == (8, [1, 8])


def test_judges_stay_those_of_the_configuration(tmp_path):
    assert lab(tmp_path).judges == ["qwen"]
    assert lab(tmp_path, "evaluation.judges={}").judges == []
    world = Lab(str(CONFIGS / "paper.yaml"), str(tmp_path), [0])
    assert world.judges == []


def test_rows_of_its_own_are_read_under_our_names_and_the_users_under_theirs(tmp_path):
    theirs = lab(tmp_path, "data.columns={question: prompt}")
    settings = theirs.on_answers(0, "given", [with_answers(ROW, "One.", "Two.")])
    data = theirs.read(0, *settings).data
    ((_, row),) = read_questions(source_of(data, "train"))
    assert (row["question"], len(row["candidates"])) == ("Who?", 2)
    assert data.test.columns is None and data.columns.question == "prompt"


def test_a_part_is_listed_under_the_users_names(tmp_path):
    theirs = lab(tmp_path, "data.columns={question: prompt}")
    theirs.run = lambda seed, setting, *_: setting.removeprefix("preference.questions=")
    assert json.loads(Path(theirs.run_part(0, "part", [ROW])).read_text()) == {
        "id": "q", "prompt": "Who?"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["data.limit=1"], "data.limit=1: this experiment trains on rows that it makes itself"),
        (["data.split={test: 0.2}", "data.test="], "data.split: an experiment changes"),
        (["systems={mask_dpo: {}}"], "compares 'dpo', and the configuration has base, mask_dpo"),
    ],
)
def test_what_would_stop_it_midway_is_refused_beforehand(tmp_path, settings, words):
    with pytest.raises(UserError, match=words):
        lab(tmp_path, *settings).check(("dpo", "mask_dpo"), makes_rows=True)


def test_rows_are_not_cut_silently(tmp_path):
    with pytest.raises(UserError, match="data.limit=1: this experiment trains on rows"):
        lab(tmp_path, "data.limit=1").on_answers(0, "given", [ROW, ROW])


def test_a_limit_may_stand_where_an_experiment_makes_no_rows(tmp_path):
    lab(tmp_path, "data.limit=1").check(["mask_dpo"])


def test_another_model_has_nothing_of_the_first_but_its_arithmetic():
    first = ModelConfig(path="org/model", revision="abc", chat_template="t", dtype="float32")
    other = first.model_copy(update=other_model("org/other"))
    assert other.model_dump(exclude_defaults=True) == {"path": "org/other", "dtype": "float32"}


def test_a_system_that_the_configuration_lacks_is_named(tmp_path):
    policies = [SimpleNamespace(name=name) for name in ("base", "mask_dpo")]
    stages = SimpleNamespace(policies=lambda: policies, evaluate=lambda policy: policy)
    with pytest.raises(UserError, match="compares 'dpo', and the configuration has base, mask_dpo"):
        lab(tmp_path).annotated(stages, "dpo")


BARE = {**ROW, "document": None}
CLOSED_BOOK = "evaluation.annotation={annotator: judge, model: m, templates: closed_book}"


def test_who_reads_documents_judges_no_questions_without(tmp_path):
    judges = "evaluation.judges={knows: {annotator: judge, model: m, templates: closed_book}}"
    assert lab(tmp_path).examiners() == [None, "qwen"]
    assert lab(tmp_path, asked=BARE).examiners() == []
    assert lab(tmp_path, judges, asked=BARE).examiners() == ["knows"]
    assert lab(tmp_path, CLOSED_BOOK, asked=BARE).examiners() == [None]
    bare = lab(tmp_path, asked=BARE)
    (tmp_path / "more.jsonl").write_text(json.dumps(ROW))
    assert bare.examiners(f"data.test={tmp_path}/more.jsonl") == [None, "qwen"]
    world = Lab(str(CONFIGS / "paper.yaml"), str(tmp_path), [0])
    assert world.examiners() == [None], "the world's annotator reads nothing"


def test_test_questions_that_the_examiner_cannot_judge_are_refused_beforehand(tmp_path):
    with pytest.raises(UserError, match="data.test: no question has a document, which .* 'anah'"):
        lab(tmp_path, asked=BARE).check()
    lab(tmp_path, CLOSED_BOOK, asked=BARE).check()


def test_an_outcome_counts_the_questions_that_nobody_examined(tmp_path):
    """Those that count, whichever stage they were rejected in."""

    def store(name: str, schema, rows: list[dict], **rejected: str) -> StageStore:
        made = StageStore(Folder(str(tmp_path / name)), name, name, {}, schema)
        reasons = [(row_id, RowRejected(reason, "")) for row_id, reason in rejected.items()]
        made.write([row["id"] for row in rows] + list(rejected), rows, reasons, 8)
        return made

    asked = [{**ROW, "id": row_id, "candidates": []} for row_id in "abcde"]
    sentences = [{"start": 0, "end": 3, "verdict": "ok", "detail": ""}]
    answer = {"response": "Me.", "decoding": "greedy", "token_ids": [1], "sentences": sentences}
    facts = [{"text": "It is me.", "verdict": "supported", "detail": ""}]
    of_facts = [{"start": 0, "end": 3, "facts": facts, "error": False, "detail": ""}]
    examined = {**answer, "index": 0, "abstained": False, "sentences": of_facts}
    judged = store("judged", QUESTION_SCHEMA, [{**asked[0], "candidates": [answer]}],
                   b="document_missing", e="document_missing")  # fmt: skip
    stores = {
        "asked": store("asked", QUESTION_SCHEMA, asked),
        "answered": store("answered", QUESTION_SCHEMA, [asked[0], asked[1]], c="response_missing"),
        "facts": store(
            "facts", FACT_SCHEMA, [{**asked[0], "answers": [examined]}], b="unknown_topic"
        ),
    }
    stages = SimpleNamespace(
        config=SimpleNamespace(evaluation=SimpleNamespace(factscore=True)),
        policies=lambda: [SimpleNamespace(name="base")],
        questions=lambda split: stores["asked"],
        answered=lambda policy: stores["answered"],
        evaluate=lambda policy, judge: SimpleNamespace(store=judged),
        factscore=lambda policy: SimpleNamespace(store=stores["facts"]),
    )
    found = lab(tmp_path).outcome(stages, "base", of=lambda row: row["id"] != "e")
    assert found.counts == Counts(1, 1, 0, {"document_missing": 1, "response_missing": 1})
    found = lab(tmp_path).facts(stages, "base")
    assert found.counts == Counts(1, 1, 0, {"unknown_topic": 1, "response_missing": 1})
