"""Encoders as annotators, on tiny BERTs with random weights, against plain loops over them."""

import asyncio
import json

import numpy as np
import pytest
import torch
from models import classifier

from maskdpo_ray.annotation.annotate import Annotate
from maskdpo_ray.annotation.encoders import judged, marks, token_verdicts, verdicts_of_labels
from maskdpo_ray.config import AnnotationConfig, build_config
from maskdpo_ray.errors import UserError

NLI = {0: "entailment", 1: "neutral", 2: "contradiction"}
DOCUMENT = "ada was a baker of rome and bob died in paris . " * 6


@pytest.fixture(scope="module")
def nli(tmp_path_factory) -> str:
    return classifier(tmp_path_factory.mktemp("nli"), "BertForSequenceClassification", NLI)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> str:
    labels = {0: "supported", 1: "hallucinated"}
    return classifier(tmp_path_factory.mktemp("tokens"), "BertForTokenClassification", labels)


def section(model: str, **settings) -> AnnotationConfig:
    return AnnotationConfig.of(annotator="encoder", model=model, **settings)


def question(*responses: str, document: str | None = DOCUMENT) -> dict:
    candidates = [
        {
            "index": n, "seed": 0, "model": "m", "response": response, "token_ids": [1],
            "finish_reason": "stop", "decoding": "sampled", "sentences": [],
        }
        for n, response in enumerate(responses)
    ]  # fmt: skip
    row = {"id": "q", "topic": "ada", "question": "who was ada ?", "language": "en"}
    return {**row, "document": document, "candidates": candidates}


def annotated(settings: AnnotationConfig, *rows: dict) -> list:
    return asyncio.run(Annotate(settings.kind.build(settings, None))(list(rows)))


def plain(model: str, premise: str, hypothesis: str) -> list[np.ndarray]:
    """Softmax of every window of 48 tokens, each through the model alone."""
    from transformers import BertForSequenceClassification, BertTokenizerFast

    tokenizer = BertTokenizerFast.from_pretrained(model)
    net = BertForSequenceClassification.from_pretrained(model).eval()
    own, whole = (
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in (hypothesis, premise)
    )
    room, found, start = 48 - len(own) - 3, [], 0
    step = room - min(8, room - 1)
    while True:
        part = whole[start : start + room]
        ids = [tokenizer.cls_token_id, *part, tokenizer.sep_token_id, *own, tokenizer.sep_token_id]
        kinds = [0] * (len(part) + 2) + [1] * (len(own) + 1)
        with torch.inference_mode():
            logits = net(torch.tensor([ids]), token_type_ids=torch.tensor([kinds])).logits
        found.append(logits.softmax(-1)[0].numpy())
        if start + room >= len(whole):
            return found
        start += step


def test_a_sentence_is_read_beside_every_window_of_its_document(nli):
    settings = section(nli, overlap=8, batch_size=3)
    sentences = ["ada was a baker.", "bob sang in rome, paris and rome.", "cy died."]
    [row] = annotated(settings, question(" ".join(s.capitalize() for s in sentences)))
    found = row["candidates"][0]["sentences"]
    assert len(found) == 3
    for text, sentence in zip(sentences, found, strict=True):
        wanted = plain(nli, DOCUMENT, text)
        assert len(wanted) > 1
        said = json.loads(sentence["detail"])["windows"]
        np.testing.assert_allclose(said, wanted, atol=1e-4)
        entailed, _, against = np.max(wanted, axis=0)
        verdict = "ok" if entailed >= max(0.5, against) else (
            "contradictory" if against >= 0.5 else "unverifiable"
        )  # fmt: skip
        assert sentence["verdict"] == verdict
        assert 0 <= sentence["confidence"] <= 1


def test_company_changes_nothing_and_equal_sentences_are_read_once(nli):
    settings = section(nli, overlap=8)
    alone = annotated(settings, question("Ada was a baker."))[0]["candidates"][0]["sentences"]
    rows = annotated(settings, *(question("Ada was a baker.", "Cy sang. Bob died.") for _ in "ab"))
    for row in rows:
        [again] = row["candidates"][0]["sentences"]
        assert again["verdict"] == alone[0]["verdict"]
        assert again["confidence"] == pytest.approx(alone[0]["confidence"], abs=1e-5)


def test_a_question_without_a_document_and_a_sentence_without_room(nli):
    [rejected] = annotated(section(nli), question("Ada was.", document=None))
    assert rejected.reason == "document_missing"
    [rejected] = annotated(section(nli), question("ada " * 50 + "."))
    assert rejected.reason == "too_long" and "window of 48" in rejected.detail


@pytest.mark.parametrize(
    ("windows", "verdict", "confidence"),
    [
        ([[0.7, 0.2, 0.1]], "ok", 0.7),
        ([[0.1, 0.8, 0.1], [0.6, 0.3, 0.1]], "ok", 0.6),
        ([[0.1, 0.8, 0.1], [0.3, 0.1, 0.6]], "contradictory", 0.6),
        ([[0.6, 0.3, 0.1], [0.1, 0.1, 0.8]], "contradictory", 0.8),
        ([[0.3, 0.5, 0.2], [0.2, 0.6, 0.2]], "unverifiable", 0.5),
    ],
)
def test_from_windows_to_a_verdict(windows, verdict, confidence):
    labels = ["ok", "unverifiable", "contradictory"]
    said = judged(np.array(windows), labels, 0.5, "max")
    assert said == (verdict, pytest.approx(confidence))


def test_one_output_is_the_probability_of_support(tmp_path):
    model = classifier(tmp_path, "BertForSequenceClassification", {0: "score"})
    [row] = annotated(section(model), question("Ada was a baker."))
    [sentence] = row["candidates"][0]["sentences"]
    [[p], *_] = json.loads(sentence["detail"])["windows"]
    assert 0 < p < 1 and sentence["verdict"] in ("ok", "unverifiable")


@pytest.mark.parametrize(
    ("labels", "given", "words"),
    [
        (["LABEL_0", "LABEL_1"], None, "what the model's label 'LABEL_0' means is not known"),
        (["LABEL_0", "LABEL_1"], {"LABEL_0": "ok"}, "label 'LABEL_1' means is not known"),
        (["entailment", "neutral"], {"entailed": "ok"}, "has no label 'entailed'"),
        (["entailment", "supported"], None, "need a correct and an incorrect verdict"),
        (["score"], {"score": "ok"}, "has one output, which tells support: remove it"),
    ],
)
def test_labels_that_tell_no_verdicts_are_refused(labels, given, words):
    config = {"id2label": {str(n): label for n, label in enumerate(labels)}}
    with pytest.raises(UserError, match=words):
        verdicts_of_labels(config, given, "annotation.labels")


def test_labels_are_looked_at_before_any_work(tmp_path):
    model = classifier(tmp_path, "BertForSequenceClassification", {0: "LABEL_0", 1: "LABEL_1"})
    settings = section(model)
    with pytest.raises(UserError, match="evaluation.judges.nli.labels: what the model's label"):
        settings.kind.identity(settings, "evaluation.judges.nli")
    named = section(model, labels={"LABEL_0": "unverifiable", "LABEL_1": "ok"})
    assert named.kind.identity(named, "annotation")["model"].startswith("sha256:")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"premise": "{question}"}, "{document} is missing"),
        ({"premise": "{document} {sentence}"}, "{sentence} is not known"),
        ({"task": "tokens", "aggregate": "mean"}, "aggregate is of task=sequence"),
        ({"task": "tokens", "prune": True}, "judges whole answers: remove prune"),
        ({"labels": {"a": "true"}}, "labels"),
        ({"widnow": 3}, "did you mean 'window'?"),
    ],
)
def test_settings_that_cannot_be(settings, words):
    given = {"annotator": "encoder", "model": "owner/name", **settings}
    tree = {"run_dir": "x", "model": {"path": "m"}, "data": {"train": "q"}, "annotation": given}
    with pytest.raises(UserError) as caught:
        build_config(tree)
    assert words in str(caught.value)


def test_a_window_that_the_model_has_not_is_refused(nli):
    with pytest.raises(UserError, match="annotation.window=64 is over the 48 tokens"):
        annotated(section(nli, window=64), question("Ada was."))


def test_tokens_of_an_answer_are_marked(tokens):
    from transformers import BertForTokenClassification, BertTokenizerFast

    settings, response = section(tokens, task="tokens"), "ada was a baker . bob sang in paris ."
    short = "ada was a baker ."
    annotator = settings.kind.build(settings, None)
    found = asyncio.run(annotator.verdicts(question(document=short), response, []))
    tokenizer = BertTokenizerFast.from_pretrained(tokens)
    net = BertForTokenClassification.from_pretrained(tokens).eval()
    encoded = tokenizer(short, response, return_offsets_mapping=True, return_tensors="pt")
    offsets = encoded.pop("offset_mapping")[0].tolist()
    with torch.inference_mode():
        wrong = net(**encoded).logits.softmax(-1)[0, :, 1].numpy()
    of_answer = [n for n, part in enumerate(encoded.sequence_ids(0)) if part == 1]
    for n in of_answer:
        start, end = offsets[n]
        [mark] = [m for m in found if m.start <= start and end <= m.end]
        assert mark.verdict == ("unverifiable" if wrong[n] >= 0.5 else "ok")
    assert {mark.verdict for mark in found} == {"ok", "unverifiable"}
    [row] = annotated(settings, question(response, document=short))
    assert all(s["confidence"] is not None for s in row["candidates"][0]["sentences"])


def test_a_token_is_judged_where_it_is_supported_most():
    windows = np.array([[[0.9, 0.1], [0.2, 0.8]], [[0.1, 0.9], [0.4, 0.6]]])
    said = token_verdicts(windows, ["ok", "unverifiable"], 0.5)
    assert said == [("ok", pytest.approx(0.9)), ("unverifiable", pytest.approx(0.6))]
    tokens = [(0, 2, "ok", 0.5), (3, 5, "ok", 0.7), (5, 6, "unverifiable", 0.9)]
    assert [mark[:3] for mark in marks(tokens)] == [(0, 5, "ok"), (5, 6, "unverifiable")]
    assert marks(tokens)[0].confidence == pytest.approx(0.6)
