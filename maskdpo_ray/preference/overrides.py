"""Labels that people gave, in the place of verdicts."""

from collections.abc import Mapping

from maskdpo_ray.records import Candidate, Question, Sentence

LABELLED = "labelled by a person"


def overridden(row: Question, labels: Mapping[tuple[str, str], str]) -> Question:
    """A question whose sentences have the labels that people gave them, with confidence 1.

    Args:
        labels: verdict of each (question id, sentence without white space around it).
    """
    if not any(question == row["id"] for question, _ in labels):
        return row

    def sentence(of: Candidate, said: Sentence) -> Sentence:
        text = of["response"][said["start"] : said["end"]].strip()
        label = labels.get((row["id"], text))
        return {**said, "verdict": label, "detail": LABELLED, "confidence": 1.0} if label else said

    return {
        **row,
        "candidates": [
            {**each, "sentences": [sentence(each, said) for said in each["sentences"]]}
            for each in row["candidates"]
        ],
    }
