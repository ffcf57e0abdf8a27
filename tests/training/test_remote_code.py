"""Code that models bring along: trained as it is, or refused in one line at load."""

import json
import shutil

import pytest

from maskdpo_ray.config import ModelConfig, TrainingConfig
from maskdpo_ray.errors import UserError
from maskdpo_ray.training.worker import load_to_train

HEAD = """
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from .doubling import twice


class OwnConfig(LlamaConfig):
    model_type = "own"


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""
DOUBLES = """
    def forward(self, *given, **named):
        output = super().forward(*given, **named)
        output.logits = twice(output.logits)
        return output
"""
NO_GRADIENT = """
    def __init__(self, config):
        super().__init__(config)
        self.model.layers[0].register_forward_hook(lambda _, i, o: o + 0 * (0 * o.abs()).sqrt())
"""


@pytest.fixture
def own(tiny_llama, tmp_path):
    """A model with this code."""

    def make(code, **changes):
        folder = tmp_path / "own"
        shutil.copytree(tiny_llama, folder)
        config = json.loads((folder / "config.json").read_text()) | {
            "model_type": "own",
            "architectures": ["OwnForCausalLM"],
            "auto_map": {
                "AutoConfig": "modeling_own.OwnConfig",
                "AutoModelForCausalLM": "modeling_own.OwnForCausalLM",
            },
        }
        (folder / "config.json").write_text(json.dumps(config | changes))
        (folder / "modeling_own.py").write_text(HEAD + code)
        (folder / "doubling.py").write_text("def twice(x):\n    return 2 * x\n")
        return ModelConfig(path=str(folder), dtype="float32", trust_remote_code=True)

    return make


def test_code_that_looks_words_up_by_itself_is_trained(own):
    code = """
    def forward(self, input_ids, **named):
        words = torch.nn.functional.embedding(input_ids, self.model.embed_tokens.weight)
        return super().forward(inputs_embeds=words, **named)
    """
    load_to_train(own(code), TrainingConfig(packing=False), seed=0)


def test_code_in_several_files_is_trained_as_it_is(own):
    assert load_to_train(own(DOUBLES), TrainingConfig(), seed=0)._shape.scale == 2.0


@pytest.mark.parametrize(
    ("code", "changes", "words"),
    [
        ("    def broken(", {}, "cannot be loaded: '.' was never closed"),
        ("    def __init__(self, config):\n        assert False, 'needs a GPU'", {},
         "cannot be loaded: needs a GPU"),
        ("", {"hidden_size": 36}, "cannot be loaded: "),
        ("    def forward(self, *_, **__):\n        return 1 / 0", {},
         "its own forward fails: division by zero"),
        (DOUBLES.replace("return output", "return (output.logits,)"), {},
         "its own forward fails: 'tuple' object has no attribute 'logits'"),
        (NO_GRADIENT, {}, "its gradients are not finite"),
        ("    def get_output_embeddings(self):\n        return None", {}, "a NoneType as its LM"),
    ],
)  # fmt: skip
def test_code_that_does_not_work_is_refused_in_one_line(own, code, changes, words):
    with pytest.raises(UserError, match=words) as told:
        load_to_train(own(code, **changes), TrainingConfig(), seed=0)
    assert "\n" not in str(told.value)
