"""Whether an answer says that it does not know, instead of answering.

The rule reads the first sentence alone, so that an answer that begins with facts is an answer
whatever it confesses later, and looks for wordings of not knowing, not finding or not being
allowed. An answer without a word abstains too. docs/factscore.md tells how far it agrees with
people.
"""

import re

from maskdpo_ray.annotation.sentences import split_sentences

_SUBJECT = r"(?:any |much |enough |further |relevant |specific |reliable )*"
_WORDINGS = {
    "en": (
        r"^(?:i['’]?m|i am|we['’]re|we are) (?:very |really )?(?:sorry|afraid)\b",
        r"^(?:i|we) (?:sincerely )?apologi[sz]e\b",
        r"^(?:my )?apologies\b",
        r"^sorry\b",
        r"^as an? (?:ai|artificial intelligence|(?:large )?language model)\b.*"
        r"\b(?:can(?:no|['’])t|unable|not able|do(?:n['’]t| not) have)\b",
        r"\b(?:i|we) (?:am|['’]m|are|was|were)? ?(?:unable|not able) to\b",
        r"\b(?:i|we) (?:can(?:not|['’]t| not)|could(?:n['’]t| not)) "
        r"(?:find|provide|locate|verify|confirm|identify|give|answer|offer)\b",
        r"\b(?:i|we) (?:do(?:n['’]t| not)|did(?:n['’]t| not)) (?:currently |really |actually )?"
        rf"(?:know|recognize|have {_SUBJECT}(?:information|details|data|knowledge|record)|"
        r"find|have access)\b",
        r"\bi (?:have no|lack) (?:\w+ )?(?:information|knowledge|record|data)\b",
        r"\bi['’]m not (?:sure|aware|familiar)\b|\bi am not (?:sure|aware|familiar)\b",
        r"^(?:unfortunately,? )?there (?:is|are|was|were) (?:currently )?"
        r"(?:no|not (?:any|enough)|insufficient|little to no) (?:\w+ ){0,2}"
        r"(?:information|details|data|records?|results?|mention)\b",
        r"^(?:unfortunately,? )?no (?:\w+ ){0,2}(?:information|details|data|records?|results?) "
        r"(?:(?:is|are|was|were|could be|can be) )?(?:available|found|exists?)\b",
        r"\bsearch results? (?:do|does|did|is|are|was)(?:n['’]t| not)\b",
        r"\bnot (?:mentioned|found|included|listed) in (?:any of )?the (?:\w+ )?search results?\b",
    ),
    "zh": (
        r"^(?:非常|很|十分|真的|实在)?(?:抱歉|对不起|遗憾|不好意思)",
        r"^作为(?:一个|一名)?(?:ai|人工智能|(?:大)?(?:型)?语言模型).*(?:无法|不能|没有)",
        r"(?:我|我们)(?:目前|暂时|现在|并|也|还|确实)*"
        r"(?:无法|不能|没法)(?:找到|查到|提供|回答|确认|确定|获取|获得|给出|核实)",
        r"(?:我|我们)(?:目前|暂时|现在|并|也|还|确实)*(?:不知道|不了解|不清楚|不熟悉|不确定|不认识)",
        r"(?:我|我们)(?:目前|暂时|现在|并|也|还|确实)*"
        r"(?:没有|没能|未能)(?:找到|查到|掌握|足够|任何|关于|有关|相关)",
        r"^(?:目前|暂时|现在)?(?:没有|未能|尚未|并无|暂无|查无)(?:找到|查到|发现)?"
        r".{0,20}(?:的|相关|任何)(?:信息|资料|记录|介绍)",
    ),
}
_ABSTAINS = {
    language: re.compile("|".join(f"(?:{wording})" for wording in wordings), re.IGNORECASE)
    for language, wordings in _WORDINGS.items()
}


def abstains(response: str, language: str) -> bool:
    """Whether ``response`` declines to answer.

    Args:
        language: ``en`` or ``zh``, the question's; English wordings count in both, since a model
            may decline in English whatever it was asked in.

    Raises:
        ValueError: no rule for this language.
    """
    if language not in _ABSTAINS:
        raise ValueError(f"no rule of abstention for {language!r}; known: {', '.join(_ABSTAINS)}")
    text = response.strip()
    if not text:
        return True
    start, end = split_sentences(text, language)[0]
    first = " ".join(text[start:end].split())
    languages = {language, "en"}
    return any(_ABSTAINS[each].search(first) for each in languages)
