"""A chat model behind an engine: messages in, a reply out."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from maskdpo_ray.engine.chat import Messages, chat_text, response_text
from maskdpo_ray.engine.piecewise import PiecewiseEncoder

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


class ChatModel:
    """Greedy replies of the model in ``engine``, at most ``max_tokens`` long.

    Args:
        probabilities: tell how probable each reply was. vLLM takes them after it has ruled out
            what a constraint forbids: each token's is its share among the tokens allowed there.
    """

    def __init__(self, engine: "Engine", max_tokens: int, probabilities: bool = False) -> None:
        self._engine = engine
        self._max_tokens = max_tokens
        self._logprobs = 0 if probabilities else None  # of the sampled token, no others
        self._encode = PiecewiseEncoder(engine.tokenizer)

    async def reply(self, messages: Messages, choices: list[str] | None = None) -> Reply:
        """The reply to a conversation.

        Args:
            choices: constrain the reply to one of these texts.

        Raises:
            RequestRefused: the conversation is longer than the model's context.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        params = SamplingParams(
            temperature=0,
            max_tokens=self._max_tokens,
            detokenize=False,
            logprobs=self._logprobs,
            structured_outputs=StructuredOutputsParams(choice=choices) if choices else None,
        )
        prompt = self._encode(chat_text(self._engine.tokenizer, messages))
        output = (await self._engine.generate(prompt, params))[0]
        text = response_text(self._engine.tokenizer, list(output.token_ids))
        return Reply(text, output.finish_reason == "stop", _probability(output))


def _probability(output: "CompletionOutput") -> float | None:
    if output.logprobs is None:
        return None
    steps = zip(output.token_ids, output.logprobs, strict=True)
    return math.exp(sum(found[token].logprob for token, found in steps))
