import asyncio
import pickle
from functools import partial

import models
import pytest

from maskdpo_ray.annotation.factory import build_annotator
from maskdpo_ray.config import AnnotationConfig
from maskdpo_ray.errors import UserError


def test_a_wrong_template_is_found_before_the_engine_starts(tmp_path):
    (tmp_path / "mine.yaml").write_text("en: {}")
    config = AnnotationConfig(
        annotator="anah", model="/nowhere", templates=str(tmp_path / "mine.yaml")
    )
    with pytest.raises(UserError, match="en.fact_existence is missing"):
        build_annotator(config)


def test_engine_arguments_are_checked():
    config = AnnotationConfig(
        annotator="judge", model=models.tiny_llama(), engine={"max_num_seq": 4}
    )
    with pytest.raises(UserError, match="did you mean 'max_num_seqs'"):
        build_annotator(config)


def test_a_pickled_builder_makes_a_judge_that_works():
    config = AnnotationConfig(
        annotator="judge",
        model=models.tiny_llama(),
        dtype="float32",
        max_tokens=24,
        engine={"kv_cache_memory_bytes": 2**26, "max_model_len": 512},
    )
    annotate = pickle.loads(pickle.dumps(partial(build_annotator, config)))()
    candidate = {"response": "She was born in 1901.", "token_ids": [1], "sentences": []}
    row = {
        "id": "q", "question": "?", "document": "d", "language": "zh", "candidates": [candidate]
    }
    [out] = asyncio.run(annotate([row]))
    [sentence] = out["candidates"][0]["sentences"]
    assert sentence["verdict"] in ("ok", "contradictory", "unverifiable", "nofact")
