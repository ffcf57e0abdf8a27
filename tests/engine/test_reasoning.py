"""Answers of thinking models, taken apart where their families draw the border."""

import asyncio
import copy
import math
from functools import partial
from types import SimpleNamespace

import models
import pytest
from tokenizers import AddedToken

from maskdpo_ray.annotation.annotators.anah import AnahAnnotator, read_anah_templates
from maskdpo_ray.engine.chat import open_tokenizer, response_text
from maskdpo_ray.engine.chat_model import ChatModel
from maskdpo_ray.engine.reasoning import ReasoningReader, read_text, served_answer
from maskdpo_ray.engine.refusal import RequestRefused

QWEN = models.CHAT_TEMPLATE + (
    "{% if add_generation_prompt and enable_thinking is defined and not enable_thinking %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}"
)
R1 = models.CHAT_TEMPLATE + "{% if add_generation_prompt %}{{ '<think>\n' }}{% endif %}"
HARMONY = (
    "{% for m in messages %}{{ '<|start|>' ~ m['role'] ~ '<|message|>' ~ m['content'] ~ '<|end|>' "
    "}}{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)


def tokenizer_of(template, *added, special=False):
    tokenizer = copy.deepcopy(open_tokenizer(models.tiny_llama()))
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=special) for text in added])
    tokenizer.chat_template = template
    return tokenizer


def ids_of(tokenizer, text):
    return [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]


def parts(reader, tokenizer, text, **how):
    ids = ids_of(tokenizer, text)
    answer = reader.read(ids, **how)
    assert answer.reasoning + answer.response == response_text(tokenizer, ids)
    assert response_text(tokenizer, ids[answer.tokens :]) == answer.response
    return answer.reasoning, answer.response


@pytest.mark.parametrize("special", [False, True])
def test_a_pair_of_markers_that_the_model_writes(special):
    tokenizer = tokenizer_of(QWEN, "<think>", "</think>", special=special)
    reader = ReasoningReader(tokenizer)
    reasoning, response = parts(reader, tokenizer, "<think>\nShe was? No.\n</think>\n\nIn Rome.")
    assert response == "In Rome." and "She was? No." in reasoning and reasoning.endswith("\n\n")
    assert parts(reader, tokenizer, "In Rome.") == ("", "In Rome.")
    # Left at the end, never left, and only mentioned once it answers.
    assert parts(reader, tokenizer, "<think>Hm.</think>")[1] == ""
    if not special:
        assert parts(reader, tokenizer, "<think>Hm.") == ("<think>Hm.", "")
        assert parts(reader, tokenizer, "It is a <think> tag.")[0] == ""


def test_markers_that_are_no_tokens_are_found_in_the_text():
    tokenizer = tokenizer_of(R1)
    reader = ReasoningReader(tokenizer)
    assert parts(reader, tokenizer, "Hm. No.</think>In Rome.") == ("Hm. No.</think>", "In Rome.")


def test_a_template_that_opens_the_reasoning_itself():
    tokenizer = tokenizer_of(R1, "<think>", "</think>")
    reader = ReasoningReader(tokenizer)
    assert parts(reader, tokenizer, "Hm.\n</think>\n\nIn Rome.") == (
        "Hm.\n</think>\n\n",
        "In Rome.",
    )
    assert parts(reader, tokenizer, "Hm. No.") == ("Hm. No.", "")
    # A given answer did not come from that header.
    assert parts(reader, tokenizer, "In Rome.", given=True) == ("", "In Rome.")


def test_a_template_that_is_told_not_to_think():
    tokenizer = tokenizer_of(QWEN, "<think>", "</think>")
    reader = ReasoningReader(tokenizer, template_kwargs={"enable_thinking": False})
    assert parts(reader, tokenizer, "In Rome.") == ("", "In Rome.")


def test_the_channels_of_harmony():
    named = ("<|start|>", "<|message|>", "<|channel|>")
    tokenizer = tokenizer_of(HARMONY, *named, special=True)
    reader = ReasoningReader(tokenizer)
    thought = "<|channel|>analysis<|message|>Hm. No.<|end|><|start|>assistant"
    final = "<|channel|>final<|message|>In Rome."
    assert parts(reader, tokenizer, thought + final)[1] == "In Rome."
    assert parts(reader, tokenizer, final)[1] == "In Rome."
    assert parts(reader, tokenizer, thought) == ("analysisHm. No.assistant", "")
    commentary = thought.replace("analysis", "commentary")
    assert parts(reader, tokenizer, commentary + thought + final)[1] == "In Rome."


def test_the_setting_decides():
    tokenizer = tokenizer_of(QWEN, "<think>", "</think>")
    off = ReasoningReader(tokenizer, "none")
    assert parts(off, tokenizer, "<think>Hm.</think>In Rome.")[0] == ""
    own = ReasoningReader(tokenizer, ("((", "))"))
    assert parts(own, tokenizer, "((Hm.)) In Rome.") == ("((Hm.)) ", "In Rome.")


def test_a_model_without_markers_only_answers():
    tokenizer = open_tokenizer(models.tiny_llama())
    reader = ReasoningReader(tokenizer)
    assert parts(reader, tokenizer, "<think>Hm.</think>In Rome.")[0] == ""


@pytest.mark.parametrize(
    ("text", "reasoning", "response"),
    [
        ("<think>\nHm.</think>\n\nNo.", "<think>\nHm.</think>\n\n", "No."),
        ("Hm.</think>No.", "Hm.</think>", "No."),  # the server's template had opened it
        ("[THINK]Hm.[/THINK]No.", "[THINK]Hm.[/THINK]", "No."),
        ("<think>Hm.", "<think>Hm.", ""),
        ("It closes with <think> and </think>.", "", "It closes with <think> and </think>."),
        ("No.", "", "No."),
        ("", "", ""),
    ],
)
def test_a_text_whose_model_is_not_known(text, reasoning, response):
    answer = read_text(text)
    assert (answer.reasoning, answer.response) == (reasoning, response)


# -- replies --------------------------------------------------------------------------------------


def replied(tokenizer, text, choices=None, finish="stop"):
    """What a chat model makes of the tokens of ``text``, each of probability 1/2."""
    ids = ids_of(tokenizer, text)
    half = SimpleNamespace(logprob=-math.log(2))
    output = SimpleNamespace(
        token_ids=ids, finish_reason=finish, logprobs=[{token: half} for token in ids]
    )

    async def generate(prompt, params):
        assert params.stop_token_ids == [tokenizer.eos_token_id]
        return [output]

    model = ChatModel(SimpleNamespace(tokenizer=tokenizer, generate=generate), 64, True)
    return asyncio.run(model.reply([{"role": "user", "content": "?"}], choices))


def test_of_a_reply_only_what_follows_the_reasoning_is_read():
    tokenizer = tokenizer_of(QWEN, "<think>", "</think>")
    reply = replied(tokenizer, "<think>\nIs it <No Facts>?\n</think>\n\nok")
    assert reply.text == "ok" and reply.complete
    spelled = len(tokenizer.encode("ok", add_special_tokens=False))
    assert reply.probability == pytest.approx(0.5 ** (spelled + 1))  # and the end of turn
    # A constraint from the first token on leaves no room for a thought.
    assert replied(tokenizer_of(R1, "<think>", "</think>"), "ok", ["ok", "no"]).text == "ok"
    with pytest.raises(RequestRefused, match="never left its reasoning: raise max_tokens"):
        replied(tokenizer, "<think>Is it", finish="length")


def test_the_turns_of_a_thinking_annotator_are_read():
    tokenizer = tokenizer_of(QWEN, "<think>", "</think>")
    thought = "<think>\nThe first turn: <Facts Present>? <No Facts>?\n</think>\n\n"
    model = SimpleNamespace(said=[])

    def answer(messages):
        model.said.append(copy.deepcopy(messages))
        text = ("<Facts Present>", "She was a baker.", "<Contradictory>")[len(model.said) - 1]
        return replied(tokenizer, thought + text)

    model.reply = partial(asyncio.to_thread, answer)  # `replied` has a loop of its own
    question = {"id": "q", "question": "?", "document": "She was a baker.", "language": "en"}
    annotator = AnahAnnotator(model, read_anah_templates())
    said = asyncio.run(annotator.verdict(question, "She was a cook."))
    assert said.verdict == "contradictory"
    assert not any("<think>" in each["content"] for turn in model.said for each in turn)


@pytest.mark.parametrize("key", ["reasoning", "reasoning_content"])
def test_a_server_that_tells_them_apart(key):
    from openai.types.chat import ChatCompletionMessage

    message = ChatCompletionMessage(role="assistant", content="No.", **{key: "Hm."})
    answer = served_answer(message)
    assert (answer.reasoning, answer.response) == ("Hm.", "No.")
    never = served_answer(ChatCompletionMessage(role="assistant", content=None, **{key: "Hm."}))
    assert never.unfinished
