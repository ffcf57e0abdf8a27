"""What is refused before a policy is loaded."""

import pytest

from maskdpo_ray.errors import UserError
from maskdpo_ray.training.model import load_policy


def test_flash_attention_is_refused_where_it_cannot_be_computed(model_config):
    """In float32 nowhere; in bfloat16 there is neither the package nor a GPU here."""
    with pytest.raises(UserError, match="set model.dtype=bfloat16, or training.attention=sdpa"):
        load_policy(model_config, "flash_attention_2")
    low = model_config.model_copy(update={"dtype": "bfloat16"})
    with pytest.raises(UserError, match="pip install flash-attn, or set training.attention=sdpa"):
        load_policy(low, "flash_attention_2")
