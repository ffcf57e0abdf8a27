"""What every trainer is given: a random model and pairs of the lengths of real answers."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LENGTHS = Path(__file__).parents[1] / "biography_lengths.json"


@dataclass(frozen=True)
class Setting:
    model: Path
    rows: list[dict[str, Any]]
    steps: int
    device: str = "cpu"
    dtype: str = "float32"


def pick_rows(count: int, vocabulary: int) -> list[dict[str, Any]]:
    """Pairs spread evenly over all lengths of the biographies; random ids, kept tokens in front."""
    import numpy as np

    table = json.loads(LENGTHS.read_text())
    table.sort(key=lambda row: row[1] + row[3])
    places = ((np.arange(count) + 0.5) * len(table) / count).astype(int)
    return [make_row(*table[place], seed=int(place), vocabulary=vocabulary) for place in places]


def make_row(
    prompt: int,
    chosen: int,
    kept: int,
    rejected: int,
    kept_rejected: int,
    seed: int,
    vocabulary: int,
) -> dict[str, Any]:
    """One pair. Kept tokens are spread over the answer, and its last token is kept, as an end of
    turn is: nothing can be cut off."""
    import numpy as np

    random = np.random.default_rng(seed)

    def weights(size: int, ones: int) -> list[float]:
        kept_ones = random.permutation(size - 1)[: ones - 1]
        values = np.zeros(size)
        values[[*kept_ones, size - 1]] = 1.0
        return values.tolist()

    sizes = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    ids = {name: random.integers(4, vocabulary, size).tolist() for name, size in sizes.items()}
    return {
        **ids,
        "chosen_weights": weights(chosen, kept),
        "rejected_weights": weights(rejected, kept_rejected),
    }


def write_model(folder: Path, shape: dict[str, int], vocabulary: int, dtype: str) -> int:
    """A random Llama with a tokenizer that nobody will ask for words; returns its parameters."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    shape = dict(shape)
    heads = shape.pop("heads")
    config = LlamaConfig(
        vocab_size=vocabulary,
        num_attention_heads=heads,
        num_key_value_heads=shape.pop("kv_heads", heads),
        max_position_embeddings=8192,
        tie_word_embeddings=shape.pop("tied", True),
        bos_token_id=1,
        eos_token_id=2,
        **shape,
    )
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlamaForCausalLM(config).to(getattr(torch, dtype))
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2}, unk_token="<pad>"))
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
    return model.num_parameters()


def flops(shape: dict[str, int], vocabulary: int, rows: list[dict[str, Any]]) -> float:
    """Floating point operations that one step needs, forward and backward.

    Only what the loss needs: no padding, nothing computed twice, the head for kept tokens only,
    and half of the attention matrix, since it is causal.
    """
    width, layers = shape["hidden_size"], shape["num_hidden_layers"]
    shared = shape.get("kv_heads", shape["heads"]) / shape["heads"]
    of_layer = width * width * (2 + 2 * shared) + 3 * width * shape["intermediate_size"]
    total = 0.0
    for row in rows:
        for side in ("chosen", "rejected"):
            size = len(row["prompt"]) + len(row[side]) - 1
            total += 6 * layers * (of_layer * size + width * size * size)
            total += 6 * width * vocabulary * sum(row[f"{side}_weights"])
    return total
