"""The ``pair`` stage: annotated candidates in, preference pairs out."""

from collections.abc import Mapping

from maskdpo_ray.config import ModelConfig, PreferenceConfig
from maskdpo_ray.engine.chat import load_tokenizer
from maskdpo_ray.errors import RowRejected, UserError
from maskdpo_ray.model_files import local_folder
from maskdpo_ray.preference.overrides import overridden
from maskdpo_ray.preference.pairs import build_pairs
from maskdpo_ray.preference.select import PrunedTooFar
from maskdpo_ray.preference.unpaired import build_units
from maskdpo_ray.records import Pair, Question
from maskdpo_ray.training.model import longest_input


class PairBuilder:
    """Builds pairs with the policy's own tokenizer, behind the prompts that were sampled from.

    Args:
        selected: ids of the questions that may give a pair; all may by default.
        labels: verdicts of people on (question id, sentence), in the place of the annotator's.
    """

    def __init__(
        self,
        model: ModelConfig,
        preference: PreferenceConfig,
        selected: frozenset[str] | None = None,
        labels: Mapping[tuple[str, str], str] | None = None,
    ) -> None:
        self.model = model
        self.preference = preference
        self.selected = selected
        self.labels = labels or {}
        self.tokenizer = load_tokenizer(model)
        check_context(model, preference.max_length)

    async def __call__(self, rows: list[Question]) -> list[list[Pair] | RowRejected]:
        return [self._build(row) for row in rows]

    def _build(self, row: Question) -> list[Pair] | RowRejected:
        if self.selected is not None and row["id"] not in self.selected:
            return not_selected(row["id"], self.preference)
        row = overridden(row, self.labels)
        try:
            build = build_pairs if self.preference.pairs == "best_worst" else build_units
            return build(row, self.tokenizer, row["prompt_ids"], self.preference)
        except RowRejected as rejected:
            return rejected
        except PrunedTooFar as error:
            if not self.labels:
                raise
            return RowRejected(
                "pruned_too_far",
                f"question {row['id']!r}: with the labels of annotation.overrides {error}",
            )


def not_selected(row_id: str, preference: PreferenceConfig) -> RowRejected:
    """What becomes of a question that ``preference.questions`` does not name."""
    return RowRejected(
        "not_selected",
        f"question {row_id!r} is not in {preference.questions}: add it to that file, or remove "
        "preference.questions",
    )


def check_context(model: ModelConfig, max_length: int) -> int:
    """How many words the model knows.

    Raises:
        UserError: ``max_length`` is over its positions.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(
        local_folder(model.path),
        revision=model.revision,
        trust_remote_code=model.trust_remote_code,
    )
    if max_length > (context := longest_input(config)):
        raise UserError(
            f"preference.max_length={max_length} is over the {context} positions of {model.path}: "
            f"set preference.max_length={context} or less"
        )
    return config.get_text_config().vocab_size
