"""What a thinking model writes before it answers, told from the answer.

An answer is its *reasoning* and its *response*: the reasoning is kept, shown and counted;
sentences, verdicts, scores and token weights are of the response alone. Families mark the border in
their own ways, which stand in this file alone:

- a pair of markers (``<think>`` ... ``</think>``). The model may write the first, or the chat
  template in the header of the reply;
- channels (gpt-oss): what is not in the channel ``final`` is reasoning.

Which of them a model has is found in its vocabulary and chat template (``reasoning: auto``), or
told by the setting.
"""

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

from maskdpo_ray.config.chat_template import ReasoningSetting
from maskdpo_ray.engine.template import NO_KWARGS, PROBES, TemplateKwargs, render
from maskdpo_ray.engine.vocabulary import special_ids, template_of

Markers = tuple[str, str]

PAIRS: tuple[Markers, ...] = (
    ("<think>", "</think>"),  # DeepSeek-R1, Qwen 3, SmolLM3, GLM 4.5, Nemotron, OLMo 3, ...
    ("[THINK]", "[/THINK]"),  # Magistral
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
    ("<mm:think>", "</mm:think>"),  # MiniMax M3
    ("◁think▷", "◁/think▷"),  # Kimi
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Cohere
    ("<|channel>", "<channel|>"),  # Gemma 4
)
CHANNEL, MESSAGE, FINAL = "<|channel|>", "<|message|>", "final"  # gpt-oss
NEVER_LEFT = (
    "it never left its reasoning: raise max_tokens, or switch reasoning off in "
    "chat_template_kwargs (enable_thinking: false)"
)


@dataclass(frozen=True)
class Answer:
    """``reasoning + response`` is the whole text, white space between them in the reasoning."""

    reasoning: str
    response: str
    tokens: int = 0
    """Those that come before the response's first."""

    @property
    def unfinished(self) -> bool:
        """Whether it never left its reasoning."""
        return bool(self.reasoning) and not self.response


class ReasoningReader:
    """Takes the answers of one model apart.

    Args:
        setting: ``auto``, ``none``, or the pair of markers.
        system_prompt, template_kwargs: of its prompts: a template may open or close the reasoning
            in the header of the reply, as they say.
    """

    def __init__(
        self,
        tokenizer: Any,
        setting: ReasoningSetting = "auto",
        *,
        system_prompt: str | None = None,
        template_kwargs: TemplateKwargs = NO_KWARGS,
    ) -> None:
        self._tokenizer = tokenizer
        known = tokenizer.get_vocab()
        if setting == "auto":
            places = (set(tokenizer.get_added_vocab()), template_of(tokenizer))
            self._pairs = [
                pair for pair in PAIRS if any(mark in place for mark in pair for place in places)
            ]
        else:
            self._pairs = [] if setting == "none" else [setting]
        channels = setting == "auto" and CHANNEL in known and MESSAGE in known
        self._channel = (known[CHANNEL], known[MESSAGE]) if channels else None
        self._ids = {pair: known.get(pair[1]) for pair in self._pairs}
        self._opened = set()
        if self._pairs and tokenizer.chat_template is not None:
            system = [{"role": "system", "content": system_prompt}] if system_prompt else []
            asked = [*system, {"role": "user", "content": PROBES[0]}]
            shown = render(tokenizer, asked, reply=True, template_kwargs=template_kwargs)
            header = shown.rpartition(PROBES[0])[2]
            self._opened = {p for p in self._pairs if header.rfind(p[0]) > header.rfind(p[1])}

    def read(self, token_ids: list[int], *, given: bool = False) -> Answer:
        """Reasoning and response of what was sampled.

        Args:
            given: it was not sampled from this model's prompt, so nothing is opened there.
        """
        text = self._text(token_ids)
        if self._channel is not None and self._channel[0] in token_ids:
            return self._of_channels(token_ids, text)
        for pair in self._pairs:
            opened = text.lstrip().startswith(pair[0]) or (pair in self._opened and not given)
            end = self._end(pair, token_ids, text, opened)
            if end is not None:
                return self._cut(token_ids, text, end)
            if opened:
                return Answer(text, "", len(token_ids))
        return Answer("", text)

    def _text(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode(
            token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def _end(self, pair: Markers, token_ids: list[int], text: str, opened: bool) -> int | None:
        """Where the reasoning ends in the text, white space behind it aside."""
        closing = self._ids[pair]
        if closing is not None and closing in token_ids:
            return len(self._text(token_ids[: token_ids.index(closing) + 1]))
        if closing in special_ids(self._tokenizer) or not opened or pair[1] not in text:
            return None
        return text.index(pair[1]) + len(pair[1])

    def _of_channels(self, token_ids: list[int], text: str) -> Answer:
        channel, message = self._channel
        begins = [n for n, token in enumerate(token_ids) if token == channel]
        for begin in reversed(begins):
            rest = token_ids[begin + 1 :]
            name = rest[: rest.index(message)] if message in rest else []
            if name and self._text(name).strip().startswith(FINAL):
                head = token_ids[: begin + 2 + len(name)]
                return self._cut(token_ids, text, len(self._text(head)))
        return Answer(text, "", len(token_ids))

    def _cut(self, token_ids: list[int], text: str, end: int) -> Answer:
        end = len(text) - len(text[end:].lstrip())
        lengths = range(1, len(token_ids) + 1)
        tokens = bisect_right(lengths, end, key=lambda n: len(self._text(token_ids[:n])))
        return Answer(text[:end], text[end:], tokens)


def read_text(text: str) -> Answer:
    """Reasoning and response of a text whose model is not known: of any pair of markers."""
    for opening, closing in PAIRS:
        head, found, rest = text.partition(closing)
        opened = text.lstrip().startswith(opening)
        if found and (opened or opening not in head):
            response = rest.lstrip()
            return Answer(text[: len(text) - len(response)], response)
        if opened:
            return Answer(text, "")
    return Answer("", text)


def served_answer(message: Any, instead: str = "") -> Answer:
    """Reasoning and response of a server's message: told apart by the server (``reasoning``, or
    ``reasoning_content``), or within the content.

    Args:
        instead: the response where there is no content.
    """
    apart = getattr(message, "reasoning", None) or getattr(message, "reasoning_content", None)
    answer = read_text(message.content or instead)
    return Answer(f"{apart or ''}{answer.reasoning}", answer.response)
