"""Pairs that bring their weights along: what a row may hold, and what becomes of it."""

import asyncio
import json
import re
from pathlib import Path

import models
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from maskdpo_ray.config import DataConfig, ModelConfig, PreferenceConfig, TrainingConfig
from maskdpo_ray.engine.chat import chat_token_ids, end_of_turn_id, response_text
from maskdpo_ray.errors import RowRejected, UserError
from maskdpo_ray.preference.given_pairs import GivenPairs, read_of_sides
from maskdpo_ray.preference.weighted_format import to_weighted
from maskdpo_ray.questions import import_questions, read_weighted
from maskdpo_ray.records import NO_SENTENCE, PAIR_SCHEMA, WEIGHTED_SCHEMA
from maskdpo_ray.rundir import StageStore
from maskdpo_ray.storage import Folder

ASKED = [{"role": "user", "content": "Who is Ada?"}]
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Who is Ada?"},
    {"role": "assistant", "content": "A baker."},
    {"role": "user", "content": "Where was she born?"},
]


def record(**changes) -> dict:
    return {"prompt": ASKED, "chosen": "She was a baker.", "rejected": "She flew."} | changes


def said(text: str) -> list[dict]:
    return [{"role": "assistant", "content": text}]


@pytest.fixture(scope="module")
def taker():
    return taking()


def taking(system_prompt: str | None = None, **preference) -> GivenPairs:
    model = ModelConfig(path=models.tiny_llama(), system_prompt=system_prompt)
    return GivenPairs(model, PreferenceConfig(**{"max_length": 256} | preference))


@pytest.fixture
def read(tmp_path):
    """Reads records from a file, as rows or what rejected them, and brings them through a store."""

    def rows(*records: dict) -> list:
        path = tmp_path / "w.jsonl"
        path.write_text("".join(json.dumps(each) + "\n" for each in records))
        return [outcome for _, outcome in read_weighted(path)]

    return rows


@pytest.fixture
def taken(read, taker):
    """The pair of a record, or what rejected it."""

    def take(given: dict, by: GivenPairs = taker):
        (row,) = read(given)
        return row if isinstance(row, RowRejected) else asyncio.run(by([row]))[0]

    return take


def test_texts_become_the_ids_that_the_project_trains_on(taken, taker):
    pair = taken(record(prompt=TALK, chosen=said("She was a baker.")))
    tokenizer = taker.tokenizer
    assert pair["prompt_ids"] == chat_token_ids(tokenizer, TALK)
    assert pair["question"] == "Where was she born?"
    ids = pair["chosen"]["token_ids"]
    assert response_text(tokenizer, ids) == pair["chosen"]["response"] == "She was a baker."
    assert ids[-1] == end_of_turn_id(tokenizer)
    assert pair["chosen"]["weights"] == [1.0] * len(ids)
    # Nobody says where sentences are: the answer is one, and the end of turn stands in none.
    assert pair["chosen"]["owners"] == [0] * (len(ids) - 1) + [NO_SENTENCE]
    assert pair["weight"] == 1.0
    masked = taken(record(), taking(eos="mask"))
    assert masked["chosen"]["weights"] == [1.0] * (len(ids) - 1) + [0.0]


def test_the_policys_system_prompt_goes_before_messages_without_one(taken, taker):
    by = taking(system_prompt="Be kind.")
    system = {"role": "system", "content": "Be kind."}
    assert taken(record(), by)["prompt_ids"] == chat_token_ids(taker.tokenizer, [system, *ASKED])
    assert taken(record(prompt=TALK), by)["prompt_ids"] == chat_token_ids(taker.tokenizer, TALK)


def test_spans_weigh_the_tokens_whose_last_letter_they_hold(taken, taker):
    text = "She ran. She flew.  She was a baker in Ashcombe."
    spans = [{"start": 0, "end": 8}, {"start": 9, "end": 18, "weight": 0.25}]
    pair = taken(record(chosen=text, chosen_spans=spans))
    position, of_letter = 0, {}
    side = pair["chosen"]
    columns = (side["token_ids"], side["weights"], side["owners"])
    for token, weight, owner in zip(*columns, strict=True):
        written = response_text(taker.tokenizer, [token])
        for _ in written:
            of_letter[position] = (weight, owner)
            position += 1
    assert position == len(text)
    for at, char in enumerate(text):
        if not char.isspace():
            wanted = (1.0, 0) if at < 8 else (0.25, 1) if at < 18 else (0.0, NO_SENTENCE)
            assert of_letter[at] == wanted, at
    assert side["weights"][-1] == 1.0 and side["owners"][-1] == NO_SENTENCE  # the end of turn
    nothing = taken(record(rejected_spans=[]), taking(eos="mask"))
    assert nothing.reason == "zero_weight_rejected"


def test_token_ids_and_weights_are_taken_as_they_are(taken):
    given = {
        "prompt": [5, 6, 7],
        "chosen": [40, 41, 0],
        "chosen_weights": [0.5, 0, 1],
        "rejected": [50, 51],
        "rejected_weights": [1, 0.25],
        "rejected_owners": [-1, 3],
        "weight": 2,
        "topic": "Ada",
        "id": 17,
    }
    pair = taken(given)
    assert (pair["id"], pair["topic"], pair["weight"]) == ("17", "Ada", 2.0)
    assert pair["prompt_ids"] == [5, 6, 7]
    assert pair["chosen"]["token_ids"] == [40, 41, 0]
    assert pair["chosen"]["weights"] == [0.5, 0.0, 1.0]
    assert pair["chosen"]["owners"] == [0, 0, NO_SENTENCE]  # id 0 is a special token here
    assert pair["rejected"]["owners"] == [NO_SENTENCE, 3]


def test_a_pair_that_does_not_tell_what_the_loss_reads_is_left_out(taken):
    model, settings = ModelConfig(path=models.tiny_llama()), PreferenceConfig(max_length=256)
    anchored = TrainingConfig(anchor_weight=1)
    bounded = TrainingConfig(rejected_floor=2)
    assert read_of_sides([TrainingConfig(), anchored, bounded]) == ["correct", "sentences"]
    per_token = bounded.model_copy(update={"rejected_floor_per": "token"})
    assert read_of_sides([TrainingConfig(), per_token]) == []

    by = GivenPairs(model, settings, read_of_sides([anchored, bounded]))
    span = {"start": 0, "end": 3}
    told = {f"{side}_spans": [span | {"correct": 0.5}] for side in ("chosen", "rejected")}
    assert taken(record(**told), by)["rejected"]["correct"][0] == 0.5
    nothing = {f"{side}_spans": [span | {"correct": 0}] for side in ("chosen", "rejected")}
    for given in (record(), record(**told | {"chosen_spans": [span]}), record(**nothing)):
        assert taken(given, by).reason == "correct_missing"

    by = GivenPairs(model, settings, read_of_sides([bounded]))
    assert taken(record(), by)["rejected"]["owners"][0] == 0
    without = {"rejected": [44, 45], "rejected_weights": [1, 1], "rejected_owners": [-1, -1]}
    assert taken(record(**without), by).reason == "sentences_missing"


def test_a_long_answer_is_cut_and_a_long_prompt_left_out(taken):
    pair = taken(record(chosen="She was a baker. " * 20), taking(max_length=60))
    assert len(pair["prompt_ids"]) + len(pair["chosen"]["token_ids"]) == 60
    kept = len(pair["chosen"]["token_ids"])
    assert len(pair["chosen"]["weights"]) == len(pair["chosen"]["owners"]) == kept
    assert taken(record(), taking(max_length=8)).reason == "prompt_too_long"
    late = record(chosen="She ran. " * 20, chosen_spans=[{"start": 170, "end": 178}])
    rejected = taken(late, taking(max_length=60, eos="mask"))
    assert rejected.reason == "zero_weight_chosen"


@pytest.mark.parametrize(
    ("changes", "reason", "words"),
    [
        ({"prompt": None}, "malformed_pair", "'prompt' is missing"),
        ({"prompt": "Who?"}, "malformed_pair", 'is [{"role": "user", "content": question}]'),
        ({"prompt": []}, "malformed_pair", "must end with"),
        ({"prompt": TALK[:3]}, "malformed_pair", "must end with"),
        ({"prompt": [{"role": "user"}]}, "malformed_pair", "message 0"),
        ({"prompt": [{"role": "user", "content": ["x"]}]}, "malformed_pair", "message 0"),
        (
            {"prompt": [{"role": "user", "content": "x", "tool_calls": [1]}]},
            "malformed_pair",
            "no other key",
        ),
        ({"prompt": [{"role": "user", "content": " "}]}, "malformed_pair", "is empty"),
        ({"prompt": [1, "2"]}, "malformed_pair", "a token id of 'prompt_ids'"),
        ({"prompt": [1], "prompt_ids": [1]}, "malformed_pair", "remove 'prompt_ids'"),
        ({"prompt": [1, 10**5]}, "token_unknown", "of another model"),
        ({"prompt_ids": [1, 2]}, "prompt_ids_differ", "remove the ids"),
        ({"chosen": None}, "malformed_pair", "'chosen' is missing"),
        ({"chosen": ""}, "malformed_pair", "'chosen' is empty"),
        ({"chosen": {"content": "x"}}, "malformed_pair", "'chosen' must be a text"),
        ({"chosen": said("a") + said("b")}, "malformed_pair", "'chosen' must be a text"),
        ({"chosen": [["a"]]}, "malformed_pair", "the message of 'chosen'"),
        ({"chosen": [{"role": "user", "content": "x"}]}, "malformed_pair", "not of 'user'"),
        ({"chosen": [-1]}, "malformed_pair", "at least 0, not '-1'"),
        ({"chosen": [2**40]}, "malformed_pair", "a token id of 'chosen_ids'"),
        ({"chosen": [True]}, "malformed_pair", "the message of 'chosen'"),
        ({"chosen_ids": [44, 45]}, "mask_text_differs", "'chosen' decode to"),
        ({"chosen": "Say <|end|> now."}, "mask_text_differs", "encodes and decodes without"),
        ({"chosen": "a \ud800"}, "not_unicode", "surrogate"),
        ({"topic": "\ud800"}, "not_unicode", "surrogate"),
        ({"topic": 7}, "malformed_pair", "'topic' must be a string"),
        ({"chosen_weights": [1, 1]}, "malformed_pair", "are of token ids"),
        ({"chosen": [44, 45], "chosen_weights": [1]}, "malformed_pair", "a list of 2"),
        ({"chosen": [44, 45], "chosen_weights": [1, 1.5]}, "malformed_pair", "between 0 and 1"),
        ({"chosen": [44, 45], "chosen_weights": [1, float("nan")]}, "malformed_pair", "nan"),
        ({"chosen": [44, 45], "chosen_weights": [1, True]}, "malformed_pair", "not bool"),
        ({"chosen": [44, 45], "chosen_weights": [0, 0]}, "zero_weight_chosen", "weighs anything"),
        ({"chosen": [44, 45], "chosen_owners": [0, 0]}, "malformed_pair", "give 'chosen_weights'"),
        (
            {"chosen": [4, 5], "chosen_weights": [1, 1], "chosen_owners": [0, -2]},
            "malformed_pair",
            "'chosen_owners'",
        ),
        (
            {"chosen": [4, 5], "chosen_weights": [1, 1], "chosen_spans": []},
            "malformed_pair",
            "remove 'chosen_weights'",
        ),
        ({"chosen_spans": {"start": 0, "end": 1}}, "malformed_pair", "must be a list"),
        ({"chosen_spans": [{"start": 0}]}, "malformed_pair", "span 0"),
        ({"chosen_spans": [{"start": 0, "end": 1.0}]}, "malformed_pair", "end of span 0"),
        ({"chosen_spans": [{"start": 0, "end": 1, "weight": -1}]}, "malformed_pair", "0 and 1"),
        ({"chosen_spans": [{"start": 0, "end": 99}]}, "spans_invalid", "of 16 characters"),
        ({"chosen": [44, 45], "chosen_spans": [{"start": 0, "end": 99}]}, "spans_invalid", "99 of"),
        (
            {"chosen_spans": [{"start": 4, "end": 7}, {"start": 0, "end": 3}]},
            "spans_invalid",
            "span 1",
        ),
        (
            {"chosen_spans": [{"start": 0, "end": 3, "correct": 1}, {"start": 4, "end": 7}]},
            "malformed_pair",
            "of every span, or of none",
        ),
        (
            {"chosen": [44, 45], "chosen_weights": [1, 1], "chosen_correct": [1]},
            "malformed_pair",
            "'chosen_correct' must be a list of 2",
        ),
        ({"weights": 2}, "malformed_pair", "did you mean 'weight'?"),
        ({"chosen_span": [{"start": 0, "end": 3}]}, "malformed_pair", "mean 'chosen_spans'?"),
        ({"rejected_weigths": [1]}, "malformed_pair", "did you mean 'rejected_weights'?"),
        ({"chosen_item": {"sents": []}}, "malformed_pair", "set data.format=pairs"),
        ({"weight": 0}, "malformed_pair", "above zero"),
        ({"weight": float("inf")}, "malformed_pair", "above zero"),
        ({"weight": "2"}, "malformed_pair", "'weight' must be a number"),
        ({"weight": 10**400}, "malformed_pair", "weight"),
        ({"rejected": "She was a baker."}, "identical_text", "nothing to prefer"),
    ],
)
def test_a_bad_row_is_left_out_with_its_reason(taken, changes, reason, words):
    outcome = taken(record(**changes))
    assert isinstance(outcome, RowRejected), outcome
    assert (outcome.reason, words in outcome.detail) == (reason, True), outcome.detail


def test_a_template_that_refuses_a_conversation_refuses_that_row(taken):
    by = taking()
    by.tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{{ messages[-1]['content'] }}"
    )
    outcome = taken(record(prompt=TALK), by)
    assert outcome.reason == "prompt_refused" and "no system" in outcome.detail
    assert taken(record(), by)["question"] == "Who is Ada?"
    by.tokenizer.chat_template = None  # of all rows: the run's trouble
    with pytest.raises(UserError, match="has no chat template"):
        taken(record(), by)


def test_pairs_of_one_prompt_are_of_one_topic_and_others_are_not(read):
    other = [*TALK[:1], {"role": "user", "content": "Who is Bo?"}, *TALK[2:]]
    prompts = (ASKED, TALK, TALK, other, [5, 6], [5, 6], [5, 7])
    topics = [row["topic"] for row in read(*(record(prompt=p, topic=" ") for p in prompts))]
    assert topics[0] == "Who is Ada?"
    assert topics[1] == topics[2] != topics[3]
    assert topics[4] == topics[5] != topics[6]


def test_every_row_of_a_file_is_accounted_for(tmp_path):
    rows = [
        record(id="a"), record(id="a"), record(id=""), record(id="b", weight=-1), record(),
        record(), record(id=["c"]), record(id="\ud800"),
    ]  # fmt: skip
    path = tmp_path / "w.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    store = StageStore(Folder(tmp_path / "s"), "questions-train", "k", {}, WEIGHTED_SCHEMA)
    import_questions(str(path), DataConfig(format="weighted_pairs"), store, 8, {})
    assert store.manifest()["counts"] == {
        "in": 8, "out": 4, "rejected": {"malformed_pair": 3, "repeated_id": 1}
    }  # fmt: skip
    assert sorted(row["id"] for row in store.rows()) == [
        "\\ud800", "a", "pair-000004", "pair-000005"
    ]  # fmt: skip
    with pytest.raises(UserError, match="no pair file at"):
        list(read_weighted(tmp_path / "none.jsonl"))
    path.write_text("")
    with pytest.raises(UserError, match="holds no pair"):
        list(read_weighted(path))


@pytest.mark.parametrize(
    "given",
    [
        record(prompt=TALK, chosen="她出生于伦敦。 She ran… " * 9, weight=0.5, topic="Ada"),
        record(chosen_spans=[{"start": 0, "end": 3, "weight": 0.1}]),
        record(
            rejected_spans=[
                {"start": 0, "end": 3, "weight": 0, "correct": 0.3},
                {"start": 4, "end": 9, "correct": 0},
            ]
        ),
        {"prompt": [7, 8], "chosen": [44, 260], "rejected": [200, 201, 2], "id": "x"},
    ],
)
def test_what_a_run_writes_comes_back_exactly(taken, given, tmp_path):
    pair = taken(given, taking(max_length=80))
    table = StageStore(Folder(tmp_path / "s"), "pair", "k", {}, PAIR_SCHEMA)
    table.write(["1"], [pair], [], 8)
    (stored,) = table.rows()
    messages = given["prompt"] if given["prompt"] != [7, 8] else None
    written = json.loads(json.dumps(to_weighted(stored, messages)))
    again = taken(written, taking(max_length=80))
    table = StageStore(Folder(tmp_path / "t"), "pair", "k", {}, PAIR_SCHEMA)
    table.write(["1"], [again], [], 8)
    (found,) = table.rows()
    assert found | {"question": ""} == stored | {"question": ""}


def test_other_columns_are_left_alone_and_parquet_says_the_same(tmp_path):
    rows = [
        record(prompt_id="x", chosen_score=8.5, score_chosen=1, source=None, weight=2),
        record(prompt=TALK, chosen_spans=[{"start": 0, "end": 3}, {"start": 4, "end": 7}]),
        record(rejected_spans=[{"start": 0, "end": 3, "weight": 0.5, "correct": 0.0}], id="own"),
    ]
    (tmp_path / "w.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    keys = dict.fromkeys(key for each in rows for key in each)
    columns = [{key: each.get(key) for key in keys} for each in rows]
    pq.write_table(pa.Table.from_pylist(columns), tmp_path / "w.parquet")
    found = list(read_weighted(tmp_path / "w.jsonl"))
    assert not any(isinstance(row, RowRejected) for _, row in found)
    assert list(read_weighted(tmp_path / "w.parquet")) == found


def test_the_row_of_the_documentation_is_such_a_pair(taken):
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    (given,) = (json.loads(block) for block in re.findall(r"```json\n(.*?)```", page, re.DOTALL))
    pair = taken(given)
    chosen = zip(pair["chosen"]["token_ids"], pair["chosen"]["weights"], strict=True)
    learnt = [token for token, weight in chosen if weight]
    text = response_text(taking().tokenizer, learnt)
    assert text.strip() == "She was a poet's daughter." and pair["weight"] == 2.0
    assert {0.8, 1.0} == set(pair["rejected"]["weights"])
