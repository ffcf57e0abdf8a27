"""A small Llama that gives readable replies to the three turns of the `anah` protocol.

A model of random weights answers nonsense, which ends every conversation at its first turn. Here
the residual stream carries the last token's embedding past every layer unchanged (the projections
back into it are zero; all the rest is computed as ever), and the head maps each token of a script
to the next one. So greedy decoding speaks the script, one forward pass a token, with nothing
constrained and nothing faked in the engine: the work is that of any Llama of this size. Which
script it speaks, the chat template tells by the header of the reply: one header a turn.
"""

from collections.abc import Iterable
from pathlib import Path

from byte_bpe import train_byte_bpe

HEADERS = ("<|reply1|>", "<|reply2|>", "<|reply3|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|reply' ~ ((messages | length + 1) // 2) ~ '|>' }}{% endif %}"
)
PASSAGE = 48  # words that turn 2 cites
# Markers in four tokens, about as many as a language model's tokenizer needs for them.
SCRIPTS = (
    ("<Fac", "ts Pr", "esen", "t>"),
    tuple(f" word{n:02d}" for n in range(PASSAGE)),
    ("<No H", "alluci", "natio", "n>"),
)


def build_scripted_llama(
    folder: Path,
    texts: Iterable[str],
    *,
    vocabulary: int = 4000,
    hidden: int = 64,
    layers: int = 2,
    context: int = 2048,
) -> str:
    """Write the model (float32, head size 32) and a byte-level BPE tokenizer trained on ``texts``.

    Returns:
        ``folder`` as a string.
    """
    import torch
    from tokenizers import AddedToken
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<|pad|>", "<|bos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    bpe = train_byte_bpe(texts, vocabulary, [*special, *HEADERS])
    bpe.add_tokens([AddedToken(word, normalized=False) for script in SCRIPTS for word in script])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|bos|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        additional_special_tokens=[*special[3:], *HEADERS],
        chat_template=CHAT_TEMPLATE,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            intermediate_size=3 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=hidden // 32,
            num_key_value_heads=hidden // 32,
            max_position_embeddings=context,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            initializer_range=0.2,
        )
    )
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        embedding = model.model.embed_tokens.weight
        for header, script in zip(HEADERS, SCRIPTS, strict=True):
            said = tokenizer.convert_tokens_to_ids([header, *script, "<|end|>"])
            for last, following in zip(said, said[1:], strict=False):
                # "<|end|>" follows the last word of all three scripts: their directions add up.
                model.lm_head.weight[following] += 10 * embedding[last] / embedding[last].norm()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
