"""Ids in pieces against ids of the whole, with real tokenizers and real texts."""

import pytest

from maskdpo_ray.annotation.annotators.judge import read_judge_templates
from maskdpo_ray.annotation.wording import fill
from maskdpo_ray.engine.chat import chat_text, chat_token_ids
from maskdpo_ray.engine.piecewise import PiecewiseEncoder


class Counting:
    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        self.characters = 0

    def encode(self, text, **settings):
        self.characters += len(text)
        return self._tokenizer.encode(text, **settings)


@pytest.mark.parametrize("tokenizer_name", ["llama3_tokenizer", "gpt2_tokenizer"])
def test_real_answers_and_documents(tokenizer_name, biographies, tofueval, request):
    tokenizer = request.getfixturevalue(tokenizer_name)
    encode = PiecewiseEncoder(tokenizer)
    assert encode.piecewise
    cut = 0
    for row in [*biographies, *tofueval]:
        for text in (row["document"] or "", *(c["response"] for c in row["candidates"])):
            assert encode(text) == tokenizer.encode(text, add_special_tokens=False)
            cut += ". " in text
    assert cut > 1000


def test_the_prompts_of_a_judge(llama3_tokenizer, tofueval):
    tokenizer, wording = llama3_tokenizer, read_judge_templates().languages["en"]["prompt"]
    counting = Counting(tokenizer)
    encode = PiecewiseEncoder(counting)
    characters = 0
    document = " ".join(row["candidates"][0]["response"] for row in tofueval[:40])
    for row in tofueval[:10]:
        for candidate in row["candidates"]:
            for sentence in candidate["sentences"]:
                text = candidate["response"][sentence["start"] : sentence["end"]]
                values = {"question": row["question"], "document": document}
                prompt = fill(wording, {**values, "sentence": text})
                messages = [{"role": "user", "content": prompt}]
                rendered = chat_text(tokenizer, messages)
                assert encode(rendered) == chat_token_ids(tokenizer, messages)
                characters += len(rendered)
    assert counting.characters < characters / 10


def test_a_tokenizer_that_begins_every_text_with_a_space_encodes_the_whole(sentencepiece_tokenizer):
    encode = PiecewiseEncoder(sentencepiece_tokenizer)
    assert not encode.piecewise
    text = "She was born. He was not. Who was?"
    assert encode(text) == sentencepiece_tokenizer.encode(text, add_special_tokens=False)
