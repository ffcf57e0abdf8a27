"""Whether an answer says that it does not know, instead of answering.

The first sentence decides; after one that only greets, thanks or apologizes, the next. It is read
clause by clause: it declines where a clause has a wording of not knowing, not finding or not being
allowed and no other clause tells anything, so "I'm not sure, but I think it is Canberra" is an
answer, and so is one that begins with facts, whatever it confesses later. Quotations and titles are
not what the answer itself says. An answer without a word abstains too. docs/evaluation.md tells how
far the rule agrees with people.
"""

import re

from maskdpo_ray.annotation.sentences import split_sentences
from maskdpo_ray.texts import LANGUAGES

RULES = 3  # raised when another answer may count as abstaining
COURTESIES = 3  # sentences that are read at most
LONGEST = 500  # characters of a sentence that are read: nobody declines at greater length

_ADVERBS = r"(?:[a-z]+ly |still |also |quite |too |just |even |so |very |yet )*"
_KNOWN = r"(?:\w+ ){0,4}(?:info|information|details?|data|knowledge|records?|access|answers?"
_KNOWN += r"|sources?|idea|clue|notion|context|memory|recollection|insight|facts)\b"
_SAY = r"(?:find|provide|locate|verify|confirm|identify|give|answer|offer|help|assist|say)"
_PRAISE = r"(?!(?:stress|help but|overstate|emphasi[sz]e|recommend|wait|imagine|deny)\b)"
_TEXT = r"(?:documents?|contexts?|passages?|texts?|articles?|sources?|search results?|references?)"
_TELL = r"(?:mention|say|contain|provide|state|specify|include|tell|give|indicate|discuss|cover)"
_AS_OF = r"(?:(?:unfortunately|sadly|currently|as of [^,]{1,60}),? )?"
_ENGLISH = (
    rf"\b(?:i|we) {_ADVERBS}(?:do|did) not {_ADVERBS}"
    rf"(?:know|recogni[sz]e|recall|remember|find|(?:have|possess) {_KNOWN}"
    r"|(?:think|believe) (?:i (?:have|know)|there is an?))",
    rf"\b(?:i|we) (?:am|are|was|were|have(?: been)?) {_ADVERBS}(?:unable|not (?:been )?able) to\b",
    rf"\b(?:i|we) {_ADVERBS}(?:cannot|can not|could not|will not be able to) "
    rf"{_ADVERBS}{_PRAISE}[a-z]+",
    rf"\b(?:i|we) (?:will|would) not {_ADVERBS}{_SAY}|\bneither confirm nor deny\b",
    r"\b(?:i|we) (?:must|have to|will|would)? ?(?:respectfully |politely )?(?:decline|refuse)\b",
    r"\b(?:i|we) (?:cannot|could not|do not)$|\bhave to pass on\b|\bi dunno\b",
    r"\b(?:i|we) have not (?:the \w+|an?|any) (?:idea|clue|notion)\b",
    r"\b(?:unfamiliar|unknown|not familiar|not known) to me\b",
    r"\bnot (?:\w+ )?the right (?:source|person|one|model|tool)\b",
    r"\b(?:i|we) (?:would )?(?:rather|prefer) not\b",
    r"\b(?:i|we) (?:\w+ ){1,8}and (?:so |therefore )?(?:cannot|could not|am unable|am not able)\b",
    rf"\b(?:i|we) (?:am|are) {_ADVERBS}(?:not {_ADVERBS}(?:sure|aware|familiar|certain|allowed"
    r"|permitted|authori[sz]ed|acquainted|in a position|at liberty|able)"
    r"|unfamiliar|unsure|uncertain|unaware)\b",
    rf"\b(?:i|we) {_ADVERBS}(?:have (?:no|limited|little|insufficient)|lack) {_KNOWN}",
    r"\b(?:i|we) have no way\b|\b(?:i|we) (?:would )?need more (?:context|information|details)\b",
    r"\bdoes not ring a bell\b|\bi am at a loss\b|\b(?:in|from) my (?:records|data)$",
    r"\bcannot be (?:answered|determined|verified|confirmed)(?: (?:from|with|based)\b|$)",
    r"^(?:could|can|would) you (?:please )?(?:clarify|specify|provide|tell me|give me)\b",
    r"\b(?:i|we) have (?:not|never) (?:heard|come across|encountered|got an?|an?)\b",
    r"\bi (?:know nothing|know (?:very )?little|am drawing a blank|wish i (?:knew|could))\b",
    r"^(?:beats me|search me|who knows|(?:nobody|no one) knows|idk|dunno"
    r"|your guess is as good as mine|who is (?:that|this)|who do you mean)$",
    r"\b(?:beyond|outside|out of)(?: of)? (?:the scope of )?(?:my|our|what i)\b",
    r"\bnot something (?:that )?i (?:know|can|have|am able)\b",
    r"\bmy (?:\w+ )?(?:data|knowledge|training|information|sources|database|records)\b.{0,30}"
    r"\b(?:do|does|did|is|are|has) not\b",
    r"^as an? (?:ai|artificial intelligence|(?:large )?language model)\b[^,]{0,60},? i "
    r".*\b(?:cannot|unable|not able|do not|am not|have no)\b",
    rf"^{_AS_OF}there (?:is|are|was|were|do not|does not) {_ADVERBS}(?:(?:appear|seem) to be )?"
    r"(?:no|not|any|enough|insufficient|little|nothing) (?:\w+ ){0,3}?"
    r"(?:information|details|data|records?|results?|mention|evidence|sources?|person|to me)\b",
    r"\bthere is nothing (?:in my|i)\b|^nothing (?:is|was) (?:known|found)\b",
    rf"^{_AS_OF}(?:no|not enough|insufficient) (?:\w+ ){{0,2}}"
    r"(?:information|details|data|records?|results?|context)(?: |$)"
    r"(?:(?:is|are|was|were|could be|can be|has been|have been) ?)?"
    r"(?:available|found|exists?|known|provided|to (?:answer|say|tell)"
    r"|(?:about|on) (?:this|that|the|him|her|it)\b|$)",
    rf"^{_AS_OF}(?:\w+ ){{0,2}}(?:information|details|data|records?) .{{0,40}}"
    r"\b(?:is|are) (?:not|un)\W?(?:\w+ )?(?:available|known|found|accessible|provided)\b",
    rf"\b{_TEXT} (?:is|are) not about\b",
    rf"\b{_TEXT} (?:\w+ )?(?:(?:do|does|did) not {_TELL}|(?:gives?|contains?|provides?|has) no)\b",
    rf"\bnot (?:\w+ )?(?:mentioned|found|included|listed|stated|specified|given|provided) in "
    rf"(?:any of )?the (?:\w+ )?{_TEXT}\b",
    r"^it is (?:not (?:known|clear|possible|certain)|unclear|unknown|impossible|uncertain"
    r"|(?:hard|difficult) to say)\b",
    r"^(?:unknown|unclear|unsure|n/a|not (?:known|available|applicable))$",
    r"^(?:do not know|not sure|no (?:idea|clue)|cannot (?:say|tell|answer|determine|be determined)"
    rf"|unable to {_SAY}|(?:could|did) not (?:find|locate))\b",
    r"^(?:\w+ )?(?:information|details|data|records?|results?|answer) (?:not|un)(?: ?\w+)?$",
)
_CHINESE_ADVERBS = r"(?:目前|暂时|现在|手头|这里|这个|并|也|还|确实|实在|真的|恐怕|对此|都|我){0,5}"
_NOT_KNOWING = r"(?:不太?(?:知道|了解|清楚|熟悉|确定|认识|记得|懂)|没有?听说过|一无所知"
_NOT_KNOWING += r"|(?:没有|没什么|毫无)印象|无可奉告|说不[准好清]|不好说)"
_SAYING = (
    r"(?:找到|查到|查询|提供|回答|作答|确认|确定|获取|获得|给出|核实|告诉|透露|判断|得知|回应|访问)"
)
_MATTER = r"(?:信息|资料|记录|介绍|内容|数据|结果|此人|讯息|资讯|答案)"
_CHINESE = (
    rf"(?:^|我|我们|恕|[，,]){_CHINESE_ADVERBS}(?:无法|不能|没法|没办法|不便|难以).{{0,4}}?{_SAYING}",
    rf"(?:^|我|我们){_CHINESE_ADVERBS}{_NOT_KNOWING}",
    rf"我们?对[^，,]{{1,12}}{_NOT_KNOWING}",
    rf"(?:我|我们){_CHINESE_ADVERBS}(?:没有|没能|未能|未|查不到|找不到)"
    rf"(?:找到|查到|掌握|访问|[^，,]{{0,12}}{_MATTER}|$)",
    r"(?:我|我们)(?:查不到|找不到)|帮不上忙",
    r"^[您你](?:能|可以)否?(?:说明|告诉|提供|澄清|具体)",
    rf"^(?:截[至止][^，,]*[，,]|[非常很十分真的实在]*(?:抱歉|对不起|遗憾)[，,])?{_CHINESE_ADVERBS}(?:没有|未能|尚未|并无|暂无|查无|未|没)"
    rf"(?:找到|查到|查询到|发现|足够)?.{{0,20}}?{_MATTER}(?!显示|表明)",
    r"(?:网上|文中|文章|资料|文档|材料|原文|搜索结果|知识库|数据库|训练数据)[中里]?.{0,4}"
    r"(?:没有|并?未|无)(?:提[到及供]|包含|说明|给出|关于|找到|收录|记载|[她他它])",
    r"超出了?我们?的",
    r"^作为(?:一[个名])?(?:ai|人工智能|大?型?语言模型).*[我，,](?:无法|不能|没有)",
    r"^我只?是一?个?(?:ai|人工智能|大?型?语言模型).*(?:无法|不能|没有)",
)
_DECLINES = [re.compile(wording, re.IGNORECASE) for wording in (*_ENGLISH, *_CHINESE)]
_APOLOGY = re.compile(
    r"(?:(?:i am|we are) )?(?:so |very |really |truly )*(?:sorry|afraid)(?: about that)?"
    r"|(?:i |we )?(?:sincerely )?apologi[sz]e|(?:my )?apologies"
    r"|[非常很十分真的实在]*(?:抱歉|对不起|不好意思|遗憾)",
    re.IGNORECASE,
)
# As an AI developed by ...: no title, for all its capitals.
_MAKER = re.compile(
    r"(?:(?<=\bai)|(?<=\bmodel)|(?<=\bassistant)),? (?:developed|trained|created|made|built) by "
    r"[^,]{1,30}(?=,)",
    re.IGNORECASE,
)
_OPENING = re.compile(
    r"^(?:(?:sorry|honestly|frankly|unfortunately|sadly|(?:my )?apologies|i am (?:sorry|afraid)"
    r"|to be honest)[,:] |i am afraid (?:that )?)+",
    re.IGNORECASE,
)
_COURTESY = re.compile(
    r"(?:what an? |that is an? )?(?:great|good|excellent|interesting|tough|fair) question\b"
    r"|(?:thanks?|hello|hi|hey|sure|certainly|of course|absolutely|okay|ok|hmm|well)\b"
    r"|(?:i am|we are) (?:so |very |really )?(?:glad|happy|pleased|delighted|sorry|afraid)\b"
    r"|i would (?:love|like) to help\b"
    r"|(?:sorry|apologies|my apologies|i (?:do )?apologi[sz]e|i regret)\b"
    r"|[我很非常十分真的实在]*(?:高兴|感谢|谢谢|荣幸|抱歉|对不起|不好意思|遗憾[，,])"
    r"|您好|你好|好的|当然",
    re.IGNORECASE,
)
_OFFER = re.compile(
    r"(?:(?:perhaps|maybe) )?(?:you|if|please|feel free|let me|(?:i|we) (?:(?:can|could|will|would)"
    r"(?! (?:tell you that|say|guess|think|assume|bet))|am (?:happy|glad|here)|hope|recommend"
    r"|suggest|encourage|may be able))\b"
    r"|(?:she|he|they|it|this|that) (?:may|might|could) be (?:an? )?(?:private|fictional|less)\b"
    r"|(?:我可以|我能|我们可以|[您你]可以|如果|若|请|建议|欢迎|也许|或许)",
    re.IGNORECASE,
)
_BETWEEN_CLAUSES = re.compile(
    r"[;；]|\s[—–-]\s|\b(?:but|however|although|though|yet)\b|但是?|不过|然而|可是", re.IGNORECASE
)
_CONCEDES = re.compile(r"^(?:while|although|though|even though|虽然|尽管)", re.IGNORECASE)
_QUOTED = re.compile(
    r"“[^”]*”|\"[^\"]*\"|「[^」]*」|『[^』]*』|《[^》]*》|(\*{1,3}|_{1,2})(?=\S)[^*_\n]+(?<=\S)\1"
)
_TITLE_WORD = re.compile(r"(?<=[\s,])[A-Z][a-z]+")
_CONTRACTIONS = [
    (re.compile(pattern, re.IGNORECASE), text)
    for pattern, text in (
        (r"\bwon't\b", "will not"),
        (r"\bcan't\b", "cannot"),
        (r"n't\b", " not"),
        (r"(?<=\w)'m\b", " am"),
        (r"(?<=\w)'re\b", " are"),
        (r"(?<=\w)'ve\b", " have"),
        (r"(?<=\w)'ll\b", " will"),
        (r"(?<=\w)'d\b", " would"),
        (r"\b(it|that|there|what)'s\b", r"\1 is"),
    )
]
_ONE_WRITING = str.maketrans(
    "’ʼ＇‘無沒對關資訊紀錄確問題個識這們說認為過據會難實於數庫與個裡尋獲",
    "''''无没对关资讯纪录确问题个识这们说认为过据会难实于数库与个里寻获",
)


def abstains(response: str, language: str) -> bool:
    """Whether ``response`` declines to answer.

    Args:
        response: an answer; its first ``COURTESIES`` sentences are enough.
        language: ``en`` or ``zh``, the question's; wordings of both count, since a model may
            decline in English whatever it was asked in.

    Raises:
        ValueError: no rule for this language.
    """
    if language not in LANGUAGES:
        raise ValueError(f"no rule of abstention for {language!r}; known: {', '.join(LANGUAGES)}")
    said = _QUOTED.sub(" X ", response)
    if not re.search(r"\w", said.replace(" X ", "")):
        said = response  # all of it in quotation marks, or bold
    if not re.search(r"\w", said):
        return True
    spans = split_sentences(said, language)[:COURTESIES]
    sentences = [_plain(said[start : min(end, start + LONGEST)]) for start, end in spans]
    for sentence in sentences:
        if _declines(sentence):
            return True
        if not _COURTESY.match(sentence):
            return False
    return any(_APOLOGY.fullmatch(sentence) for sentence in sentences)


def _plain(sentence: str) -> str:
    """In one writing of apostrophes, contractions, Chinese characters and white space."""
    text = " ".join(sentence.translate(_ONE_WRITING).split())
    for pattern, written in (*_CONTRACTIONS, (_MAKER, "")):
        text = pattern.sub(written, text)
    return text.strip(" \t.!?。！？…,，")


def _declines(sentence: str) -> bool:
    between = r"[,，]" if _CONCEDES.match(sentence) else _BETWEEN_CLAUSES
    parts = [_OPENING.sub("", part.strip(" ,，.:")) for part in re.split(between, sentence)]
    clauses = [part for part in parts if re.search(r"\w", part)]
    declined = [_has_wording(clause) for clause in clauses]
    return any(declined) and all(
        found or _COURTESY.match(clause) or _OFFER.match(clause)
        for clause, found in zip(clauses, declined, strict=True)
    )


def _has_wording(clause: str) -> bool:
    """Whether it has a wording of declining that is no title, such as "I Don't Know How"."""
    found = (wording.search(clause) for wording in _DECLINES)
    return any(match and not _TITLE_WORD.search(match[0]) for match in found)
