import json

import models
import pytest
from transformers import AutoTokenizer

from maskdpo_ray.config import ModelConfig
from maskdpo_ray.engine.chat import (
    chat_token_ids,
    end_of_turn_id,
    load_tokenizer,
    open_tokenizer,
    prompt_token_ids,
    response_text,
)
from maskdpo_ray.errors import RowRejected, UserError


@pytest.fixture(scope="module")
def tokenizer():
    return open_tokenizer(models.tiny_llama())


def test_a_prompt_is_the_templated_question_and_the_header_of_the_reply(tokenizer):
    ids = prompt_token_ids(tokenizer, "Where was she born?", system_prompt="Be brief.")
    assert tokenizer.decode(ids) == (
        "<|bos|><|system|>Be brief.<|end|><|user|>Where was she born?<|end|><|assistant|>"
    )


def test_a_prompt_is_what_transformers_itself_would_build(tokenizer):
    ours = prompt_token_ids(tokenizer, "她出生于哪里？")
    theirs = AutoTokenizer.from_pretrained(models.tiny_llama()).apply_chat_template(
        [{"role": "user", "content": "她出生于哪里？"}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=False,
    )
    assert ours == theirs


def test_a_template_that_writes_the_date_builds_the_same_prompt_every_day(tokenizer, tmp_path):
    template = tmp_path / "dated.jinja"
    template.write_text(
        "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}"
        "{% endif %}{{ date_string }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    )
    dated = open_tokenizer(models.tiny_llama(), chat_template=str(template))
    assert dated.decode(prompt_token_ids(dated, "?")) == "26 Jul 2024?"


@pytest.mark.parametrize(
    ("asked", "written"),
    [
        ("strftime_now('%Y-%m-%d %H:%M')", "2024-07-26 00:00"),
        ("date_string", "26 Jul 2024"),
        ("(strftime_now if strftime_now is defined else now)('%d %B %Y')", "26 July 2024"),
    ],
)
def test_every_clock_of_a_template_stands_still(asked, written, tmp_path):
    template = tmp_path / "dated.jinja"
    shown = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    template.write_text("{{ " + asked + " }}" + shown)
    dated = open_tokenizer(models.tiny_llama(), chat_template=str(template))
    assert dated.decode(prompt_token_ids(dated, "?")) == f"{written}?"


def test_a_template_is_told_what_the_section_says(tmp_path):
    template = tmp_path / "thinking.jinja"
    template.write_text(
        "{% for m in messages %}{{ m['content'] }}{% endfor %}"
        "{% if enable_thinking is defined and not enable_thinking %}[brief on {{ date_string }}]"
        "{% endif %}"
    )
    told = {"enable_thinking": False, "date_string": "1 May 2026"}
    model = ModelConfig(
        path=models.tiny_llama(), chat_template=str(template), chat_template_kwargs=told
    )
    tokenizer = load_tokenizer(model)
    assert tokenizer.decode(prompt_token_ids(tokenizer, "?")) == "?"
    ids = prompt_token_ids(tokenizer, "?", template_kwargs=told)
    assert tokenizer.decode(ids) == "?[brief on 1 May 2026]"
    with pytest.raises(UserError, match="enable_thinkng: the chat template of .* reads no such"):
        load_tokenizer(model.model_copy(update={"chat_template_kwargs": {"enable_thinkng": True}}))


@pytest.mark.parametrize("name", ["tokenize", "messages", "strftime_now"])
def test_what_the_rendering_decides_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} is decided by the run"):
        ModelConfig(path="x", chat_template_kwargs={name: 1})


@pytest.mark.parametrize(
    ("template", "who"),
    [
        ("{% for m in messages[1:] %}{{ m['content'] }}{% endfor %}", "user"),
        ("{% for m in messages %}{{ m.text }}{% endfor %}", "user"),
        ("{% for m in messages %}{{ m['content'][:9] }}{% endfor %}", "user"),
        ("{% for m in messages if m['role'] == 'user' %}{{ m['content'] }}{% endfor %}", "system"),
    ],
)
def test_a_template_that_loses_what_it_is_given_is_refused(template, who, tmp_path):
    (tmp_path / "t.jinja").write_text(template)
    model = ModelConfig(
        path=models.tiny_llama(), chat_template=str(tmp_path / "t.jinja"), system_prompt="Brief."
    )
    with pytest.raises(UserError, match=f"loses what the (system|{who}) says"):
        load_tokenizer(model)
    if who == "system":
        load_tokenizer(model.model_copy(update={"system_prompt": None}))


def test_a_template_that_loses_earlier_turns_is_refused_where_there_are_some(tmp_path):
    (tmp_path / "t.jinja").write_text("{{ messages[-1]['content'] }}")
    asked = {"chat_template": str(tmp_path / "t.jinja")}
    open_tokenizer(models.tiny_llama(), **asked)
    with pytest.raises(UserError, match="loses what the (user|assistant) says"):
        open_tokenizer(models.tiny_llama(), **asked, turns=True)


def test_a_tokenizer_that_is_taken_for_another_kind_is_refused(tmp_path):
    """A byte-level vocabulary under the class of Llama 2: Transformers replaces the pre-tokenizer,
    and every space is lost (DeepSeek-R1-Distill-Llama from a folder)."""
    models.build_tiny_llama(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"tokenizer_class": "LlamaTokenizerFast"}))
    with pytest.raises(UserError, match="loses text: .* set tokenizer_class to PreTrainedTok"):
        open_tokenizer(str(tmp_path))


def test_a_conversation_grows_at_its_end(tokenizer):
    first = [{"role": "user", "content": "Where?"}]
    more = [{"role": "assistant", "content": "Here."}, {"role": "user", "content": "When?"}]
    ids = chat_token_ids(tokenizer, first)
    assert chat_token_ids(tokenizer, first + more)[: len(ids)] == ids


def test_no_template_names_the_remedy(tmp_path):
    bare = models.build_tiny_llama(tmp_path, chat_template=None)
    with pytest.raises(UserError, match="no chat template: set chat_template in"):
        prompt_token_ids(open_tokenizer(bare), "?")


def test_a_template_file_replaces_the_tokenizers_own(tmp_path):
    template = tmp_path / "chat.jinja"
    template.write_text("Q: {{ messages[-1]['content'] }} A:")
    model = ModelConfig(path=models.tiny_llama(), chat_template=str(template))
    tokenizer = load_tokenizer(model)
    assert tokenizer.decode(prompt_token_ids(tokenizer, "why")) == "Q: why A:"


@pytest.mark.parametrize("text", ["{% if %}", "{{ raise_exception('no system role') }}"])
def test_a_broken_template_is_found_when_the_tokenizer_is_loaded(tmp_path, text):
    template = tmp_path / "broken.jinja"
    template.write_text(text)
    with pytest.raises(UserError, match="chat template of .* fails"):
        open_tokenizer(models.tiny_llama(), chat_template=str(template))


def test_a_missing_template_file_is_named(tmp_path):
    with pytest.raises(UserError, match="chat_template: no file at"):
        open_tokenizer(models.tiny_llama(), chat_template=str(tmp_path / "none.jinja"))


@pytest.mark.parametrize("path", ["/nowhere/model", "./nowhere", "a//b"])
def test_a_model_that_cannot_be_reached_is_one_line(path):
    with pytest.raises(UserError, match="no tokenizer at") as caught:
        open_tokenizer(path)
    assert "\n" not in str(caught.value)


def test_a_folder_without_tokenizer_files_is_no_tokenizer(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama", "vocab_size": 10}')
    with pytest.raises(UserError, match="no tokenizer at"):
        open_tokenizer(str(tmp_path))


def test_lone_surrogates_reject_the_row(tokenizer):
    with pytest.raises(RowRejected) as caught:
        prompt_token_ids(tokenizer, "caf\ud83d")
    assert caught.value.reason == "not_unicode"
    assert "character 3" in caught.value.detail


def test_the_end_of_turn_is_what_the_template_writes_after_an_answer(tokenizer, tmp_path):
    assert end_of_turn_id(tokenizer) == tokenizer.convert_tokens_to_ids("<|end|>")
    template = tmp_path / "t.jinja"
    template.write_text("{% for m in messages %}{{ m['content'] }}<|user|>\n{% endfor %}")
    other = open_tokenizer(models.tiny_llama(), chat_template=str(template))
    assert end_of_turn_id(other) == other.convert_tokens_to_ids("<|user|>")
    # Wherever it stands in the closing text.
    template.write_text("{% for m in messages %}{{ m['content'] }}\n <|user|>\n{% endfor %}")
    later = open_tokenizer(models.tiny_llama(), chat_template=str(template))
    assert end_of_turn_id(later) == later.convert_tokens_to_ids("<|user|>")
    template.write_text("{% for m in messages %}{{ m['content'] }}\n###\n{% endfor %}")
    plain = open_tokenizer(models.tiny_llama(), chat_template=str(template))
    assert end_of_turn_id(plain) == plain.eos_token_id


def test_text_comes_back_unchanged(tokenizer):
    text = "She said : ' no ' .\n\n她出生于1901年 。"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert response_text(tokenizer, [*ids, tokenizer.eos_token_id]) == text
