"""A chat model behind an engine: messages in, a reply out."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from maskdpo_ray.engine.chat import Messages, chat_text, response_text
from maskdpo_ray.engine.piecewise import PiecewiseEncoder

if TYPE_CHECKING:
    from maskdpo_ray.engine.engine import Engine


@dataclass(frozen=True)
class Reply:
    """What the model answered; ``complete`` unless it was cut at the token limit."""

    text: str
    complete: bool


class ChatModel:
    """Greedy replies of the model in ``engine``, at most ``max_tokens`` long."""

    def __init__(self, engine: "Engine", max_tokens: int) -> None:
        self._engine = engine
        self._max_tokens = max_tokens
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
            structured_outputs=StructuredOutputsParams(choice=choices) if choices else None,
        )
        prompt = self._encode(chat_text(self._engine.tokenizer, messages))
        output = (await self._engine.generate(prompt, params))[0]
        text = response_text(self._engine.tokenizer, list(output.token_ids))
        return Reply(text, complete=output.finish_reason == "stop")
