"""What the jobs of the tables decide by themselves."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from maskdpo_ray.errors import UserError
from maskdpo_ray.experiments.compare import Counts, Outcome
from maskdpo_ray.experiments.lab import Lab, named
from maskdpo_ray.storage import Folder

JOBS = Path(__file__).parents[2] / "jobs"


@pytest.fixture
def job(monkeypatch):
    """A job as a module."""
    monkeypatch.syspath_prepend(str(JOBS))

    def load(name: str):
        return __import__(name)

    yield load
    for name in [n for n, module in sys.modules.items() if str(JOBS) in str(module)]:
        del sys.modules[name]


def rewarded(*rewards) -> dict:
    candidates = [{"response": f"answer {n}", "reward": r} for n, r in enumerate(rewards)]
    return {
        "id": "q", "topic": "t", "question": "Who?", "document": None, "language": "en",
        "candidates": candidates,
    }  # fmt: skip


def test_factunes_matched_pair_is_the_best_and_the_worst(job):
    (pair,) = job("table1").best_and_worst(rewarded(0.5, None, 0.2, 0.9, 0.2))
    assert [c["response"] for c in pair["candidates"]] == ["answer 3", "answer 2"]
    assert job("table1").best_and_worst(rewarded(0.5, 0.5, None)) == []
    assert job("table1").best_and_worst(rewarded(None, None)) == []


def test_parts_of_table_4_are_nested(job):
    rows = [{"id": f"{t}-{q}", "topic": str(t)} for t in range(9) for q in range(3)]
    parts = {
        name: {row["id"] for row in part(rows, 0)} for name, part in job("table4").PARTS.items()
    }
    assert parts["1/3 of the topics"] < parts["2/3 of the topics"]
    assert parts["1 question a topic"] < parts["2 questions a topic"]
    assert len(parts["1/3 of the topics"]) == len(parts["1 question a topic"]) == 9


@pytest.mark.parametrize("text", ["model", "=model", "name="])
def test_a_model_or_file_has_a_name(text):
    with pytest.raises(UserError, match=f"--embedding '{text}' must read NAME=VALUE"):
        named("embedding", text)


TABLE_1 = {"test": [], "large": None, "facttune_samples": 10}


@pytest.fixture
def lab(tmp_path) -> Lab:
    return Lab(str(JOBS / "configs" / "paper.yaml"), str(tmp_path), [0])


@pytest.mark.parametrize(
    ("table", "given", "words"),
    [
        ("table1", TABLE_1 | {"test": ["bio=f"]}, "the world provides the questions"),
        ("table1", TABLE_1 | {"facttune_samples": 1}, "--facttune-samples 1: a pair needs 2"),
        ("table1", TABLE_1 | {"large": "70b"}, "--large 70b: evaluation.models has no model"),
        ("table5", {"embedding": ["policy=x"], "pooling": []}, "needs a name of its own"),
        ("table5", {"embedding": [], "pooling": ["other=last"]}, "NAME is one of policy, and"),
        ("table5", {"embedding": [], "pooling": ["policy=max"]}, "of framed, mean, mean_all, last"),
        ("table6", {"samples": 1}, "--samples 1: best of N needs at least 2"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(job, lab, table, given, words):
    with pytest.raises(UserError, match=words):
        job(table).EXPERIMENT.check(lab, **given)


def real_lab(folder: Path, row: dict, *settings: str) -> Lab:
    """On a model and questions of one's own: those of the test have a document."""
    (folder / "train.jsonl").write_text(json.dumps(row))
    tested = {"id": "t", "question": "When?", "topic": "B", "document": "In 1900."}
    (folder / "test.jsonl").write_text(json.dumps(tested))
    config = str(JOBS / "configs" / "llama3.1-8b-anah.yaml")
    data = [f"data.{split}={folder}/{split}.jsonl" for split in ("train", "test")]
    return Lab(config, str(folder), [0], [*data, *settings])


def test_a_set_of_questions_that_is_not_there_is_told_beforehand(job, tmp_path):
    real = real_lab(tmp_path, {"question": "Who?"})
    with pytest.raises(UserError, match="--test bio: .*nowhere.jsonl"):
        job("table1").EXPERIMENT.check(
            real, **TABLE_1 | {"test": [f"bio={tmp_path}/nowhere.jsonl"]}
        )


FACTSCORE = "evaluation.factscore={writer: {model: org/writer}, knowledge: pages.db}"


def biographies(folder: Path, document: str | None = None) -> str:
    """The value of ``--test`` for a file of one."""
    row = {"id": "bio", "topic": "Ada", "question": "Tell me a bio of Ada."}
    (folder / "bio.jsonl").write_text(json.dumps(row | {"document": document}))
    return f"biographies={folder}/bio.jsonl"


def test_who_reads_documents_has_no_column_for_questions_without(job, tmp_path, capsys):
    """As said before the first run; FActScore looks the facts up."""
    real = real_lab(tmp_path, {"question": "Who?"}, FACTSCORE)
    given = TABLE_1 | {"test": [biographies(tmp_path)]}
    job("table1").EXPERIMENT.check(real, **given)
    assert capsys.readouterr().err == (
        "No sentence score and no sentence score by qwen on biographies: no question has a "
        "document to judge by.\n"
    )
    job("table1").EXPERIMENT.check(real, **given | {"test": [biographies(tmp_path, "She was.")]})
    assert capsys.readouterr().err == ""


def test_questions_that_nobody_could_judge_are_refused(job, tmp_path):
    real = real_lab(tmp_path, {"question": "Who?"})
    with pytest.raises(UserError, match="--test biographies: no question has a document, which"):
        job("table1").EXPERIMENT.check(real, **TABLE_1 | {"test": [biographies(tmp_path)]})


def test_questions_about_what_is_trained_on_are_refused(job, tmp_path):
    """Before the runs of the other sets, which take hours."""
    real = real_lab(tmp_path, {"question": "Who?", "topic": "ada"}, FACTSCORE)
    given = TABLE_1 | {"test": [biographies(tmp_path, "She was.")]}
    shared = "--test biographies: data.test: 1 rows share a topic with data.train, first 'Ada' .id"
    with pytest.raises(UserError, match=shared):
        job("table1").EXPERIMENT.check(real, **given)


def test_a_file_of_answers_must_answer_every_set(job, tmp_path):
    answers = tmp_path / "answers.jsonl"
    answers.write_text(json.dumps({"id": "t", "response": "In 1900."}))
    models = f"evaluation.models={{gpt: {{responses: {answers}}}}}"
    real = real_lab(tmp_path, {"question": "Who?"}, FACTSCORE, models)
    given = TABLE_1 | {"test": [biographies(tmp_path)]}
    with pytest.raises(UserError, match="--test biographies: .*none of its 1 rows answers a test"):
        job("table1").EXPERIMENT.check(real, **given)
    with open(answers, "a", encoding="utf-8") as lines:
        lines.write("\n" + json.dumps({"id": "bio", "response": "Ada was."}))
    job("table1").EXPERIMENT.check(real, **given)


@pytest.mark.parametrize("table", ["table1", "table3"])
def test_answers_that_are_given_are_nobodys_to_sample(job, tmp_path, table):
    real = real_lab(
        tmp_path, {"question": "Who?"},
        "sampling={source: input, engine: {max_model_len: 512}}",
    )  # fmt: skip
    given = TABLE_1 if table == "table1" else {"other": "org/model"}
    with pytest.raises(UserError, match="sampling.source=input: .* set sampling.source=vllm"):
        job(table).EXPERIMENT.check(real, **given)


@pytest.mark.parametrize(
    ("settings", "other", "words"),
    [
        (["sampling.endpoint={base_url: 'http://h/v1', model: m}"], "org/m", "sampling.endpoint: "),
        ([], "meta-llama/Llama-3.1-8B-Instruct", "is the policy .model.path.: name another"),
    ],
)
def test_the_policy_does_not_answer_as_another_model(job, tmp_path, settings, other, words):
    real = real_lab(tmp_path, {"question": "Who?", "document": "He."}, *settings)
    with pytest.raises(UserError, match=words):
        job("table3").EXPERIMENT.check(real, other=other)


def test_another_revision_of_the_policy_is_another_model(job, tmp_path):
    row = {"question": "Who?", "document": "He."}
    real = real_lab(tmp_path, row, "model.revision=abc")
    job("table3").EXPERIMENT.check(real, other="meta-llama/Llama-3.1-8B-Instruct")


SETS = ("test questions", "biographies")
OUTCOME = Outcome({"a": (1.0, 2.0), "b": (1.0, 3.0)}, 2.0, 1.0)


def table_1(job, columns, names=("base", "facttune-matched", "mask_dpo"), **given):
    """The result of systems that are all the same, in three seeds."""
    found = {name: {column: [OUTCOME] * 3 for column in columns} for name in names}
    return job("table1").result(found, **{"pairs": {}, "world": False, "facts": True} | given)


def test_the_70bs_figures_stand_beside_the_model_that_is_named(job):
    columns = [("sentence score", SETS[0]), ("FActScore", SETS[1])]

    def claims(large: str | None) -> dict[str, str]:
        result = table_1(job, columns, ("base", "gpt", "mask_dpo"), large=large)
        return {
            each["claim"]: each["paper"] for each in result.claims if "than gpt" in each["claim"]
        }

    sentences = "Mask-DPO has a higher sentence score than gpt on test questions"
    facts = "Mask-DPO has a higher FActScore than gpt on biographies"
    assert claims(None) == {sentences: "not told", facts: "not told"}
    assert claims("gpt") == {sentences: "77.53 against 53.44"}


def test_the_factscore_of_table_2_stands_beside_mask_dpo_alone(job):
    header, *rows = table_1(job, [(of, SETS[0]) for of in ("sentence score", "FActScore")]).rows
    told = {row[0]: row[header.index("paper: FActScore, test questions")] for row in rows}
    assert told == {"base": "", "facttune-matched": "", "mask_dpo": "25.56"}


def test_claims_of_table_1_are_of_the_first_and_the_last_score_and_of_each_judge(job):
    by = "sentence score by qwen"
    columns = [(of, asked) for asked in SETS for of in ("sentence score", by)]
    result = table_1(job, columns, ("base", "mask_dpo"))
    assert [each["claim"] for each in result.claims] == [
        f"Mask-DPO has a higher {of} than base on {asked}" for of, asked in columns[:3]
    ]
    assert len(table_1(job, columns[:1], ("base", "mask_dpo")).claims) == 1


def test_what_table_2_claims_of_the_same_runs_is_not_claimed_again(job):
    """Without a reward of its own the matched run is vanilla DPO; on biographies table 2 has
    nothing."""
    columns = [("sentence score", SETS[0]), ("FActScore", SETS[1])]

    def claims(facts: bool) -> list[str]:
        result = table_1(job, columns, facts=facts)
        assert ("table 2's run without the mask" in "".join(result.notes)) != facts
        return [each["claim"] for each in result.claims if "matched" in each["claim"]]

    matched = [f"Mask-DPO has a higher {of} than facttune-matched on {on}" for of, on in columns]
    assert (claims(True), claims(False)) == (matched, matched[1:])


def test_pairs_and_what_is_left_out_stand_beside_the_scores(job):
    facts = ("FActScore", SETS[1])
    columns = [("sentence score", SETS[0]), facts]
    counts = Counts(answers=4, scored=3, abstained=1, rejected={"unknown_topic": 2})
    found = {
        name: {column: [Outcome(OUTCOME.parts, 2.0, 1.0, counts)] * 3 for column in columns}
        for name in ("base", "mask_dpo")
    }
    pairs = {"mask_dpo": [10, 20, 30]}
    result = job("table1").result(found, pairs, world=False, facts=True)
    assert [row[1] for row in result.rows] == ["pairs", "", "20"]
    assert result.figures["mask_dpo"]["pairs"] == [10, 20, 30]
    of_facts = result.figures["base"]["FActScore of biographies"]
    assert (of_facts["respond_ratio"], of_facts["unknown_topics"]) == (75, 6)
    note = (
        "FActScore, biographies, all seeds: base: 9 of 12 answers scored, 75.0 % respond, "
        "6 questions rejected (unknown_topic); mask_dpo: "
    )
    assert any(note in each for each in result.notes)
    assert note in result.text() and note in result.markdown()


def test_a_cell_without_a_score_is_empty_and_ends_nothing(job):
    columns = [("sentence score", SETS[0]), ("FActScore", SETS[1])]
    nothing = Outcome({}, counts=Counts(0, 0, 0), not_scored="no greedy answer has a FActScore")
    found = {name: {c: [OUTCOME] * 3 for c in columns} for name in ("base", "mask_dpo")}
    found["base"][columns[1]] = [OUTCOME, nothing, OUTCOME]
    result = job("table1").result(found, {}, world=False, facts=True)
    header, base, ours = result.rows
    at = header.index("FActScore, biographies")
    assert base[at] == "" and ours[at].startswith("40.0")
    assert result.figures["base"]["FActScore of biographies"]["score"] is None
    of_sentences, of_facts = result.claims
    assert of_sentences["verdict"] == "not reproduced"
    assert (of_facts["verdict"], of_facts["reason"]) == ("not testable", nothing.not_scored)
    assert f"base: {nothing.not_scored}" in result.notes[0]
    found["base"][columns[0]] = found["mask_dpo"][columns[0]] = [nothing] * 3
    nowhere = job("table1").result(found, {}, world=False, facts=True)
    assert [each["verdict"] for each in nowhere.claims] == ["not testable"] * 2
    assert nowhere.plot.startswith("<svg")


def test_table_6_stands_where_no_sample_has_a_score(job):
    """Nor does it claim a published figure for an N that the paper has none of."""
    lab = SimpleNamespace(
        seeds=[0, 1, 2], run=lambda seed, *settings: None, annotated=lambda stages, system: []
    )
    result = job("table6").experiment(lab, samples=2)
    assert result.rows[1] == ["before", "", ""]
    assert [each["verdict"] for each in result.claims] == ["not testable"] * 4
    assert [each["paper"] for each in result.claims] == [
        "70.67 against 47.79", "not told", "not told", "not told"
    ]  # fmt: skip


def test_what_a_judge_finds_stands_beside_the_first_examiners_score(job):
    """The judge likes the mask less than the examiner does that made the pairs."""

    def outcome(stages, system, judge=None):
        correct = {"base": 1.0, "dpo": 2.0, "mask_dpo": 1.5 if judge else 3.0}[system]
        return Outcome({"a": (correct, 4.0), "b": (correct, 5.0)}, 2.0, 1.0)

    lab = SimpleNamespace(
        seeds=[0, 1, 2], judges=["qwen"], tells_facts=False, outcome=outcome, run=lambda seed: None
    )
    result = job("table2").experiment(lab)
    header, base, *_ = result.rows
    assert header[-3:] == ["correct", "sentence score by qwen", "paper: sentence score"]
    assert base[-2].startswith("22.2") and base[-1] == "49.19"
    verdicts = {each["claim"]: (each["verdict"], each["paper"]) for each in result.claims}
    of = "from the same pairs, the mask raises the sentence score"
    assert verdicts == {
        of: ("reproduced", "77.53 against 68.44"),
        f"{of} by qwen": ("not reproduced", "not told"),
    }


def test_without_the_closed_world_another_model_must_be_named(job, tmp_path):
    real = real_lab(tmp_path, {"question": "Who?", "topic": "A"})
    check = job("table3").EXPERIMENT.check
    with pytest.raises(UserError, match="table 3 needs --other"):
        check(real, other=None)
    with pytest.raises(UserError, match="no training question has a document"):
        check(real, other="org/model")
    check(real_lab(tmp_path, {"question": "Who?", "topic": "A", "document": "A."}), other="org/m")
    sets = job("table1").question_sets(real, ["biographies=bio.jsonl"])
    assert [settings for settings, _ in sets.values()] == [[], ["data.test=bio.jsonl"]]


def answer(index: int, verdicts: str) -> dict:
    """A letter is a sentence: o ok, c contradictory, e error."""
    words = {"o": "ok", "c": "contradictory", "e": "error"}
    sentences = [
        {"start": n, "end": n + 1, "verdict": words[letter]} for n, letter in enumerate(verdicts)
    ]
    return {"index": index, "response": verdicts, "token_ids": [1], "sentences": sentences}


def documented(job, *verdicts: str) -> list[list[str]]:
    """Responses of the pair of answers with the document and, the last one, without."""
    row = {
        "id": "q", "topic": "t", "question": "Who?", "document": "D", "language": "en",
        "candidates": [answer(n, of) for n, of in enumerate(verdicts)],
    }  # fmt: skip
    pairs = job("table3").documented_pair(row)
    return [[c["response"] for c in pair["candidates"]] for pair in pairs]


def test_the_chosen_side_alone_has_the_document(job):
    assert documented(job, "oc", "oo", "cc", "oc") == [["oo", "oc"]]
    assert documented(job, "o", "oo", "oc") == [["oo", "oc"]], "the most correct sentences"
    assert documented(job, "cc", "oc", "oc") == [], "no documented answer becomes the rejected one"
    assert documented(job, "oe", "oc", "cc") == [["oc", "cc"]]
    assert documented(job, "oo", "e") == []


def test_best_of_n_by_topic_leaves_out_what_has_no_score(job):
    def row(topic: str, *verdicts: str) -> dict:
        samples = [answer(n, of) | {"decoding": "sampled"} for n, of in enumerate(verdicts)]
        return {"topic": topic, "language": "en", "candidates": samples}

    rows = [row("a", "o", "c"), row("a", "e", "e"), row("b", "oc", "e"), row("c", "e", "e")]
    usable = job("table6").usable_samples(rows)
    found = job("table6").by_topic(usable, [1, 2])
    assert found[1].parts == {"a": (0.5, 1), "b": (0.5, 1)}
    assert found[2].parts == {"a": (1, 1), "b": (0.5, 1)}
    assert job("table6").short_of(usable, [1, 2]) == {1: 2, 2: 3}


def test_every_table_has_the_papers_figures(job):
    from maskdpo_ray.experiments import published

    assert set(job("table4").PARTS) | {job("table4").WHOLE} == set(published.TABLE_4)
    assert set(job("table2").SYSTEMS) == set(published.TABLE_2)
    assert all(column in of for of in published.TABLE_1.values() for column in published.LARGE)
    assert {"before", "after"} == set(published.TABLE_6) == set(job("table6").SYSTEMS)


def test_table_5_stands_where_nothing_is_known_of_the_topics(job):
    claim, figures = job("table5").probe_claim([], "nothing is known of 9 topics")
    assert (claim["verdict"], claim["reason"]) == ("not testable", "nothing is known of 9 topics")
    assert figures == {}


def test_rounds_have_the_same_budget_of_answers_and_of_steps(job, lab, monkeypatch):
    """A run of each way is asked for; what its systems came to is made up."""
    runs = []

    def run(seed: int, *settings: str) -> SimpleNamespace:
        runs.append(lab.read(seed, *settings))
        return SimpleNamespace(config=runs[-1])

    monkeypatch.setattr(lab, "run", run)
    monkeypatch.setattr(lab, "outcome", lambda stages, system: OUTCOME)
    lab.seeds = [0, 1, 2]
    result = job("rounds").experiment(lab)
    assert len({each.sampling.candidates * each.rounds for each in runs}) == 1
    for one, two in zip(runs[::2], runs[1::2], strict=True):
        assert (one.rounds, two.rounds) == (1, 2)
        mask_dpo, longer = (one.training_of(name) for name in ("mask_dpo", "longer"))
        assert longer.epochs == 2 * mask_dpo.epochs == 2 * two.training_of("two_rounds").epochs
    assert [row[0] for row in result.rows[1:]] == [
        "base", "one round", "one round, same steps", "first of two rounds", "two rounds"
    ]  # fmt: skip
    assert {each["verdict"] for each in result.claims} == {"not reproduced"}, "all are the same"


def test_an_odd_budget_of_answers_has_no_half(job, tmp_path):
    paper = str(JOBS / "configs" / "paper.yaml")
    odd = Lab(paper, str(tmp_path), [0], ["sampling.candidates=5"])
    with pytest.raises(UserError, match="sampling.candidates=5 has no half to sample in a round"):
        job("rounds").check(odd)


def answered(topic: str, greedy: str, sampled: str) -> dict:
    """A question and its answers, by the verdict on each sentence: ``o`` ok, ``w`` wrong."""
    names = {"o": "ok", "w": "contradictory", "n": "nofact"}

    def answer(verdicts: str, decoding: str) -> dict:
        sentences = [
            {"start": n, "end": n + 1, "verdict": names[v], "detail": ""}
            for n, v in enumerate(verdicts)
        ]
        return {
            "decoding": decoding, "response": "." * len(verdicts), "sentences": sentences,
            "token_ids": [1] * len(verdicts),
        }  # fmt: skip

    candidates = [answer(greedy, "greedy"), answer(sampled, "sampled")]
    return {"id": topic, "topic": topic, "language": "en", "candidates": candidates}


def test_an_objective_is_told_with_what_it_lost(job, tmp_path):
    """By hand: the base says ow and oow, the objective o and, once, nothing."""
    objectives = job("objectives")
    base = objectives.measured([answered("a", "ow", "w"), answered("b", "oow", "oow")], 2)
    after = objectives.measured([answered("a", "o", "w"), answered("b", "", "ow")], 2)
    result = objectives.result(
        {"base": [base] * 3, "short": [after] * 3},
        2.0,
        {"short": objectives.Objective(loss={"beta": 0.2}, recommended=True)},
        [0, 1, 2],
    )
    result.write(Folder(str(tmp_path)))
    (entry,) = json.loads((tmp_path / "objectives.json").read_text())
    assert entry["setting"] == "short"
    assert entry["recommended"] and entry["loss"] == {"beta": 0.2} and entry["seeds"] == [0, 1, 2]
    told = {
        key: round(entry[key], 2)
        for key in ("greedy", "correct", "incorrect", "sentences", "f1", "gain", "sampled_correct")
    }
    # An answer that says nothing has no score, and counts with nothing everywhere else.
    assert told == {
        "greedy": 100.0, "correct": 1.0, "incorrect": 0.0, "sentences": 0.5,
        "f1": 33.33, "gain": 50.0, "sampled_correct": 1.0,
    }  # fmt: skip
    base = {key: round(entry["base"][key], 2) for key in ("greedy", "correct", "incorrect", "f1")}
    assert base == {"greedy": 60.0, "correct": 3.0, "incorrect": 2.0, "f1": 65.0}
    assert [c["verdict"] for c in result.claims][:2] == ["not testable", "not reproduced"]


def test_an_objective_nobody_knows_is_told_before_anything_runs(job, lab):
    with pytest.raises(UserError, match="--only 'nwt' is none of 'DPO', "):
        job("objectives").EXPERIMENT.check(lab, only=["nwt"], steps=3, samples=1)
    job("objectives").EXPERIMENT.check(lab, only=None, steps=3, samples=1)


def test_objectives_learn_for_equally_many_steps_from_the_same_answers(job, lab, monkeypatch):
    read = {}

    def run(seed: int, *settings: str) -> str:
        config = lab.read(seed, *settings)
        (system,) = config.systems
        read[config.preference.trim_chosen] = config
        return config

    rows = [answered("a", "ow", "w"), answered("b", "oow", "oow")]
    monkeypatch.setattr(lab, "run", run)
    monkeypatch.setattr(lab, "annotated", lambda stages, system: iter(rows))
    names = ["the paper's", "adapters, trimmed, anchored, bounded"]
    result = job("objectives").experiment(lab, only=names, steps=5, samples=3)
    assert [entry["setting"] for entry in result.entries] == names
    assert {entry["gain"] for entry in result.entries} == {0.0}  # the base's own answers
    paper, ours = read[False], read[True]
    trained = [config.training_of("mask_dpo") for config in (paper, ours)]
    assert {(each.max_steps, each.batch_size) for each in trained} == {(5, 64)}
    assert trained[1].learning_rate == pytest.approx(20 / 3 * trained[0].learning_rate)
    assert [each.anchor_weight for each in trained] == [0.0, 1.0]
    assert trained[1].lora.rank == 8 and paper.evaluation.samples == 3
    assert paper.sampling == ours.sampling and paper.annotation == ours.annotation
