"""The whole evaluator on real answers, people standing for the models."""

import asyncio
import json
from collections import Counter

import pyarrow as pa
import pytest
from labelled_facts import People, answers_of, candidates

from maskdpo_ray.errors import RowRejected, UserError
from maskdpo_ray.evaluation.factscore.facts import checked
from maskdpo_ray.evaluation.factscore.score import factscore, verdicts_of
from maskdpo_ray.records import FACT_SCHEMA, FACT_VERDICTS


def questions(rows: list[dict], model: str) -> list[dict]:
    return [{**row, "candidates": candidates(row, model)} for row in rows]


def examined(examiner, rows: list[dict]) -> list[dict | RowRejected]:
    return asyncio.run(examiner(rows))


@pytest.mark.parametrize(
    ("model", "percent", "answered"), [("ChatGPT", 58.3, 157), ("InstructGPT", 42.8, 182)]
)
def test_every_response_gets_the_score_that_people_gave_it(
    biographies, examiner, model, percent, answered
):
    """Facts that have a number which their sentence lacks are dropped on the way, at most one in
    a thousand; everything else is what people wrote."""
    rows = examined(examiner(model), questions(biographies, model))
    for given, row in zip(biographies, rows, strict=True):
        (answer,) = row["answers"]
        (labelled,) = answers_of(given, model)
        assert answer["abstained"] == labelled["abstained"]
        expected = []
        for sentence in labelled["sentences"]:
            text = labelled["response"][sentence["start"] : sentence["end"]]
            labels = {fact["text"]: fact["label"] for fact in sentence["facts"]}
            kept, _ = checked(list(labels), text)
            expected += ["supported" if labels[f] == "S" else "not_supported" for f in kept]
        assert verdicts_of(answer) == expected, given["topic"]
    found = factscore(rows)
    assert found["macro"] == pytest.approx(percent, abs=0.1)
    assert found["scored"] + found["without_facts"] == answered
    assert found["errors"] == 0
    # What the stage writes down comes back as it was.
    assert pa.Table.from_pylist(rows, FACT_SCHEMA).to_pylist() == rows


def test_a_thought_without_an_answer_is_no_abstention(biographies, examiner):
    """Nor is it examined; an answer without a word and without a thought is one."""
    rows = questions(biographies[:1], "ChatGPT")
    (given,) = rows[0]["candidates"]
    rows[0]["candidates"] = [
        given | {"reasoning": "<think>I do not know who", "response": ""},
        given | {"reasoning": "", "response": ""},
        given | {"reasoning": "<think>I do not know.</think>\n\n"},
    ]
    (row,) = examined(examiner("ChatGPT"), rows)
    assert [answer["abstained"] for answer in row["answers"]] == [False, True, False]
    found = factscore([row])
    assert (found["unfinished_reasoning"], found["abstained"], found["scored"]) == (1, 1, 1)


def test_the_spans_of_our_own_splitter_tile_the_answer(biographies, examiner):
    from maskdpo_ray.annotation.sentences import split_sentences

    rows = examined(examiner("ChatGPT", split=split_sentences), questions(biographies, "ChatGPT"))
    for row in rows:
        (answer,) = row["answers"]
        cuts = [(sentence["start"], sentence["end"]) for sentence in answer["sentences"]]
        text = "".join(answer["response"][start:end] for start, end in cuts)
        assert text == ("" if answer["abstained"] else answer["response"])


def test_the_verifier_sees_at_most_k_passages_of_the_page(biographies, examiner, pages):
    people = People(biographies, "ChatGPT")
    rows = examined(examiner("ChatGPT", people, k=1), questions(biographies[:20], "ChatGPT"))
    details = [
        json.loads(fact["detail"])
        for row in rows
        for answer in row["answers"]
        for sentence in answer["sentences"]
        for fact in sentence["facts"]
    ]
    assert details and all(len(detail["passages"]) == 1 for detail in details)
    verified = [asked for asked in people.asked if "Statement: " in asked]
    for asked in verified:
        topic = asked.partition("Passages about ")[2].partition(":\n")[0]
        passages = asked.partition(":\n\n")[2].partition("\n\nJudge")[0]
        assert passages in pages.page(topic)


def test_each_sentence_and_each_fact_of_a_topic_is_asked_once(biographies, examiner):
    people = People(biographies, "ChatGPT")
    (row,) = questions(biographies[:1], "ChatGPT")
    again = {**row, "id": "again"}
    double = {**row, "id": "double", "candidates": row["candidates"] * 2}
    first, second, third = examined(examiner("ChatGPT", people), [row, again, double])
    assert first["answers"] == second["answers"] == third["answers"][:1] == third["answers"][1:]
    assert set(Counter(people.asked).values()) == {1}


@pytest.mark.parametrize("together", [True, False])
def test_another_block_asks_nothing_again(biographies, examiner, together):
    people = People(biographies, "ChatGPT")
    made = examiner("ChatGPT", people)
    blocks = [questions(biographies[start:end], "ChatGPT") for start, end in ((0, 3), (2, 5))]

    async def both():
        if together:
            return await asyncio.gather(*map(made, blocks))
        return [await made(block) for block in blocks]

    found = asyncio.run(both())
    assert set(Counter(people.asked).values()) == {1}
    assert found == [examined(examiner("ChatGPT"), block) for block in blocks]


def test_an_unknown_topic_rejects_its_row_alone_before_anything_is_asked(biographies, examiner):
    people = People(biographies, "ChatGPT")
    known, unknown = questions(biographies[:2], "ChatGPT")
    unknown["topic"] = "Nobody Atall"
    made = examiner("ChatGPT", people, searched=False)
    done, rejected = examined(made, [known, unknown])
    assert done["id"] == known["id"]
    assert isinstance(rejected, RowRejected) and rejected.reason == "unknown_topic"
    assert "no page 'Nobody Atall' in" in rejected.detail
    assert not any("Nobody" in asked for asked in people.asked)


def test_facts_about_a_topic_without_a_page_are_searched_for(biographies, examiner):
    """The pages are found all the same: what is verified is what the topic's page would give."""
    [row] = questions(biographies[:1], "ChatGPT")
    people, other_name = People(biographies, "ChatGPT"), row["topic"] + " (person)"
    people.labels |= {(other_name, fact): label for (_, fact), label in people.labels.items()}
    [by_title] = examined(examiner("ChatGPT", people, k=1), [row])
    [searched] = examined(examiner("ChatGPT", people, k=1), [{**row, "topic": other_name}])
    [one], [other] = by_title["answers"], searched["answers"]
    assert [len(s["facts"]) for s in one["sentences"]] == [
        len(s["facts"]) for s in other["sentences"]
    ]
    assert all(json.loads(f["detail"])["passages"] for s in other["sentences"] for f in s["facts"])


def test_a_language_without_wording_rejects_its_row(biographies, examiner):
    made = examiner("ChatGPT")
    del made._writer.wording.languages["zh"]
    (row,) = questions(biographies[:1], "ChatGPT")
    (rejected,) = examined(made, [{**row, "language": "zh"}])
    assert rejected.reason == "no_template"


def test_only_the_asked_decodings_are_examined(biographies, examiner):
    (row,) = questions(biographies[:1], "ChatGPT")
    sampled = {**row["candidates"][0], "decoding": "sampled", "index": 1}
    row["candidates"].append(sampled)
    for decodings in (["greedy"], ["sampled"], ["greedy", "sampled"]):
        (found,) = examined(examiner("ChatGPT", decodings=decodings), [row])
        assert [answer["decoding"] for answer in found["answers"]] == decodings


class Broken(People):
    """Fails on some questions: an empty verdict, a reply that is no list, a server that is gone."""

    def __init__(self, rows, model, fails: str, failure) -> None:
        super().__init__(rows, model)
        self.fails, self.failure = fails, failure

    async def reply(self, messages, choices=None):
        if self.fails in messages[-1]["content"]:
            if isinstance(self.failure, Exception):
                raise self.failure
            return self.failure
        return await super().reply(messages, choices)


@pytest.mark.parametrize("fails", ["Statement: Lanny Flaherty is an actor.", "Sentence: Lanny"])
def test_a_failure_is_an_error_of_one_answer(biographies, examiner, fails):
    from maskdpo_ray.engine.chat_model import Reply

    people = Broken(biographies, "ChatGPT", fails, Reply("", True))
    rows = examined(examiner("ChatGPT", people), questions(biographies[:2], "ChatGPT"))
    verdicts = [set(verdicts_of(row["answers"][0])) for row in rows]
    assert set().union(*verdicts) <= set(FACT_VERDICTS)
    found = factscore(rows)
    assert (found["responses"], found["errors"], found["scored"]) == (2, 1, 1)
    assert found["macro"] == factscore(rows[1:])["macro"]


def test_an_endpoint_that_stays_away_ends_the_work(biographies, examiner):
    people = Broken(biographies, "ChatGPT", "Statement: ", UserError("the endpoint is away"))
    with pytest.raises(UserError, match="the endpoint is away"):
        examined(examiner("ChatGPT", people), questions(biographies[:3], "ChatGPT"))
