import pytest

from maskdpo_ray.config import build_config
from maskdpo_ray.engine.arguments import check_engine_args, complete_engine_args
from maskdpo_ray.errors import UserError

VALID = ("max_model_len", "max_num_seqs", "tensor_parallel_size", "enable_chunked_prefill")


def test_an_unknown_argument_names_the_nearest_valid_one():
    with pytest.raises(UserError, match="'max_modle_len': did you mean 'max_model_len'"):
        check_engine_args({"max_modle_len": 5}, VALID)


def test_an_argument_that_resembles_none_says_where_to_look():
    with pytest.raises(UserError, match="no argument 'xyz': `vllm serve --help=all`"):
        check_engine_args({"xyz": 5}, VALID)


@pytest.mark.parametrize("name", ["dtype", "seed", "model", "data_parallel_size"])
def test_what_another_setting_decides_is_refused(name):
    with pytest.raises(UserError, match=f"{name!r} is decided by"):
        check_engine_args({name: 1}, (*VALID, name))


def test_one_device_stays_in_one_process_and_several_do_not():
    assert complete_engine_args({}, cpu=False)["distributed_executor_backend"] == "uni"
    two = complete_engine_args({"tensor_parallel_size": 2}, cpu=False)
    assert two["distributed_executor_backend"] == "mp"
    given = {"pipeline_parallel_size": 2, "distributed_executor_backend": "ray"}
    assert complete_engine_args(given, cpu=False)["distributed_executor_backend"] == "ray"


def test_cpu_defaults_lie_below_what_is_given_and_stay_off_gpus():
    args = complete_engine_args({"kv_cache_memory_bytes": 7}, cpu=True)
    assert args["kv_cache_memory_bytes"] == 7
    assert args["enforce_eager"] is True and args["enable_chunked_prefill"] is False
    assert "enforce_eager" not in complete_engine_args({}, cpu=False)


def test_chunked_prefill_on_cpu_is_refused():
    with pytest.raises(UserError, match="leave it out on CPU"):
        complete_engine_args({"enable_chunked_prefill": True}, cpu=True)


@pytest.mark.parametrize("name", ["tokenizer", "tokenizer_revision", "tokenizer_mode"])
@pytest.mark.parametrize("evaluated", [False, True], ids=["policy", "evaluated model"])
def test_a_policy_is_never_sampled_with_another_tokenizer_than_it_is_trained_with(name, evaluated):
    given = {"engine": {name: "other"}}
    tree = {
        "run_dir": "x",
        "model": {"path": "m"},
        "data": {"train": "q.jsonl", "test": "t.jsonl"},
        "annotation": {"annotator": "judge", "model": "m"},
    }
    if evaluated:
        tree["evaluation"] = {"models": {"other": {"path": "n", **given}}}
    else:
        tree["sampling"] = given
    with pytest.raises(UserError, match=f"engine argument '{name}'"):
        build_config(tree)
