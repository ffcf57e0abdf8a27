import asyncio
import json

import pytest

from maskdpo_ray.engine.chat_model import Reply
from maskdpo_ray.engine.refusal import RequestRefused
from maskdpo_ray.evaluation.factscore.verification import Verifier
from maskdpo_ray.evaluation.factscore.wording import read_wording

FACT = "Ada {passages} was born in Selby."


def judge(reply, language="en"):
    asked = []

    class Model:
        async def reply(self, messages, choices):
            asked.append((messages, choices))
            if isinstance(reply, Exception):
                raise reply
            return reply

    verifier = Verifier(Model(), read_wording())
    verdict, detail = asyncio.run(verifier.judge("Ada Quill", FACT, ["One.", "Two."], language))
    return verdict, json.loads(detail), asked[0]


@pytest.mark.parametrize(
    ("word", "language", "verdict"),
    [
        ("True", "en", "supported"),
        ("False", "en", "not_supported"),
        ("正确", "zh", "supported"),
        ("错误", "zh", "not_supported"),
    ],
)
def test_one_of_two_words_decides(word, language, verdict):
    found, detail, (messages, choices) = judge(Reply(word, True), language)
    assert (found, detail) == (verdict, {"reply": word})
    assert len(choices) == 2 and word in choices
    (message,) = messages
    assert "Ada Quill" in message["content"]
    # A brace in a fact is no placeholder.
    assert "One.\n\nTwo." in message["content"] and FACT in message["content"]


@pytest.mark.parametrize(
    "reply",
    [
        Reply("", True),
        Reply("", False),
        Reply("I cannot judge that.", True),
        Reply("true", True),
        Reply("True or False", True),
        Reply("正确", True),
        Reply("True", False),
        RequestRefused("the model gave no reply: refusal"),
    ],
    ids=str,
)
def test_anything_else_is_an_error_and_never_supported(reply):
    found, detail, _ = judge(reply)
    assert found == "error"
    assert detail["reason"]


def test_a_real_model_with_random_weights_answers_one_of_the_two(engine):
    from maskdpo_ray.engine.chat_model import ChatModel

    wording = read_wording()
    for each in wording.languages.values():
        each["verification"]["prompt"] = "{passages} {fact}"  # fits the tiny context
    verifier = Verifier(ChatModel(engine, max_tokens=24), wording)

    async def ask(language):
        jobs = (verifier.judge("Ada", f"Fact {n}.", ["She."], language) for n in range(12))
        return await asyncio.gather(*jobs)

    for language in ("en", "zh"):
        for verdict, detail in asyncio.run(ask(language)):
            assert verdict in ("supported", "not_supported")
            spoken = wording.languages[language]["verification"][verdict]
            assert json.loads(detail) == {"reply": spoken}


def test_a_prompt_beyond_the_context_of_a_real_model_is_an_error(engine):
    from maskdpo_ray.engine.chat_model import ChatModel

    verifier = Verifier(ChatModel(engine, max_tokens=24), read_wording())
    verdict, detail = asyncio.run(verifier.judge("Ada", FACT, ["long " * 2000], "en"))
    assert verdict == "error" and json.loads(detail)["reason"]
