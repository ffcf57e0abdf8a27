"""Answers of a chat model behind an OpenAI-compatible server, for evaluation alone.

What a policy learns from must be the sampled token ids (``engine/endpoint_tokens.py``); what is
only examined may be text, which every server gives.
"""

import asyncio
from typing import Any

from maskdpo_ray.config import EndpointConfig
from maskdpo_ray.engine.chat import check_unicode, end_of_turn_id
from maskdpo_ray.engine.endpoint import OF_PARAMETERS, Endpoint, try_out
from maskdpo_ray.engine.reasoning import Answer, served_answer
from maskdpo_ray.engine.refusal import RequestRefused
from maskdpo_ray.engine.template import NO_KWARGS, TemplateKwargs
from maskdpo_ray.engine.user_text import escaped
from maskdpo_ray.errors import RowRejected
from maskdpo_ray.records import Candidate, Question
from maskdpo_ray.sampling.sampler import Decoding
from maskdpo_ray.sampling.seeds import question_seed

NEEDS = (
    "is it a chat model, and does its server know top_k? OpenAI's does not: "
    f"evaluation.top_k=0 leaves it out, for all models. {OF_PARAMETERS}"
)


class ChatSampler:
    """Fills in the candidates of questions, each asked for by a request of its own.

    An answer that the server kept back is an empty one.

    Args:
        template_kwargs: variables of the server's chat template.
        seed: the run's; candidate ``k`` is asked for with ``question_seed + k``.
        tokenizer: the policy's, which tells how long answers are; None where there is no policy.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        decoding: Decoding,
        *,
        seed: int,
        system_prompt: str | None = None,
        template_kwargs: TemplateKwargs = NO_KWARGS,
        tokenizer: Any = None,
    ) -> None:
        self._endpoint = endpoint
        self._decoding = decoding
        self._seed = seed
        self._system = [{"role": "system", "content": system_prompt}] if system_prompt else []
        told = {"chat_template_kwargs": dict(template_kwargs)} if template_kwargs else {}
        self._told = told
        self._tokenizer = tokenizer
        self._end = tokenizer and end_of_turn_id(tokenizer)

    async def __call__(self, rows: list[Question]) -> list[Question | RowRejected]:
        return await asyncio.gather(*map(self._answer, rows))

    async def _answer(self, row: Question) -> Question | RowRejected:
        first = question_seed(self._seed, row["id"])
        seeds = [first + k for k in range(self._decoding.candidates)]
        wanted = [None, *seeds] if self._decoding.greedy else seeds
        try:
            check_unicode(row["question"], f"question {row['id']!r}")
            answers = await asyncio.gather(*(self.ask(row["question"], seed) for seed in wanted))
        except RowRejected as rejected:
            return rejected
        except RequestRefused as error:
            return RowRejected("refused_by_engine", f"question {row['id']!r}: {error}")
        candidates = [
            self._candidate(index, seed, *answer)
            for index, (seed, answer) in enumerate(zip(wanted, answers, strict=True))
        ]
        return {**row, "candidates": candidates}

    async def ask(self, question: str, seed: int | None) -> tuple[Answer, str]:
        """One answer and its finish reason, greedy where ``seed`` is None.

        Raises:
            RequestRefused: too long, or not possible with these parameters.
            UserError: the endpoint fails for all.
        """
        choice, _ = await self._endpoint.chat(
            messages=[*self._system, {"role": "user", "content": escaped(question)}],
            max_completion_tokens=self._decoding.max_tokens,
            **self._how(seed),
        )
        kept_back = choice.message.refusal or ""
        finish = "length" if choice.finish_reason == "length" else "stop"
        return served_answer(choice.message, kept_back), finish

    def _how(self, seed: int | None) -> dict[str, Any]:
        decoding = self._decoding
        parameters: dict[str, Any] = {"temperature": 0}
        more = dict(self._told)  # not of OpenAI's API: servers that know it take it beside the rest
        if seed is not None:
            parameters = {"temperature": decoding.temperature, "top_p": decoding.top_p}
            parameters["seed"] = seed
            more |= {"top_k": decoding.top_k} if decoding.top_k else {}
        return parameters | ({"extra_body": more} if more else {})

    def _candidate(self, index: int, seed: int | None, answer: Answer, finish: str) -> Candidate:
        ids = []
        if self._tokenizer:  # for the length alone: nothing is learnt from them
            text = answer.reasoning + answer.response
            ids = [*self._tokenizer.encode(text, add_special_tokens=False), self._end]
        return {
            "index": index,
            "seed": seed or 0,
            "model": self._endpoint.model,
            "reasoning": answer.reasoning,
            "response": answer.response,
            "token_ids": ids,
            "finish_reason": finish,
            "decoding": "greedy" if seed is None else "sampled",
            "sentences": [],
        }


def open_chat_sampler(settings: EndpointConfig, decoding: Decoding, **more: Any) -> ChatSampler:
    """A chat model behind a server that was tried out: reached, and asked as the run will ask it.

    Raises:
        UserError: see ``try_out``.
    """

    async def probe(endpoint: Endpoint, _: list[Any]) -> None:
        await ChatSampler(endpoint, decoding, **more).ask("Is water wet?", seed=0)

    try_out(settings, probe, NEEDS)
    return ChatSampler(Endpoint(settings, probe), decoding, **more)
