"""Real tokenizers for the tests of this folder."""

import pytest
import real_tokenizers


@pytest.fixture(scope="session")
def llama3_tokenizer(real_data):
    return real_tokenizers.llama3_tokenizer(real_data)


@pytest.fixture(scope="session")
def gpt2_tokenizer(real_data):
    return real_tokenizers.gpt2_tokenizer(real_data)


@pytest.fixture(scope="session")
def sentencepiece_tokenizer():
    return real_tokenizers.sentencepiece_tokenizer()
