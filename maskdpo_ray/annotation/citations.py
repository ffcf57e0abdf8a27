"""Marks of citations as answers write them behind a sentence, in any language."""

# [1], [2, 4-6](link), ^[1]^, [a], [note 3], [citation needed]; 【1†source】; <sup>1</sup>; ¹²
CITATION = (
    r"(?:\^?\[(?:\d{1,3}(?:\s?[,–-]\s?\d{1,3})*|[a-z]|note \d{1,3}|citation needed)\]\^?"
    r"(?:\([^)\s]*\))?|【\d[^】\n]{0,40}】|<sup>[^<\n]{0,40}</sup>|[¹²³⁰⁴-⁹]+)"
)
