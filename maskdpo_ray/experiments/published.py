"""The paper's own figures, in percent, to stand beside ours (Mask-DPO, ICLR 2025, tables 1 to 6).

Llama3.1-8B-Instruct, greedy, unless said.
"""

from collections.abc import Hashable, Mapping

SENTENCES, FACTS = "sentence score", "FActScore"
ANAH, BIOGRAPHIES = "test questions", "biographies"
NOT_TOLD = "not told"
HYPOTHESIS = "a hypothesis"  # stated without a figure


def has_figure(paper: str) -> bool:
    """Whether what stands beside a claim of ours is a figure of the paper."""
    return paper not in (NOT_TOLD, HYPOTHESIS)


def by_judge(judge: str | None) -> str:
    """Name of the sentence score, by a judge beside the first examiner; the paper has none."""
    return f"{SENTENCES} by {judge}" if judge else SENTENCES


# By score and test questions: those of ANAH, and the biographies that FActScore was made for.
TABLE_1 = {
    "base": {(SENTENCES, ANAH): "49.19", (FACTS, BIOGRAPHIES): "30.29"},
    "facttune": {(SENTENCES, ANAH): "56.83", (FACTS, BIOGRAPHIES): "37.97"},
    "mask_dpo": {
        (SENTENCES, ANAH): "77.53",
        (FACTS, ANAH): "25.56",  # of table 2, whose run with the mask it is
        (FACTS, BIOGRAPHIES): "39.39",
    },
}
LARGE = {(SENTENCES, ANAH): "53.44", (FACTS, BIOGRAPHIES): "40.47"}  # the 70B, not aligned
TABLE_2 = {
    "base": {SENTENCES: "49.19"},
    "without mask": {SENTENCES: "68.44", FACTS: "23.43"},
    "with mask": {SENTENCES: "77.53", FACTS: "25.56"},
}
TABLE_3 = {"the policy": "77.53", "another model": "59.43", "document for the chosen": "39.43"}
TABLE_4 = {
    "1/3 of the topics": "65.04",
    "2/3 of the topics": "71.56",
    "1 question a topic": "69.03",
    "2 questions a topic": "73.03",
    "everything": "77.53",
}
TABLE_5 = {"policy": "4.49 (InternLM2: 2.43)", "other": "at most 1.25", "random": "0.56 to 0.77"}
TABLE_6_N = (1, 16, 32, 64, 128, 256)
TABLE_6 = {
    "before": dict(zip(TABLE_6_N, (47.79, 73.38, 76.30, 76.93, 79.42, 80.98), strict=True)),
    "after": dict(zip(TABLE_6_N, (70.67, 89.80, 90.53, 92.81, 93.47, 94.09), strict=True)),
}


def against(first: Mapping, second: Mapping, key: Hashable) -> str:
    """Two published figures of the same thing, where the paper has both."""
    return f"{first[key]} against {second[key]}" if key in first and key in second else NOT_TOLD
