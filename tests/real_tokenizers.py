"""Tokenizers of real models, built from their published vocabularies, and one of SentencePiece's
kind trained on the spot."""

import json
from functools import cache
from pathlib import Path
from typing import Any

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_NAMED = {
    0: "<|begin_of_text|>",
    1: "<|end_of_text|>",
    4: "<|finetune_right_pad_id|>",
    6: "<|start_header_id|>",
    7: "<|end_header_id|>",
    8: "<|eom_id|>",
    9: "<|eot_id|>",
    10: "<|python_tag|>",
}
LLAMA3_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + "
    "'<|end_header_id|>\n\n' + m['content'] + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{% endif %}"
)
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def _byte_level(file: Path, pattern: str, special: list[str], **settings: Any) -> Any:
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import TikTokenConverter

    backend = TikTokenConverter(str(file), pattern, extra_special_tokens=special).converted()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, clean_up_tokenization_spaces=False, **settings
    )


@cache
def llama3_tokenizer(folder: Path) -> Any:
    """Llama 3.1's tokenizer; ``folder`` is that of the real data."""
    unnamed = (n for n in range(256))
    special = [
        LLAMA3_NAMED.get(n) or f"<|reserved_special_token_{next(unnamed)}|>" for n in range(256)
    ]
    return _byte_level(
        folder / "tokenizers" / "llama3.tokenizer.model",
        LLAMA3_PATTERN,
        special,
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        chat_template=LLAMA3_TEMPLATE,
    )


@cache
def gpt2_tokenizer(folder: Path) -> Any:
    """GPT-2's tokenizer; ``folder`` is that of the real data."""
    return _byte_level(
        folder / "tokenizers" / "gpt2.tiktoken",
        GPT2_PATTERN,
        ["<|endoftext|>"],
        eos_token="<|endoftext|>",
    )


@cache
def sentencepiece_tokenizer() -> Any:
    """A BPE with byte fallback whose decoder is that of Llama 2, Mistral and InternLM2."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=[*special, *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    bpe.train_from_iterator(
        ["Ada was born in London. She wrote notes. Was she first? She was. 她出生于伦敦。"], trainer
    )
    # The trainer takes the bytes for special tokens; only the first three are.
    state = json.loads(bpe.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if t["content"] in special]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )
