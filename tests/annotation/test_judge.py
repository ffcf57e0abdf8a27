import asyncio
import json

import models
import pytest
import yaml

from maskdpo_ray.annotation.annotators.judge import JudgeAnnotator, read_judge_templates
from maskdpo_ray.config import AnnotationConfig
from maskdpo_ray.engine.chat import prompt_token_ids
from maskdpo_ray.engine.chat_model import ChatModel, Reply
from maskdpo_ray.engine.refusal import RequestRefused
from maskdpo_ray.errors import RowRejected, UserError
from maskdpo_ray.stages.annotating import verdicts_depend_on

QUESTION = {
    "id": "q0",
    "topic": "Ada",
    "question": "Where was Ada born?",
    "document": "Ada was born in Ashcombe.",
    "language": "en",
    "candidates": [],
}


class Says:
    def __init__(self, reply: str | Exception, complete: bool = True) -> None:
        self._reply = reply
        self._complete = complete
        self.asked: list[tuple[str, list[str]]] = []

    async def reply(self, messages, choices):
        self.asked.append((messages[0]["content"], choices))
        if isinstance(self._reply, Exception):
            raise self._reply
        return Reply(self._reply, self._complete)


def judge(model, sentence="She was born there.", templates=None, **changes):
    annotator = JudgeAnnotator(model, read_judge_templates(templates))
    return asyncio.run(annotator.verdict({**QUESTION, **changes}, sentence))


@pytest.mark.parametrize(
    ("language", "word", "verdict"),
    [
        ("en", "Supported", "ok"),
        ("en", "Contradicted", "contradictory"),
        ("en", "Not mentioned", "unverifiable"),
        ("en", "No fact", "nofact"),
        ("zh", "属实", "ok"),
        ("zh", "矛盾", "contradictory"),
        ("zh", "未提及", "unverifiable"),
        ("zh", "无事实", "nofact"),
    ],
)
def test_each_word_is_its_verdict(language, word, verdict):
    model = Says(word)
    found, detail, _ = judge(model, language=language)
    assert found == verdict
    assert json.loads(detail) == {"replies": [word]}
    assert word in model.asked[0][1] and len(model.asked[0][1]) == 4


def test_sentences_of_a_question_share_all_that_stands_before_them():
    model = Says("Supported")
    judge(model, "AAA")
    judge(model, "BBB")
    (first, _), (second, _) = model.asked
    before = first.partition("AAA")[0]
    assert before == second.partition("BBB")[0]
    assert QUESTION["document"] in before and QUESTION["question"] in before


@pytest.mark.parametrize("reply", ["Suppo", "", "Supported"])  # the last may go on: "Supported by"
def test_a_reply_that_was_cut_is_an_error(reply):
    verdict, detail, _ = judge(Says(reply, complete=False))
    assert verdict == "error"
    assert "annotation.max_tokens" in json.loads(detail)["reason"]


def test_a_refused_prompt_is_an_error_with_the_reason():
    verdict, detail, _ = judge(Says(RequestRefused("too long")))
    assert verdict == "error" and json.loads(detail)["reason"] == "too long"


def test_a_document_is_needed_where_the_template_shows_it():
    with pytest.raises(RowRejected) as caught:
        judge(Says("Supported"), document=None)
    assert caught.value.reason == "document_missing" and "'q0'" in caught.value.detail
    assert "`templates: closed_book`" in caught.value.detail, "the remedy"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_closed_book_wording_shows_no_document_and_has_every_verdict(language):
    templates = read_judge_templates("closed_book")
    assert set(templates.languages) == set(read_judge_templates().languages)
    for verdict, word in templates.languages[language]["verdicts"].items():
        for document in (None, QUESTION["document"]):
            model = Says(word)
            changes = {"language": language, "document": document}
            assert judge(model, templates="closed_book", **changes)[0] == verdict
            [(asked, words)] = model.asked
            assert QUESTION["question"] in asked and QUESTION["document"] not in asked
            assert len(words) == 4 and all(word in asked for word in words)


def test_the_closed_book_is_of_the_judge_and_a_fingerprint_of_its_own():
    closed = {"model": "m/n", "templates": "closed_book"}
    with pytest.raises(ValueError, match="templates=closed_book is no wording of annotator 'anah'"):
        AnnotationConfig.of(annotator="anah", **closed)
    endpoint = {"base_url": "http://host/v1", "model": "m", "constrain": "vllm"}
    open_book = AnnotationConfig.of(annotator="judge", endpoint=endpoint)
    closed_book = open_book.model_copy(update={"templates": "closed_book"})
    settings = [verdicts_depend_on(each, "annotation") for each in (open_book, closed_book)]
    assert settings[0] != settings[1] and len(settings[1]["templates"]) == 64, "a digest"


def test_a_template_without_a_document_needs_none(tmp_path):
    words = {"ok": "true", "contradictory": "false"}
    template = {"prompt": "{question} {sentence}", "verdicts": words}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"en": template}, sort_keys=False))
    model = Says("false")
    found, *_ = judge(model, "She was.", templates=str(path), document=None)
    assert found == "contradictory"
    assert model.asked == [("Where was Ada born? She was.", ["true", "false"])]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": None}, "en.prompt is missing"),
        ({"prompt": "{question}"}, "en.prompt lacks {sentence}"),
        ({"prompt": "{question} {sentence} {documnt}"}, "has {documnt}, which nothing fills in"),
        ({"verdicts": None}, "en.verdicts must map"),
        ({"verdicts": {"ok": "a", "wrong": "b"}}, "en.verdicts must map"),
        ({"verdicts": {"ok": "a", "contradictory": "a"}}, "two share a word"),
        ({"verdicts": {"ok": "a", "nofact": "b"}}, "needs a word for a correct and one for an"),
        ({"verdicts": {"ok": True, "contradictory": False}}, "quote yes, no"),
        ({"verdicts": {"ok": "No", "contradictory": "no"}}, "two share a word"),
        ({"verdicts": {"ok": " yes", "contradictory": "no"}}, "has white space around it"),
    ],
)
def test_a_wrong_template_is_named(tmp_path, change, message):
    good = {"prompt": "{question} {sentence}", "verdicts": {"ok": "a", "contradictory": "b"}}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"en": {**good, **change}}))
    with pytest.raises(UserError, match=message):
        read_judge_templates(str(path))
    path.write_text(yaml.safe_dump({"fr": good}))
    with pytest.raises(UserError, match="no question is in language 'fr'; known: en, zh"):
        read_judge_templates(str(path))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_real_model_with_random_weights_always_answers_a_verdict(engine, language):
    templates = read_judge_templates()
    for wording in templates.languages.values():
        wording["prompt"] = "{document} {question} {sentence}"  # fits the tiny context
    annotator = JudgeAnnotator(ChatModel(engine, max_tokens=24), templates)

    async def ask():
        question = {**QUESTION, "language": language}
        jobs = (annotator.verdict(question, f"Sentence {i}.") for i in range(24))
        return await asyncio.gather(*jobs)

    words = set(templates.languages[language]["verdicts"].values())
    verdicts = asyncio.run(ask())
    for verdict, detail, confidence in verdicts:
        assert confidence is None, "nobody asked for it"
        assert verdict in ("ok", "contradictory", "unverifiable", "nofact")
        [reply] = json.loads(detail)["replies"]
        assert reply in words


def test_a_real_model_that_is_cut_short_gives_an_error(engine):
    templates = read_judge_templates()
    templates.languages["en"]["prompt"] = "{question} {sentence}"
    templates.languages["en"]["verdicts"] = {"ok": "x" * 40, "contradictory": "y" * 40}
    annotator = JudgeAnnotator(ChatModel(engine, max_tokens=3), templates)
    verdict, *_ = asyncio.run(annotator.verdict(QUESTION, "She was."))
    assert verdict == "error"


def test_confidence_is_the_share_of_the_reply_among_what_the_words_allow(engine):
    """Against Transformers: step by step, the softmax over the tokens that may come next."""
    import torch
    from transformers import AutoModelForCausalLM

    templates = read_judge_templates()
    templates.languages["en"]["prompt"] = "{question} {sentence}"
    words = templates.languages["en"]["verdicts"]
    judge = JudgeAnnotator(ChatModel(engine, 24, probabilities=True), templates)
    verdict, _, confidence = asyncio.run(judge.verdict(QUESTION, "She was."))

    tokenizer = engine.tokenizer
    model = AutoModelForCausalLM.from_pretrained(models.tiny_llama()).eval()
    prompt = f"{QUESTION['question']} She was."
    ids = prompt_token_ids(tokenizer, prompt)
    pieces = [tokenizer.decode([token]) for token in range(len(tokenizer))]
    said, expected = "", 1.0
    while True:
        allowed = [
            token
            for token, piece in enumerate(pieces)
            if token == tokenizer.eos_token_id
            and said in words.values()
            or token not in tokenizer.all_special_ids
            and any(word.startswith(said + piece) for word in words.values())
        ]
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1, allowed]
        expected *= logits.softmax(-1).max().item()
        token = allowed[logits.argmax()]
        if token == tokenizer.eos_token_id:
            break
        ids, said = [*ids, token], said + pieces[token]
    assert said == words[verdict]
    assert 0 < confidence < 1
    assert confidence == pytest.approx(expected, rel=1e-4)
