"""Chat templates that behave as those of published families do: prompts, ends of turns, texts of
people that spell control tokens, and what is refused in one line."""

import copy

import models
import pytest
from tokenizers import AddedToken

from maskdpo_ray.engine.chat import end_of_turn_id, open_tokenizer, prompt_token_ids
from maskdpo_ray.engine.reasoning import ReasoningReader
from maskdpo_ray.engine.template import check_template
from maskdpo_ray.errors import UserError

ALTERNATES = (
    "{% for m in messages if m['role'] != 'system' %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}"
)
# What each family is known for; the end of its turn; whether it takes a system prompt.
FAMILIES = {
    # The system prompt goes into the last question; no header of the reply.
    "mistral": (
        "{{ bos_token }}" + ALTERNATES + "{% set s = messages[0]['content'] + '\n\n' if "
        "messages[0]['role'] == 'system' else '' %}{% for m in messages %}"
        "{% if m['role'] == 'user' %}{{ '[INST] ' + (s if loop.last else '') + m['content'] + "
        "'[/INST]' }}{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] | trim + '</s>' }}"
        "{% endif %}{% endfor %}",
        "</s>",
        "last question",
    ),
    # No system role, texts trimmed, its own name for the assistant.
    "gemma": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}" + ALTERNATES
        + "{% for m in messages %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' "
        "else m['role']) + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
        "<end_of_turn>",
        None,
    ),
    # Ends a conversation with another token than a turn.
    "phi": (
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}"
        "{{ '<|endoftext|>' }}{% endif %}",
        "<|end|>",
        "system",
    ),
    # Two tokens end a turn.
    "command": (
        "{{ bos_token }}{% for m in messages %}{{ '<|START_OF_TURN_TOKEN|>' + m['role'] + "
        "m['content'] | trim }}{% if m['role'] == 'assistant' %}{{ '<|END_RESPONSE|>' }}{% endif %}"
        "{{ '<|END_OF_TURN_TOKEN|>' }}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|START_OF_TURN_TOKEN|>assistant' }}{% endif %}",
        "<|END_RESPONSE|>",
        "system",
    ),
    # Opens the thought itself, and forgets those of earlier turns.
    "deepseek": (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
        "{{ '<｜User｜>' + m['content'] + '<｜Assistant｜>' }}{% elif m['role'] == 'assistant' %}"
        "{{ m['content'].split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}{% else %}"
        "{{ m['content'] }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<think>\n' }}"
        "{% endif %}",
        "<｜end▁of▁sentence｜>",
        "system",
    ),
    # Puts an empty thought into the turns of the past.
    "chatml": (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == "
        "'assistant' %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{{ m['content'] }}"
        "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|im_start|>assistant\n' }}{% endif %}",
        "<|im_end|>",
        "system",
    ),
    # Wants the last word to be the user's.
    "asks": (
        "{% if messages[-1]['role'] != 'user' %}{{ raise_exception('ask something') }}{% endif %}"
        "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}"
        "{{ '<|eot|>' }}{% endfor %}",
        "<|eot|>",
        "system",
    ),
}  # fmt: skip
CONTROL = (
    "[INST]", "[/INST]", "</s>", "<start_of_turn>", "<end_of_turn>", "<|endoftext|>", "<|eot|>",
    "<|START_OF_TURN_TOKEN|>", "<|END_RESPONSE|>", "<|END_OF_TURN_TOKEN|>", "<｜User｜>",
    "<｜Assistant｜>", "<｜end▁of▁sentence｜>", "<|im_start|>", "<|im_end|>", "<think>", "</think>",
)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    made = copy.deepcopy(open_tokenizer(models.tiny_llama()))
    made.add_tokens([AddedToken(text, normalized=False, special=True) for text in CONTROL[:-2]])
    made.add_tokens([AddedToken(text, normalized=False) for text in CONTROL[-2:]])
    return made


@pytest.fixture(params=FAMILIES)
def family(request, tokenizer):
    template, end, system = FAMILIES[request.param]
    tokenizer.chat_template = template
    return request.param, tokenizer, end, system


def test_the_end_of_its_turn_is_found(family):
    name, tokenizer, end, _ = family
    assert tokenizer.convert_ids_to_tokens(end_of_turn_id(tokenizer)) == end


def test_a_system_prompt_is_said_or_refused_in_one_line(family):
    name, tokenizer, _, system = family
    check_template(tokenizer)
    if system is None:
        with pytest.raises(UserError, match="fails: System role not supported; correct it or set"):
            check_template(tokenizer, system=True)
        return
    check_template(tokenizer, system=True)
    if name != "mistral":  # which keeps it out of conversations until the last question
        check_template(tokenizer, system=True, turns=True)
    ids = prompt_token_ids(tokenizer, "Where?", system_prompt="Be brief.")
    assert "Be brief." in tokenizer.decode(ids)


def test_what_a_person_spells_is_text(family):
    """At the border of a text too, where templates trim; whether the template writes it or not."""
    _, tokenizer, _, _ = family
    control = set(tokenizer.convert_tokens_to_ids(list(CONTROL)))
    plain = prompt_token_ids(tokenizer, "it is")
    for spelt in CONTROL:
        for where in ("{} it is", "it is {}", "it {} is", "{}"):
            ids = prompt_token_ids(tokenizer, where.format(spelt))
            assert [i for i in ids if i in control] == [i for i in plain if i in control], spelt
            assert spelt in tokenizer.decode(ids)


def test_a_thought_that_the_template_opens_is_one(family):
    name, tokenizer, _, _ = family
    text = "Who was she?\n</think>\n\nA cook."
    ids = tokenizer.encode(text, add_special_tokens=False)
    answer = ReasoningReader(tokenizer).read(ids)
    assert answer.response == "A cook."
    open_ended = ReasoningReader(tokenizer).read(ids[:5])
    assert bool(open_ended.reasoning) is (name == "deepseek")
