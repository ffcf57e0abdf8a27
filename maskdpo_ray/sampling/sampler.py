"""Candidates sampled from the policy (paper, section 2.2: K = 32, top-k 40, temperature 0.8)."""

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from maskdpo_ray.config.chat_template import ReasoningSetting
from maskdpo_ray.engine.chat import end_of_turn_id, prompt_token_ids
from maskdpo_ray.engine.reasoning import ReasoningReader
from maskdpo_ray.engine.refusal import RequestRefused
from maskdpo_ray.engine.template import NO_KWARGS, TemplateKwargs
from maskdpo_ray.errors import RowRejected, UserError
from maskdpo_ray.records import Candidate, Question
from maskdpo_ray.sampling.seeds import MAX_CANDIDATES, question_seed

if TYPE_CHECKING:
    from vllm import CompletionOutput, SamplingParams

    from maskdpo_ray.engine.engine import Engine


@dataclass(frozen=True)
class Decoding:
    """How candidates are decoded.

    Attributes:
        candidates: how many are sampled.
        temperature: above zero.
        top_k: sample among this many most likely tokens; 0 among all.
        max_tokens: longest response; a prompt near the model's context leaves less.
        greedy: one greedy candidate more, before the sampled ones.
    """

    candidates: int
    temperature: float
    top_k: int
    top_p: float
    max_tokens: int
    greedy: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.candidates <= MAX_CANDIDATES:
            raise UserError(f"candidates must be 1 to {MAX_CANDIDATES}, not {self.candidates}")
        if self.temperature == 0:
            raise UserError(
                f"temperature 0 makes {self.candidates} equal candidates: set it above 0"
            )


class Sampler:
    """Fills in the candidates of questions.

    The ``index`` of a candidate is its position; sampled candidate ``k`` (counted from 0 without
    the greedy one) has seed ``question_seed + k`` and can be sampled again alone with it.
    ``token_ids`` are exactly what the engine sampled, the end-of-turn token included, and
    ``prompt_ids`` of the row what it sampled them from.
    """

    def __init__(
        self,
        engine: "Engine",
        decoding: Decoding,
        *,
        model: str,
        seed: int,
        system_prompt: str | None = None,
        template_kwargs: TemplateKwargs = NO_KWARGS,
        reasoning: ReasoningSetting = "auto",
    ) -> None:
        self._engine = engine
        self._decoding = decoding
        self._model = model
        self._seed = seed
        self._system_prompt = system_prompt
        self._template_kwargs = template_kwargs
        self._reasoning = ReasoningReader(
            engine.tokenizer,
            reasoning,
            system_prompt=system_prompt,
            template_kwargs=template_kwargs,
        )
        # The engine knows the end of a sequence; a template may end a turn with another token.
        self._stop = [end_of_turn_id(engine.tokenizer, template_kwargs)]

    async def __call__(self, rows: list[Question]) -> list[Question | RowRejected]:
        return await asyncio.gather(*map(self._sample, rows))

    async def _sample(self, row: Question) -> Question | RowRejected:
        try:
            prompt = self.prompt(row)
            decodings = [self._greedy()] if self._decoding.greedy else []
            decodings.append(self._sampled(row["id"]))
            requests = [self._engine.generate(prompt, self._request(d)) for d in decodings]
            groups = await asyncio.gather(*requests)
        except RowRejected as rejected:
            return rejected
        except RequestRefused as error:
            return RowRejected("refused_by_engine", f"question {row['id']!r}: {error}")
        outputs = [output for group in groups for output in group]
        candidates = [self._candidate(row["id"], i, output) for i, output in enumerate(outputs)]
        return {**row, "prompt_ids": prompt, "candidates": candidates}

    def prompt(self, row: Question) -> list[int]:
        """Prompt ids of a question, checked to leave room for an answer."""
        prompt = prompt_token_ids(
            self._engine.tokenizer,
            row["question"],
            system_prompt=self._system_prompt,
            template_kwargs=self._template_kwargs,
        )
        if len(prompt) >= self._engine.max_model_len:
            raise RowRejected(
                "prompt_too_long",
                f"question {row['id']!r} has a prompt of {len(prompt)} tokens; the engine's "
                f"context of {self._engine.max_model_len} leaves no room for an answer: "
                "shorten it or raise sampling.engine.max_model_len, or the server's",
            )
        return prompt

    def _sampled(self, question_id: str) -> dict[str, Any]:
        return {
            "n": self._decoding.candidates,
            "seed": question_seed(self._seed, question_id),
            "temperature": self._decoding.temperature,
            "top_k": self._decoding.top_k,
            "top_p": self._decoding.top_p,
            "max_tokens": self._decoding.max_tokens,
            "stop_token_ids": self._stop,
        }

    def _greedy(self) -> dict[str, Any]:
        decoding = {"temperature": 0, "max_tokens": self._decoding.max_tokens}
        return {**decoding, "stop_token_ids": self._stop}

    def _request(self, decoding: dict[str, Any]) -> "SamplingParams | dict[str, Any]":
        """What the engine's ``generate`` takes for a decoding."""
        from vllm import SamplingParams

        return SamplingParams(**decoding, detokenize=False)

    def _candidate(self, question_id: str, index: int, output: "CompletionOutput") -> Candidate:
        greedy = self._decoding.greedy and index == 0
        token_ids = list(output.token_ids)
        answer = self._reasoning.read(token_ids)
        return {
            "index": index,
            "seed": 0 if greedy else question_seed(self._seed, question_id) + output.index,
            "model": self._model,
            "reasoning": answer.reasoning,
            "reasoning_tokens": answer.tokens,
            "response": answer.response,
            "token_ids": token_ids,
            "finish_reason": output.finish_reason,
            "decoding": "greedy" if greedy else "sampled",
            "sentences": [],
        }


def decoding_of(section: Any, candidates: int, *, greedy: bool = False) -> Decoding:
    """The decoding of a configuration section (sampling or evaluation)."""
    return Decoding(
        candidates=candidates,
        temperature=section.temperature,
        top_k=section.top_k,
        top_p=section.top_p,
        max_tokens=section.max_tokens,
        greedy=greedy,
    )
