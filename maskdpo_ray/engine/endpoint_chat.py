"""A chat model behind an OpenAI-compatible server: what ``ChatModel`` is for an engine."""

import json
import math
from typing import Any

from maskdpo_ray.config import Constrain, EndpointConfig
from maskdpo_ray.engine.chat import Messages, check_unicode
from maskdpo_ray.engine.chat_model import Reply
from maskdpo_ray.engine.endpoint import OF_PARAMETERS, Endpoint, try_out
from maskdpo_ray.engine.reasoning import NEVER_LEFT, served_answer
from maskdpo_ray.engine.refusal import RequestRefused
from maskdpo_ray.engine.template import NO_KWARGS, TemplateKwargs
from maskdpo_ray.engine.user_text import escaped
from maskdpo_ray.errors import UserError

PROBE = [{"role": "user", "content": "Is water wet?"}]
PROBE_CHOICES = ["yes", "no"]


class ChatEndpoint:
    """Greedy replies of the served model, at most ``max_tokens`` long.

    The server renders the prompt, so what looks like a control token in a message is ``escaped``.

    Args:
        constrain: how the server is told to keep to the choices: "vllm" by vLLM's own
            ``structured_outputs``, "json_schema" by OpenAI's ``response_format``, "none" not at
            all. Whatever it is told, a reply that is none of the choices is refused.
        probabilities: tell how probable each reply was, as the server's log-probabilities say.
        template_kwargs: variables of the server's chat template.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        max_tokens: int,
        constrain: Constrain | None,
        probabilities: bool = False,
        template_kwargs: TemplateKwargs = NO_KWARGS,
    ) -> None:
        self._endpoint = endpoint
        self._max_tokens = max_tokens
        self._constrain = constrain
        self._asks = {"logprobs": True} if probabilities else {}
        self._template_kwargs = dict(template_kwargs)

    async def reply(self, messages: Messages, choices: list[str] | None = None) -> Reply:
        """The reply to a conversation: what follows the model's reasoning.

        Args:
            choices: the reply must be one of these texts.

        Raises:
            RowRejected: ``not_unicode``, the conversation holds a lone surrogate.
            RequestRefused: too long, refused by the server or the model, never out of its
                reasoning, or none of the choices.
            UserError: the endpoint fails for all.
        """
        for message in messages:
            check_unicode(message["content"], f"the {message['role']}'s text")
        choice, tokens = await self._endpoint.chat(
            messages=[{**each, "content": escaped(each["content"])} for each in messages],
            temperature=0,
            max_completion_tokens=self._max_tokens,
            **self._asks,
            **self._more(choices),
        )
        answer = served_answer(choice.message)
        if answer.unfinished:
            raise RequestRefused(NEVER_LEFT)
        text = answer.response
        if choice.message.content is None or choice.finish_reason not in ("stop", "length"):
            reason = choice.message.refusal or f"finish_reason {choice.finish_reason}"
            raise RequestRefused(f"the model gave no reply: {reason}")
        complete = choice.finish_reason == "stop"
        text = self._chosen(text, choices) if choices and complete else text
        of = answer.response if answer.reasoning else None
        probability = self._probability(choice, of) if self._asks else None
        return Reply(text, complete, probability, tokens)

    def _probability(self, choice: Any, tail: str | None) -> float:
        """Of the whole reply, or of the tokens at its end that hold ``tail``."""
        if choice.logprobs is None or choice.logprobs.content is None:
            raise UserError(
                f"the server of {self._endpoint.model!r} tells no probabilities (logprobs): set "
                "confidence=false, or use vLLM's server"
            )
        tokens = list(choice.logprobs.content)
        if not all(isinstance(token.logprob, float | int) for token in tokens):
            raise RequestRefused("the server tells no probability of some tokens of the reply")
        if tail is not None:
            first = len(tokens)
            while first and tail not in "".join(token.token for token in tokens[first:]):
                first -= 1
            tokens = tokens[first:]
        return math.exp(sum(token.logprob for token in tokens))

    def _more(self, choices: list[str] | None) -> dict[str, Any]:
        more = self._constraint(choices) if choices else {}
        if self._template_kwargs:
            told = {"chat_template_kwargs": self._template_kwargs}
            more["extra_body"] = more.get("extra_body", {}) | told
        return more

    def _constraint(self, choices: list[str]) -> dict[str, Any]:
        match self._constrain:
            case "vllm":
                return {"extra_body": {"structured_outputs": {"choice": choices}}}
            case "json_schema":
                schema = {
                    "type": "object",
                    "properties": {"verdict": {"type": "string", "enum": choices}},
                    "required": ["verdict"],
                    "additionalProperties": False,
                }
                named = {"name": "verdict", "strict": True, "schema": schema}
                return {"response_format": {"type": "json_schema", "json_schema": named}}
        return {}

    def _chosen(self, text: str, choices: list[str]) -> str:
        found = text.strip()
        if self._constrain == "json_schema":
            try:
                found = json.loads(text)["verdict"]
            except (ValueError, KeyError, TypeError):
                found = None
        if found not in choices:
            raise RequestRefused(
                f"the reply {text[:100]!r} is none of {', '.join(choices)}: let the server keep "
                "to them (endpoint.constrain)"
            )
        return found


def open_chat(
    settings: EndpointConfig,
    max_tokens: int,
    constrain: Constrain | None = None,
    probabilities: bool = False,
    template_kwargs: TemplateKwargs = NO_KWARGS,
) -> ChatEndpoint:
    """A chat model behind a server that was tried out: reached, and asked as the run will ask it.

    Raises:
        UserError: see ``try_out``; also a server that does not heed the constraint.
    """
    asked = (max_tokens, constrain, probabilities, template_kwargs)
    choices = PROBE_CHOICES if constrain in ("vllm", "json_schema") else None

    async def probe(endpoint: Endpoint, _: list[Any]) -> None:
        await ChatEndpoint(endpoint, *asked).reply(PROBE, choices)

    knows = f", and does its server know constrain={constrain}" if choices else ""
    try_out(settings, probe, f"is it a chat model{knows}? {OF_PARAMETERS}")
    return ChatEndpoint(Endpoint(settings, probe), *asked)
