"""Whether a page supports a fact: one question to a chat model, answered by one of two words."""

import json
from typing import Any

from maskdpo_ray.annotation.wording import fill
from maskdpo_ray.engine.refusal import RequestRefused
from maskdpo_ray.evaluation.factscore.facts import ChatModel
from maskdpo_ray.evaluation.factscore.wording import WORDS, Wording
from maskdpo_ray.records import ERROR_VERDICT

Judgement = tuple[str, str]  # one of records.FACT_VERDICTS, and the detail behind it


class Verifier:
    """Shows passages and asks whether a fact is true.

    The decoding is constrained to the two words. Where the model is refused, is cut short or
    replies with anything else the judgement is ``error``, never a default.
    """

    def __init__(self, model: ChatModel, wording: Wording) -> None:
        self._model = model
        self._wording = wording

    async def judge(self, topic: str, fact: str, passages: list[str], language: str) -> Judgement:
        """Judgement on one fact; ``detail`` is JSON with the raw ``reply`` or a ``reason``.

        Args:
            passages: of the topic's page, in the order of the page: facts that find the same
                passages share a prefix.
        """
        wording = self._wording.languages[language]["verification"]
        values = {"topic": topic, "fact": fact, "passages": "\n\n".join(passages)}
        prompt = [{"role": "user", "content": fill(wording["prompt"], values)}]
        meaning = {wording[verdict]: verdict for verdict in WORDS}
        try:
            reply = await self._model.reply(prompt, choices=list(meaning))
        except RequestRefused as error:
            return ERROR_VERDICT, json.dumps({"reason": str(error)})
        detail: dict[str, Any] = {"reply": reply.text}
        verdict = meaning.get(reply.text, ERROR_VERDICT) if reply.complete else ERROR_VERDICT
        if verdict == ERROR_VERDICT:
            detail["reason"] = f"neither {' nor '.join(meaning)}"
        return verdict, json.dumps(detail, ensure_ascii=False)
