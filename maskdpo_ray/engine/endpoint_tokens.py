"""Token ids in, token ids out, over vLLM's server: what ``Engine`` is for sampling.

Only servers that return the ids which they sampled will do (vLLM's ``return_token_ids``): ids made
again from text are others in 10 to 40 % of real responses, and training would learn those.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from maskdpo_ray.config import EndpointConfig
from maskdpo_ray.engine.endpoint import Endpoint, try_out
from maskdpo_ray.engine.refusal import RequestRefused
from maskdpo_ray.engine.server_words import choices_of, finish_of

NEEDS = "candidates are learnt by the very ids that were sampled; use vLLM's server (`vllm serve`)"
# Letters, digits, accents, white space and Chinese: tokenizers that agree on it are the same.
PROBE = "Ada Lovelace, née Byron, was born in 1815.\n\n\tShe wrote:  她是一位数学家。"


@dataclass(frozen=True)
class Output:
    """One completion; ``token_ids`` as sampled, the end-of-turn token included."""

    index: int
    token_ids: list[int]
    finish_reason: str


class TokenEndpoint:
    """Completes prompts of token ids; the interface that the sampler knows of ``Engine``.

    Attributes:
        tokenizer: the policy's; the server's is the same.
        max_model_len: the server's context, in tokens.
    """

    def __init__(self, endpoint: Endpoint, tokenizer: Any, max_model_len: int) -> None:
        self.tokenizer = tokenizer
        self.max_model_len = max_model_len
        self._endpoint = endpoint

    async def generate(self, prompt_token_ids: list[int], params: dict[str, Any]) -> list[Output]:
        """Complete one prompt; ``params["n"]`` outputs, in order of their index.

        Output ``k`` is sampled with ``seed + k``. Of a server that gives fewer than it was asked
        for, or always one, each that is missing is asked for alone, by its own seed.

        Args:
            params: ``n``, ``seed``, ``temperature``, ``top_p``, ``top_k``, ``max_tokens``,
                ``stop_token_ids``.

        Raises:
            RequestRefused: too long, or not possible with these parameters.
            UserError: the endpoint fails for all.
        """
        count, seed = params["n"], params["seed"]
        found = await self._complete(prompt_token_ids, params) if count > 1 else {}
        missing = [k for k in range(count) if k not in found]
        alone = await asyncio.gather(
            *(
                self._complete(prompt_token_ids, params | {"n": 1, "seed": seed + k})
                for k in missing
            )
        )
        found |= {k: replace(one[0], index=k) for k, one in zip(missing, alone, strict=True)}
        for output in found.values():
            if output.finish_reason not in ("stop", "length"):
                raise RequestRefused(f"the endpoint ended it: {output.finish_reason}")
        return [found[k] for k in range(count)]

    async def _complete(
        self, prompt_token_ids: list[int], params: dict[str, Any]
    ) -> dict[int, Output]:
        """What one request brought, by index; of one that asks for one completion, that."""

        def read(answer: Any) -> dict[int, Output]:
            if params["n"] == 1:
                return {0: _output(choices_of(answer)[0])}
            outputs = list(map(_output, getattr(answer, "choices", None) or []))
            bearers = Counter(each.index for each in outputs)
            told = [each for each in outputs if bearers[each.index] == 1]
            return {each.index: each for each in told if each.index in range(params["n"])}

        # The server refuses what could outgrow the context; an engine in the actor stops there.
        room = self.max_model_len - len(prompt_token_ids)
        # All that decides a token is sent: what is not comes from the server's own defaults.
        return await self._endpoint.ask(
            lambda client: client.completions.create(
                model=self._endpoint.model,
                prompt=prompt_token_ids,
                n=params["n"],
                seed=params["seed"],
                temperature=params["temperature"],
                top_p=params["top_p"],
                max_tokens=min(params["max_tokens"], room),
                presence_penalty=0,
                frequency_penalty=0,
                extra_body={
                    "top_k": params["top_k"],
                    "min_p": 0,
                    "repetition_penalty": 1,
                    "stop_token_ids": params.get("stop_token_ids", []),
                    "return_token_ids": True,
                },
            ),
            read,
        )


def open_tokens(settings: EndpointConfig, tokenizer: Any) -> TokenEndpoint:
    """A server that was tried out: reached, of the policy's tokenizer, and returning token ids.

    Raises:
        UserError: see ``try_out``; also a server that returns no token ids or has another
            tokenizer.
    """

    async def probe(endpoint: Endpoint, models: list[Any]) -> int:
        choices = await endpoint.ask(
            lambda client: client.completions.create(
                model=endpoint.model,
                prompt=PROBE,
                max_tokens=1,
                extra_body={"return_token_ids": True, "add_special_tokens": False},
            ),
            choices_of,
        )
        theirs = getattr(choices[0], "prompt_token_ids", None)
        if theirs is None or not all(getattr(c, "token_ids", None) for c in choices):
            raise endpoint.trouble(f"returns no token ids: {NEEDS}")
        if list(theirs) != tokenizer.encode(PROBE, add_special_tokens=False):
            raise endpoint.trouble(
                f"has another tokenizer than the policy at {tokenizer.name_or_path!r}: serve the "
                "policy itself"
            )
        lengths = [n for m in models if (n := getattr(m, "max_model_len", None))]
        if not lengths:
            raise endpoint.trouble(f"does not say how long its context is: {NEEDS}")
        return max(lengths)

    context = try_out(settings, probe, NEEDS)
    return TokenEndpoint(Endpoint(settings, probe), tokenizer, context)


def _output(choice: Any) -> Output:
    """Raises ``ValueError`` where it has no token ids."""
    token_ids = getattr(choice, "token_ids", None)
    if not (isinstance(token_ids, list) and all(isinstance(each, int) for each in token_ids)):
        raise ValueError("its choice has no token ids")
    return Output(choice.index, token_ids, finish_of(choice.finish_reason))
