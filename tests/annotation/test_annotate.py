import asyncio

import pytest

from maskdpo_ray.annotation.annotate import Annotate
from maskdpo_ray.annotation.annotator import document_of
from maskdpo_ray.errors import RowRejected


def split(text: str, language: str) -> list[tuple[int, int]]:
    """Sentences end after each full stop and the white space behind it."""
    spans, start = [], 0
    for i in range(len(text)):
        if text[start : i + 1].rstrip().endswith(".") and not text[i + 1 : i + 2].isspace():
            spans.append((start, i + 1))
            start = i + 1
    return spans + ([(start, len(text))] if start < len(text) else [])


class Counting:
    """Answers ``ok``, or what is written in the sentence; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.at_once = self.most_at_once = 0

    async def verdict(self, question, sentence):
        self.asked.append((question["id"], sentence))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        if "REJECT" in sentence:
            raise RowRejected("document_missing", "none")
        return sentence.split()[0].strip(".").lower(), f"asked about {sentence}"


def row(row_id: str, *responses: str) -> dict:
    candidates = [
        {
            "index": i,
            "response": text,
            "token_ids": [1] if text else [2],
            "decoding": "input",
            "sentences": [],
        }  # fmt: skip
        for i, text in enumerate(responses)
    ]
    question = {"id": row_id, "question": "?", "document": None, "language": "en"}
    return {**question, "candidates": candidates}


def annotate(annotator, *rows):
    return asyncio.run(Annotate(annotator, split)(list(rows)))


def test_nobody_is_asked_about_code():
    counting = Counting()
    [out] = asyncio.run(Annotate(counting)([row("q", "Ok one.\n```\nx. Y\n```\nOk two.")]))
    verdicts = [sentence["verdict"] for sentence in out["candidates"][0]["sentences"]]
    assert verdicts == ["ok", "nofact", "ok"]
    assert [text for _, text in counting.asked] == ["Ok one.", "Ok two."]


def test_sentences_tile_the_response_and_carry_their_verdicts():
    response = "Ok one. Contradictory two.\n\nNofact"
    out = annotate(Counting(), row("q", response))[0]
    [candidate] = out["candidates"]
    spans = [response[s["start"] : s["end"]] for s in candidate["sentences"]]
    assert spans == ["Ok one. ", "Contradictory two.\n\n", "Nofact"]
    assert [s["verdict"] for s in candidate["sentences"]] == ["ok", "contradictory", "nofact"]
    assert candidate["sentences"][1]["detail"] == "asked about Contradictory two."


def test_each_distinct_sentence_of_a_question_is_asked_once():
    annotator = Counting()
    responses = ("Ok a. Ok b.", "Ok b.\n\nOk a.", "Ok a.", "Ok  a.")
    out = annotate(annotator, row("q", *responses), row("r", "Ok a."))
    of_q = [("q", "Ok  a."), ("q", "Ok a."), ("q", "Ok b.")]
    assert sorted(annotator.asked) == [*of_q, ("r", "Ok a.")]
    assert [len(c["sentences"]) for c in out[0]["candidates"]] == [2, 2, 1, 1]


def test_all_sentences_of_all_rows_are_asked_at_once():
    annotator = Counting()
    annotate(annotator, *(row(f"q{i}", "Ok a. Ok b. Ok c.") for i in range(4)))
    assert annotator.most_at_once == 12


def test_an_empty_or_unusable_answer_has_no_sentences():
    annotator = Counting()
    rows = row("q", "", "Ok a.", "Ok b.")
    rows["candidates"][2]["token_ids"] = []
    out = annotate(annotator, rows)[0]
    assert [len(c["sentences"]) for c in out["candidates"]] == [0, 1, 0]
    assert annotator.asked == [("q", "Ok a.")]


def test_white_space_alone_is_an_error_and_is_not_asked():
    annotator = Counting()
    out = annotate(annotator, row("q", " \n "))[0]
    [sentence] = out["candidates"][0]["sentences"]
    assert (sentence["start"], sentence["end"], sentence["verdict"]) == (0, 3, "error")
    assert annotator.asked == []


def test_a_rejected_row_leaves_its_neighbours_alone():
    first, second, third = annotate(
        Counting(), row("a", "Ok a."), row("b", "Ok a. REJECT."), row("c", "Ok a.")
    )
    assert first["id"] == "a" and third["id"] == "c"
    assert isinstance(second, RowRejected) and second.reason == "document_missing"


def test_an_error_verdict_is_kept_with_its_reason():
    out = annotate(Counting(), row("q", "Error here. Ok."))[0]
    assert [s["verdict"] for s in out["candidates"][0]["sentences"]] == ["error", "ok"]


def test_a_word_that_is_no_verdict_is_a_bug_that_names_itself():
    with pytest.raises(ValueError, match="Counting answered 'maybe' on question 'q'"):
        annotate(Counting(), row("q", "Maybe."))


def test_what_came_in_is_left_alone():
    given = row("q", "Ok a.")
    annotate(Counting(), given)
    assert given["candidates"][0]["sentences"] == []


def test_real_answers_are_asked_once_a_distinct_sentence(biographies):
    class Always:
        def __init__(self):
            self.asked = []

        async def verdict(self, question, sentence):
            self.asked.append(sentence)
            return "ok", ""

    for line in biographies[:20]:
        annotator = Always()
        responses = [candidate["response"] for candidate in line["candidates"]]
        [out] = asyncio.run(Annotate(annotator)([row(line["id"], *responses)]))
        assert len(set(annotator.asked)) == len(annotator.asked) > 0
        for candidate in out["candidates"]:
            text = candidate["response"]
            parts = [text[s["start"] : s["end"]] for s in candidate["sentences"]]
            assert "".join(parts) == text
            assert {part.strip() for part in parts} <= set(annotator.asked)


def test_a_document_is_there_or_the_row_is_not_judged():
    assert document_of({"id": "q", "document": "text"}) == "text"
    with pytest.raises(RowRejected, match="document_missing: question 'q'"):
        document_of({"id": "q", "document": None})
