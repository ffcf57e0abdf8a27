"""Settings of the pairs."""

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from maskdpo_ray.config.section import Content, Section


class LengthWindow(Section):
    """How far the lengths of a pair's two answers may be apart."""

    by: Literal["tokens", "sentences"] = "tokens"
    """What length is counted in: the policy's tokens, end of turn and reasoning included, or
    sentences."""
    ratio: float = Field(ge=1)
    """The longer answer has at most so many times the length of the shorter one."""


class PreferenceConfig(Section):
    """From verdicts to preference pairs with token weights; `training.mask: none` ignores the
    token weights, for vanilla DPO learns every token."""

    pairs: Literal["best_worst", "all_candidates"] = "best_worst"
    """What is learnt from: the best and the worst candidate, or all of them, which only
    `training.loss: fkto` can do."""
    select: Literal["precision", "f1@k", "net"] = "precision"
    """What best and worst are by: the share of correct sentences (the paper), the harmonic mean of
    it and min(correct / K, 1), or correct minus lambda times incorrect sentences."""
    f1_k: int | None = Field(default=None, ge=1)
    """K of `f1@k`: so many correct sentences are enough. Unset, the median number of sentences of
    the question's candidates."""
    net_lambda: float = Field(default=1.0, ge=0)
    """Lambda of `net`: how many correct sentences one incorrect sentence outweighs."""
    no_fact: Literal["correct", "mask", "ignore"] = "correct"
    """Sentences without facts: correct (the paper); counted as correct in selection and without
    weight on both sides; or also counted neither way in selection."""
    unverifiable: Literal["incorrect", "mask", "correct"] = "incorrect"
    """Sentences neither supported nor contradicted: incorrect (the paper); counted neither way in
    selection and without weight on both sides; or correct."""
    max_repetition: float | None = Field(default=None, ge=0, lt=1)
    """Leave out answers of which more than this share says again what they said before: sentences,
    or runs of four tokens."""
    length_window: LengthWindow | None = None
    """Best and worst of similar length: the pair with the widest gap among those within it."""
    pairs_per_question: int = Field(default=1, ge=1)
    """So many pairs of a question at most, of different answers, the widest gap first."""
    pair_weight: Literal["equal", "gap"] = "equal"
    """A factor on a pair's loss: one, or the gap between the scores of its two answers."""
    eos: Literal["keep", "mask"] = "keep"
    """The end-of-turn token stands in no sentence: learnt on both sides (as released), or not."""
    trim_chosen: bool = False
    """Leave out the incorrect sentences at the end of the chosen answer, so that its end of turn is
    learnt behind the last sentence that is not incorrect."""
    reasoning: Literal["mask", "keep"] = "mask"
    """What a thinking model wrote before its answer: weighs nothing, or one on both sides."""
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

    SELECTION: ClassVar[tuple[str, ...]] = (
        "select",
        "f1_k",
        "net_lambda",
        "no_fact",
        "unverifiable",
        "max_repetition",
        "pairs_per_question",
    )
    """What selection depends on, and with it which sentences pruned annotation asks about."""

    def selection(self) -> dict[str, Any]:
        """Those of ``SELECTION`` that differ from the paper's."""
        changed = {key: getattr(self, key) for key in self.changed(*self.SELECTION)}
        if self.no_fact == "mask":  # of the weights alone
            del changed["no_fact"]
        return changed

    @model_validator(mode="after")
    def _nothing_ignored(self) -> "PreferenceConfig":
        for key, select in (("f1_k", "f1@k"), ("net_lambda", "net")):
            if self.select != select and self.changed(key):
                raise ValueError(f"{key} is of select={select}: set that, or remove {key}")
        selecting = ("select", "length_window", "pairs_per_question", "pair_weight")
        outside = ("eos", "trim_chosen", "reasoning")
        if self.pairs == "all_candidates" and (given := self.changed(*selecting)):
            raise ValueError(
                f"pairs=all_candidates neither selects nor compares answers: remove {given[0]}"
            )
        if self.pairs == "all_candidates" and (given := self.changed(*outside)):
            raise ValueError(
                f"pairs=all_candidates learns sentences, and {given[0]} is of what stands in none: "
                f"remove {given[0]}"
            )
        if self.trim_chosen and self.eos == "mask":
            raise ValueError(
                "trim_chosen moves the end of turn of the chosen answer, and eos=mask does not "
                "learn it: remove one of them"
            )
        return self
