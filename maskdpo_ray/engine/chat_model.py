"""A chat model behind an engine: messages in, a reply out."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from maskdpo_ray.config.chat_template import ReasoningSetting
from maskdpo_ray.engine.chat import Messages, chat_token_ids, end_of_turn_id, response_text
from maskdpo_ray.engine.piecewise import PiecewiseEncoder
from maskdpo_ray.engine.reasoning import NEVER_LEFT, Answer, ReasoningReader
from maskdpo_ray.engine.refusal import RequestRefused
from maskdpo_ray.engine.template import NO_KWARGS, TemplateKwargs

if TYPE_CHECKING:
    from vllm import CompletionOutput

    from maskdpo_ray.engine.engine import Engine


@dataclass(frozen=True)
class Reply:
    """What the model answered."""

    text: str
    complete: bool
    """Not cut at the token limit."""
    probability: float | None = None
    """Of the tokens of the reply; None where nobody asked."""
    tokens: int | None = None
    """Read and written for it; None where a server does not tell."""


class ChatModel:
    """Greedy replies of the model in ``engine``, at most ``max_tokens`` long.

    Args:
        probabilities: tell how probable each reply was. vLLM takes them after it has ruled out
            what a constraint forbids: each token's is its share among the tokens allowed there.
    """

    def __init__(
        self,
        engine: "Engine",
        max_tokens: int,
        probabilities: bool = False,
        template_kwargs: TemplateKwargs = NO_KWARGS,
        reasoning: ReasoningSetting = "auto",
    ) -> None:
        self._engine = engine
        self._template_kwargs = template_kwargs
        self._reasoning = ReasoningReader(
            engine.tokenizer, reasoning, template_kwargs=template_kwargs
        )
        self._end = end_of_turn_id(engine.tokenizer, template_kwargs)
        self._max_tokens = max_tokens
        self._logprobs = 0 if probabilities else None  # of the sampled token, no others
        self._encode = PiecewiseEncoder(engine.tokenizer)

    async def reply(self, messages: Messages, choices: list[str] | None = None) -> Reply:
        """The reply to a conversation: what follows the model's reasoning.

        Args:
            choices: constrain the reply to one of these texts.

        Raises:
            RequestRefused: the conversation is longer than the model's context, or the reply
                never left its reasoning.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        params = SamplingParams(
            temperature=0,
            max_tokens=self._max_tokens,
            stop_token_ids=[self._end],
            detokenize=False,
            logprobs=self._logprobs,
            structured_outputs=StructuredOutputsParams(choice=choices) if choices else None,
        )
        tokenizer = self._engine.tokenizer
        prompt = chat_token_ids(tokenizer, messages, self._template_kwargs, self._encode)
        output = (await self._engine.generate(prompt, params))[0]
        # Not every tokenizer calls its end of turn special, and leaves it out of the text.
        ids = [i for i in output.token_ids if i != self._end]
        answer = Answer("", response_text(tokenizer, ids))
        if not (choices and answer.response in choices):  # a choice was replied without a thought
            answer = self._reasoning.read(ids)
        if answer.unfinished:
            raise RequestRefused(NEVER_LEFT)
        complete = output.finish_reason == "stop"
        tokens = len(prompt) + len(output.token_ids)
        return Reply(answer.response, complete, _probability(output, answer.tokens), tokens)


def _probability(output: "CompletionOutput", skip: int) -> float | None:
    """Of the tokens behind the first ``skip``, which are reasoning."""
    if output.logprobs is None:
        return None
    steps = zip(output.token_ids[skip:], output.logprobs[skip:], strict=True)
    return math.exp(sum(found[token].logprob for token, found in steps))
