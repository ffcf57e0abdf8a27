"""The ``pair`` stage: annotated candidates in, one preference pair out."""

from maskdpo_ray.config import ModelConfig, PreferenceConfig
from maskdpo_ray.engine.chat import load_tokenizer, prompt_token_ids
from maskdpo_ray.errors import RowRejected
from maskdpo_ray.preference.select import build_pair
from maskdpo_ray.records import Pair, Question


class PairBuilder:
    """Builds pairs with the policy's own tokenizer and prompts."""

    def __init__(self, model: ModelConfig, preference: PreferenceConfig) -> None:
        self.model = model
        self.preference = preference
        self.tokenizer = load_tokenizer(model)

    async def __call__(self, rows: list[Question]) -> list[Pair | RowRejected]:
        return [self._build(row) for row in rows]

    def _build(self, row: Question) -> Pair | RowRejected:
        try:
            prompt_ids = prompt_token_ids(
                self.tokenizer, row["question"], system_prompt=self.model.system_prompt
            )
            return build_pair(row, self.tokenizer, prompt_ids, self.preference)
        except RowRejected as rejected:
            return rejected
