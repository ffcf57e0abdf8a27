"""Candidates that came with the input (``sampling.source: input``) as if they had been sampled."""

from typing import Any

from maskdpo_ray.config.chat_template import ReasoningSetting
from maskdpo_ray.engine.chat import (
    answer_token_ids,
    check_unicode,
    end_of_turn_id,
    prompt_token_ids,
)
from maskdpo_ray.engine.reasoning import ReasoningReader
from maskdpo_ray.engine.template import NO_KWARGS, TemplateKwargs
from maskdpo_ray.errors import RowRejected
from maskdpo_ray.records import Candidate, Question, Sentence


class GivenCandidates:
    """Fills in the token ids of candidates whose texts are in the row, and those of the prompt.

    A sampled answer ends with the end-of-turn token, so a given one does too: the special token
    that the chat template writes after an assistant's text (``engine.chat.end_of_turn_id``).
    One that is said to have been cut (``finish_reason: length``) does not, for its end would be
    learnt. Token ids that stand in the row already are kept as they are. Reasoning is told from the
    response, whether the given text holds it or only its token ids do.

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
        reasoning: ReasoningSetting = "auto",
    ) -> None:
        self._tokenizer = tokenizer
        self._reasoning = ReasoningReader(tokenizer, reasoning)
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
        finish_reason = given.get("finish_reason") or "input"
        if not token_ids:
            end = [] if finish_reason == "length" else [self._end]
            token_ids = [*answer_token_ids(self._tokenizer, response), *end]
        if any(token >= len(self._tokenizer) for token in token_ids):
            token_ids = []
        answer = self._reasoning.read(token_ids, given=True)
        sentences = list(given.get("sentences") or [])
        if answer.reasoning and answer.response != response:  # the text holds the reasoning too
            usable = answer.reasoning + answer.response == response
            sentences = shifted(sentences, len(answer.reasoning))
        else:
            usable = answer.response == response
        usable &= bool(token_ids)
        return {
            "index": index,
            "seed": 0,
            "model": given.get("model") or "input",
            "reasoning": answer.reasoning if usable else "",
            "reasoning_tokens": answer.tokens if usable else 0,
            "response": answer.response if usable else response,
            "token_ids": token_ids if usable else [],
            "finish_reason": finish_reason,
            "decoding": "input",
            "sentences": sentences if usable else [],
        }


def shifted(sentences: list[Sentence], by: int) -> list[Sentence]:
    """Sentences of a whole text as those of what begins ``by`` characters later; what stands
    before is left out, and one that reaches over begins there."""
    return [
        {**each, "start": max(each["start"] - by, 0), "end": each["end"] - by}
        for each in sentences
        if each["end"] > by
    ]
