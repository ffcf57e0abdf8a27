import pytest

from maskdpo_ray.config import build_config
from maskdpo_ray.errors import UserError

ENDPOINT = {"base_url": "http://h:1/v1", "model": "m", "constrain": "vllm"}
FREE = {key: value for key, value in ENDPOINT.items() if key != "constrain"}
WRITER = {"writer": {"model": "m"}}


def tree(factscore: dict, **sections) -> dict:
    return {
        "run_dir": "x",
        "world": {},
        "annotation": {"annotator": "closed_world"},
        "evaluation": {"factscore": factscore},
        **sections,
    }


@pytest.mark.parametrize(
    "factscore",
    [
        WRITER,
        {"writer": {"endpoint": ENDPOINT}},
        {"writer": {"model": "m"}, "verifier": {"endpoint": ENDPOINT}},
        {"writer": {"endpoint": FREE}, "verifier": {"model": "m"}},
        {"writer": {"endpoint": FREE}, "verifier": {"endpoint": ENDPOINT}},
        {**WRITER, "retrieval": "dense", "embedding": "e"},
    ],
    ids=str,
)
def test_what_can_work_is_taken_and_comes_back_from_a_saved_file(factscore):
    config = build_config(tree(factscore))
    assert build_config(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("factscore", "words"),
    [
        ({}, "evaluation.factscore.writer is missing"),
        ({"writer": {}}, "model or endpoint is missing"),
        ({"writer": {"endpoint": FREE}}, "endpoint.constrain of the verifying model is missing"),
        ({"writer": {"endpoint": ENDPOINT, "dtype": "float32"}}, "decides dtype: remove it"),
        ({**WRITER, "verifier": {"model": "n"}}, "an actor holds one engine"),
        ({**WRITER, "verifier": {"endpoint": FREE}}, "constrain of the verifying model"),
        (
            {"writer": {"endpoint": ENDPOINT}, "verifier": {"model": "n"}},
            "the writer replies freely: remove writer.endpoint.constrain",
        ),
        ({**WRITER, "retrieval": "dense"}, "retrieval=dense needs embedding"),
        ({**WRITER, "embedding": "e"}, "retrieval=bm25 uses no embedding"),
        ({**WRITER, "knowledge": "k.db"}, "world provides the pages"),
        ({**WRITER, "k": 0}, "evaluation.factscore.k: Input should be greater"),
        ({**WRITER, "decodings": []}, "evaluation.factscore.decodings"),
        ({**WRITER, "decodings": ["greedy", "greedy"]}, "names one twice"),
        ({**WRITER, "knowlege": "k"}, "did you mean 'knowledge'?"),
        ({"writer": {"model": "m", "engine": {"model": "n"}}}, "decided by the section's model"),
        (
            {"writer": {"model": "m", "engine": {"tensor_parallel_size": 2}}},
            "resources.factscore.gpus=2",
        ),
    ],
)
def test_what_would_be_ignored_or_fail_later_is_refused(factscore, words):
    with pytest.raises(UserError) as caught:
        build_config(tree(factscore))
    assert words in str(caught.value)


def test_outside_the_world_it_needs_pages_and_questions():
    given = {"world": None, "model": {"path": "p"}}
    given["annotation"] = {"annotator": "judge", "model": "j"}
    with pytest.raises(UserError, match="knowledge is missing: .*`maskdpo knowledge OUT.db"):
        build_config(tree(WRITER, **given, data={"train": "a", "test": "b"}))
    with pytest.raises(UserError, match="evaluation.factscore is of answers to data.test"):
        build_config(tree({**WRITER, "knowledge": "k.db"}, **given, data={"train": "a"}))
    build_config(tree({**WRITER, "knowledge": "k.db"}, **given, data={"train": "a", "test": "b"}))
