"""Settings of the pairs."""

from typing import Literal

from pydantic import Field

from maskdpo_ray.config.section import Content, Section


class PreferenceConfig(Section):
    """From verdicts to a preference pair with token weights, which `training.mask: none` ignores
    as a whole: vanilla DPO learns every token."""

    no_fact: Literal["correct", "mask"] = "correct"
    """Sentences without facts: counted as correct (the paper), or given no weight on both sides."""
    eos: Literal["keep", "mask"] = "keep"
    """The end-of-turn token stands in no sentence: learnt on both sides (as released), or not."""
    weights: Literal["verdict", "confidence"] = "verdict"
    """What a token of a sentence to learn from weighs: one, or the annotator's probability of its
    verdict (`annotation.confidence`), so that it teaches less where the annotator doubts."""
    shared_openings: Literal["keep", "mask"] = "keep"
    """An incorrect sentence is learnt from its first token on, or only from where it departs from
    every correct sentence among the question's candidates."""
    questions: Content[str | None] = None
    """A file of questions (docs/data.md): pairs of these alone, by their ids. The others of
    `data.train` are sampled and annotated all the same, so runs of several parts share that."""
    max_length: int = Field(default=1024, ge=8)
    """Prompt and response together, in tokens; the response's tail is cut."""
