"""How much an annotator was asked, and what was saved, read off annotated rows."""

from collections.abc import Iterable

from maskdpo_ray.records import SKIPPED_VERDICT, Question


def count_calls(rows: Iterable[Question]) -> dict[str, int]:
    """Sentences of annotated questions, by what became of them.

    Returns:
        ``sentences``; ``distinct``: different texts, question by question, white space around
        them and empty ones apart; ``asked``: of these, how many the annotator was asked about;
        ``pruned``: the others. ``distinct = asked + pruned``.
    """
    sentences = distinct = pruned = 0
    for row in rows:
        verdicts = {}
        for candidate in row["candidates"]:
            sentences += len(candidate["sentences"])
            for sentence in candidate["sentences"]:
                text = candidate["response"][sentence["start"] : sentence["end"]].strip()
                if text:
                    verdicts[text] = sentence["verdict"]
        distinct += len(verdicts)
        pruned += list(verdicts.values()).count(SKIPPED_VERDICT)
    return {
        "sentences": sentences,
        "distinct": distinct,
        "asked": distinct - pruned,
        "pruned": pruned,
    }
