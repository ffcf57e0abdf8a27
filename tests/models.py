"""Tiny models made on the spot, and the one engine that the engine tests share."""

import tempfile
from functools import cache
from pathlib import Path

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
TEXTS = (
    "Tell me a biography of Ada Lovelace. She worked as a baker in the town of Ashcombe.",
    "Where was she born? She was born in 1901. 她出生于伦敦。她是一位数学家。没有事实！",
    "ok contradictory unverifiable nofact Supported Contradicted <No Facts> <Facts Present>",
)

WORDS = "ada bob cy was born died in rome paris a baker who sang the of and . , ?".split()


def build_tiny_llama(
    folder: str | Path,
    *,
    vocabulary: int = 400,
    hidden: int = 64,
    layers: int = 2,
    context: int = 512,
    seed: int = 0,
    chat_template: str | None = CHAT_TEMPLATE,
) -> str:
    """Write a Llama with random weights (float32, head size 32) and a byte-level BPE tokenizer.

    Returns:
        ``folder`` as a string.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|pad|>", "<|bos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(TEXTS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|bos|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<|system|>", "<|user|>", "<|assistant|>"],
        chat_template=chat_template,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=hidden,
                intermediate_size=2 * hidden,
                num_hidden_layers=layers,
                num_attention_heads=hidden // 32,
                num_key_value_heads=hidden // 32,
                max_position_embeddings=context,
                tie_word_embeddings=True,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                initializer_range=0.2,
            )
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def classifier(folder, kind: str, id2label: dict[int, str], seed: int = 0) -> str:
    """Write a BERT with random weights that labels sequences or tokens.

    Returns:
        ``folder`` as a string.
    """
    import torch
    from transformers import BertConfig, BertTokenizerFast
    from transformers.models import bert

    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]))
    tokenizer = BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=48)
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = BertConfig(
            vocab_size=len(WORDS) + 4,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=48,
            initializer_range=0.8,
            id2label=id2label,
            label2id={label: n for n, label in id2label.items()},
        )
        getattr(bert, kind)(config).save_pretrained(folder)
    return str(folder)


@cache
def tiny_llama() -> str:
    """Folder of the tiny model that the tests of one process share."""
    return build_tiny_llama(tempfile.mkdtemp(prefix="tiny-llama-"))


@cache
def shared_engine():
    """The engine that the tests of one process share: it starts once."""
    from maskdpo_ray.engine.engine import Engine

    return Engine(tiny_llama(), dtype="float32", seed=0, kv_cache_memory_bytes=2**26)
