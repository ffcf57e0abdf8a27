"""What became of answers before anyone judged them, read off their rows."""

from collections import Counter
from collections.abc import Iterable

from maskdpo_ray.records import Candidate, Question


def is_unfinished(candidate: Candidate) -> bool:
    """Whether an answer never left its reasoning."""
    return bool(candidate.get("reasoning")) and not candidate["response"]


def count_answers(rows: Iterable[Question]) -> dict[str, int]:
    """Answers, where there are any: ``with reasoning``, and the ``reasoning tokens`` of all, where
    they are known; ``unfinished reasoning``, that never came to an answer; ``without usable ids``,
    given for pairs as a text that the policy's tokenizer does not give back."""
    found: Counter[str] = Counter()
    for row in rows:
        for candidate in row["candidates"]:
            found["with reasoning"] += bool(candidate.get("reasoning"))
            found["reasoning tokens"] += candidate.get("reasoning_tokens") or 0
            found["unfinished reasoning"] += is_unfinished(candidate)
            of_pairs = candidate["decoding"] == "input"
            found["without usable ids"] += of_pairs and not candidate["token_ids"]
    return {what: count for what, count in found.items() if count}
