"""Candidates that came with the input (``sampling.source: input``) as if they had been sampled."""

from typing import Any

from maskdpo_ray.engine.chat import (
    answer_token_ids,
    check_unicode,
    end_of_turn_id,
    prompt_token_ids,
    response_text,
)
from maskdpo_ray.engine.template import NO_KWARGS, TemplateKwargs
from maskdpo_ray.errors import RowRejected
from maskdpo_ray.records import Candidate, Question


class GivenCandidates:
    """Fills in the token ids of candidates whose texts are in the row, and those of the prompt.

    A sampled answer ends with the end-of-turn token, so a given one does too: the special token
    that the chat template writes after an assistant's text (``engine.chat.end_of_turn_id``).
    Token ids that stand in the row already are kept.

    A candidate is usable when its ids decode to its text, character for character: spans and
    masks are built on that. One that is not (its text spells a special token, or the tokenizer
    normalises it) keeps its place and its text, and loses ids and sentences; later stages leave
    out a candidate without ids. A row with fewer than two usable candidates is rejected.
    """

    def __init__(
        self,
        tokenizer: Any,
        system_prompt: str | None = None,
        template_kwargs: TemplateKwargs = NO_KWARGS,
    ) -> None:
        self._tokenizer = tokenizer
        self._prompt = {"system_prompt": system_prompt, "template_kwargs": template_kwargs}
        self._end = end_of_turn_id(tokenizer, template_kwargs)

    async def __call__(self, rows: list[Question]) -> list[Question | RowRejected]:
        return [self._fill(row) for row in rows]

    def _fill(self, row: Question) -> Question | RowRejected:
        try:
            for i, given in enumerate(row["candidates"]):
                check_unicode(given["response"], f"candidate {i} of question {row['id']!r}")
            prompt = prompt_token_ids(self._tokenizer, row["question"], **self._prompt)
        except RowRejected as rejected:
            return rejected
        candidates = [self.candidate(i, given) for i, given in enumerate(row["candidates"])]
        usable = sum(bool(candidate["token_ids"]) for candidate in candidates)
        if usable < 2:
            return RowRejected(
                "too_few_candidates",
                f"question {row['id']!r} has {usable} usable of {len(candidates)} candidates in "
                "the input and a pair needs 2: give more, with texts that the policy's tokenizer "
                "can encode and decode without change",
            )
        return {**row, "prompt_ids": prompt, "candidates": candidates}

    def candidate(self, index: int, given: dict[str, Any]) -> Candidate:
        response = given["response"]
        token_ids = list(given.get("token_ids") or [])
        token_ids = token_ids or [*answer_token_ids(self._tokenizer, response), self._end]
        usable = bool(token_ids) and response_text(self._tokenizer, token_ids) == response
        return {
            "index": index,
            "seed": 0,
            "model": given.get("model") or "input",
            "response": response,
            "token_ids": token_ids if usable else [],
            "finish_reason": "input",
            "decoding": "input",
            "sentences": list(given.get("sentences") or []) if usable else [],
        }
