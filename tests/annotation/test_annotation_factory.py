import asyncio
import json
import pickle
from functools import partial

import models
import pytest

from maskdpo_ray.config import AnnotationConfig, Config, EvaluationConfig
from maskdpo_ray.errors import UserError
from maskdpo_ray.stages.annotating import build_annotator
from maskdpo_ray.storage import Folder


def test_a_wrong_template_is_found_before_the_engine_starts(tmp_path):
    (tmp_path / "mine.yaml").write_text("en: {}")
    config = AnnotationConfig.of(
        annotator="anah", model="/nowhere", templates=str(tmp_path / "mine.yaml")
    )
    with pytest.raises(UserError, match="en.fact_existence is missing"):
        build_annotator(config)


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        ({"annotator": "anah", "model": "m"}, True),
        ({"annotator": "judge", "model": "m"}, True),
        ({"annotator": "judge", "model": "m", "templates": "closed_book"}, False),
        ({"annotator": "closed_world"}, False),
        ({"annotator": "labels"}, False),
    ],
)
def test_it_is_known_beforehand_who_needs_a_document(settings, needed):
    settings = AnnotationConfig.of(**settings)
    assert settings.kind.needs_document(settings, "zh") is needed


def test_a_judge_needs_a_document_where_its_wording_shows_one(tmp_path):
    wording = "prompt: '{question} {sentence}', verdicts: {ok: A, unverifiable: B}"
    shown = wording.replace("{question}", "{document} {question}")
    (tmp_path / "mine.yaml").write_text(f"en: {{{wording}}}\nzh: {{{shown}}}\n")
    mine = AnnotationConfig.of(annotator="judge", model="m", templates=str(tmp_path / "mine.yaml"))
    assert [mine.kind.needs_document(mine, language) for language in ("en", "zh")] == [False, True]


def test_engine_arguments_are_checked():
    config = AnnotationConfig.of(
        annotator="judge", model=models.tiny_llama(), engine={"max_num_seq": 4}
    )
    with pytest.raises(UserError, match="did you mean 'max_num_seqs'"):
        build_annotator(config)


def test_a_pickled_builder_makes_a_judge_that_works():
    config = AnnotationConfig.of(
        annotator="judge",
        model=models.tiny_llama(),
        dtype="float32",
        max_tokens=24,
        engine={"kv_cache_memory_bytes": 2**26, "max_model_len": 512},
    )
    annotate = pickle.loads(pickle.dumps(partial(build_annotator, config)))()
    candidate = {"response": "She was born in 1901.", "token_ids": [1], "sentences": []}
    row = {"id": "q", "question": "?", "document": "d", "language": "zh", "candidates": [candidate]}
    [out] = asyncio.run(annotate([row]))
    [sentence] = out["candidates"][0]["sentences"]
    assert sentence["verdict"] in ("ok", "contradictory", "unverifiable", "nofact")


def answer(index, *kinds_and_values):
    text = " ".join(f"Ada Lowick worked as a {value}." for value in kinds_and_values)
    return {"index": index, "response": text, "token_ids": [1], "sentences": []}


def test_pruning_is_a_setting(tmp_path):
    facts = tmp_path / "facts.json"
    facts.write_text(json.dumps({"Ada Lowick": {"occupation": "baker"}}))
    candidates = [
        answer(0, "baker"), answer(1, "cook"), answer(2, "baker", "cook", "judge", "nurse")
    ]  # fmt: skip
    row = {"id": "q", "topic": "Ada Lowick", "language": "en", "candidates": candidates}
    for prune in (False, True):
        config = AnnotationConfig.of(annotator="closed_world", prune=prune)
        annotate = build_annotator(config, Folder(tmp_path))
        [out] = asyncio.run(annotate([row]))
        verdicts = [s["verdict"] for c in out["candidates"] for s in c["sentences"]]
        assert ("skipped" in verdicts) == prune


def test_labels_ask_nothing_that_could_be_pruned():
    with pytest.raises(ValueError, match="'labels' asks nothing: remove prune"):
        AnnotationConfig.of(annotator="labels", prune=True)


def test_an_evaluation_judges_every_sentence():
    with pytest.raises(ValueError, match="remove evaluation.annotation.prune"):
        EvaluationConfig(annotation={"annotator": "closed_world", "prune": True})
    annotation = {"annotator": "closed_world", "prune": True}
    config = Config(run_dir="run", world={}, model={"dtype": "float32"}, annotation=annotation)
    assert config.annotation.prune and not config.evaluation_annotation.prune
