"""Verdicts of the input: of people, or of a program that works on exported candidates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maskdpo_ray.annotation.annotator import Annotator
from maskdpo_ray.config.annotation import AnnotationConfig
from maskdpo_ray.errors import RowRejected

if TYPE_CHECKING:
    from maskdpo_ray.config import PreferenceConfig
    from maskdpo_ray.records import Question
    from maskdpo_ray.storage import Folder


class Labels(Annotator):
    """Takes the sentences that stand in the row in place of an annotator's.

    A candidate without sentences has not been labelled and stays so. Where the labels do not
    cover a response, or their spans are wrong, the response becomes one sentence of verdict
    ``error`` with the reason. Pairs leave both out. A word that is no verdict rejects the row.
    """

    needs = {"verdicts"}
    tells_confidence = True  # of those labels that have one
    version = "1"

    def __init__(self, settings: AnnotationConfig | None = None) -> None:
        """It reads no settings."""

    @classmethod
    def why_not_pruned(cls) -> str | None:
        return "asks nothing"

    @classmethod
    def processor(
        cls,
        settings: AnnotationConfig,
        world: Folder | None = None,
        labelled: bool = False,
        preference: PreferenceConfig | None = None,
    ) -> Labels:
        return cls(settings)

    async def __call__(self, rows: list[Question]) -> list[Question | RowRejected]:
        return [_check(row) for row in rows]


def _check(row: Question) -> Question | RowRejected:
    from maskdpo_ray.annotation.given_labels import check_labels, tile_labels

    try:
        check_labels(row)
    except RowRejected as rejected:
        return rejected
    return {**row, "candidates": [tile_labels(candidate) for candidate in row["candidates"]]}
