"""How much an annotator was asked, and what was saved, read off annotated rows."""

from collections import Counter
from collections.abc import Iterable

from maskdpo_ray.annotation.details import decided_by
from maskdpo_ray.annotation.language import language_of
from maskdpo_ray.annotation.sentences import unit_kind
from maskdpo_ray.records import SKIPPED_VERDICT, Question

NOTHING_FOUND = "nothing found"  # how the detail of such a sentence begins
UNITS = ("code", "heading")  # of these it is no news that they state nothing


def count_calls(rows: Iterable[Question]) -> dict[str, int]:
    """Sentences of annotated questions, by what became of them.

    Returns:
        ``sentences``; ``distinct``: different texts, question by question, white space around
        them, empty ones and fenced code apart; ``asked``: of these, how many the annotator was
        asked about; ``pruned``: the others. ``distinct = asked + pruned``. Where there are any,
        ``other_language``: answers in another language than their question's row says; and of the
        sentences without facts, ``no_fact_code`` and ``no_fact_heading``: those that are a fence of
        code or a heading; ``nothing_found``: those that no page says a word of; and
        ``decided_by_...``: of those that were asked, how many each of several annotators decided.
    """
    sentences = distinct = pruned = 0
    found: Counter[str] = Counter()
    for row in rows:
        verdicts, deciders = {}, {}
        for candidate in row["candidates"]:
            sentences += len(candidate["sentences"])
            language = row["language"]
            found["other_language"] += language_of(candidate["response"], language) != language
            for sentence in candidate["sentences"]:
                text = candidate["response"][sentence["start"] : sentence["end"]].strip()
                kind, verdict = unit_kind(text), sentence["verdict"]
                found["nothing_found"] += sentence["detail"].startswith(NOTHING_FOUND)
                if verdict == "nofact" and kind in UNITS:
                    found[f"no_fact_{kind}"] += 1
                if text and kind != "code":
                    verdicts[text] = verdict
                    deciders[text] = decided_by(sentence["detail"])
        distinct += len(verdicts)
        pruned += list(verdicts.values()).count(SKIPPED_VERDICT)
        found.update(f"decided_by_{name}" for name in deciders.values() if name)
    return {
        "sentences": sentences,
        "distinct": distinct,
        "asked": distinct - pruned,
        "pruned": pruned,
        **{name: count for name, count in sorted(found.items()) if count},
    }
