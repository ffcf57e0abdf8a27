"""Vectors of real (tiny) models against one text at a time, without any of our batching."""

import models
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from maskdpo_ray.config import ModelConfig
from maskdpo_ray.errors import UserError
from maskdpo_ray.topics.embedding import (
    ModelEmbedding,
    RandomEmbedding,
    batches,
    normalised,
)

TEXTS = [
    "Ada Lovelace",
    "x",
    "the town of Ashcombe",
    "她出生于伦敦",
    "Ada",
    "Tell me a biography of somebody with a very long name, or of nobody at all",
    "Ada Lovelace",
]


def embedding(**options) -> ModelEmbedding:
    return ModelEmbedding(ModelConfig(path=models.tiny_llama(), dtype="float32"), **options)


def one_at_a_time(layer: int, take) -> np.ndarray:
    """From the causal model as a trainer would load it: each text alone."""
    model = AutoModelForCausalLM.from_pretrained(models.tiny_llama(), dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(models.tiny_llama())
    rows = []
    for text in TEXTS:
        with torch.inference_mode():
            output = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
        vector = take(output.hidden_states[layer][0]).double()
        rows.append((vector / vector.norm()).numpy())
    return np.stack(rows)


@pytest.mark.parametrize(
    ("options", "layer", "take"),
    [
        ({"pooling": "mean"}, -1, lambda hidden: hidden.mean(0)),
        ({"pooling": "last"}, -1, lambda hidden: hidden[-1]),
        ({"pooling": "mean", "layer": 1}, 1, lambda hidden: hidden.mean(0)),
        ({"layer": 0, "pooling": "last"}, 0, lambda hidden: hidden[-1]),
    ],
    ids=["mean", "last", "layer-1", "embeddings"],
)
def test_vectors_are_those_of_a_plain_loop(options, layer, take):
    vectors = embedding(**options).vectors(TEXTS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, one_at_a_time(layer, take), atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_a_causal_model_reads_a_name_in_a_frame(encoder):
    """Its states before the last say how many tokens a name has rather than whose it is: of
    SmolLM2-135M-Instruct the mean's nearest of 38 countries had as many tokens in 92 % of cases
    (37 % by chance) and the same continent in 39 %; the frame's in 39 % and 92 %."""
    framed, plain = embedding(), embedding(pooling="last")
    frames = plain.vectors([f"Question about {text}:" for text in TEXTS])
    np.testing.assert_allclose(framed.vectors(TEXTS), frames, atol=2e-6)
    assert framed.describe()["pooling"] == "framed" and framed.describe()["frame"]
    of_encoder = ModelEmbedding(ModelConfig(path=encoder, dtype="float32"))
    assert of_encoder.describe()["pooling"] == "mean"


def test_a_vector_is_the_same_in_any_company():
    embed = embedding()
    together = embed.vectors(TEXTS)
    np.testing.assert_allclose(embed.vectors(TEXTS[::-1])[::-1], together, atol=1e-6)
    for text, vector in zip(TEXTS, together, strict=True):
        np.testing.assert_allclose(embed.vectors([text])[0], vector, atol=1e-6)
    assert np.array_equal(together[0], together[-1])
    assert np.abs(together[0] - together[1]).max() > 0.01


def test_batches_hold_texts_of_one_length_and_every_text_once():
    lengths = [3, 5, 3, 3, 900, 5, 3]
    made = batches(lengths, tokens=8)
    assert made == [[0, 2], [3, 6], [1], [5], [4]]
    assert batches([]) == []


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    """A BERT with random weights, whose tokenizer puts [CLS] and [SEP] around a text."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "ada", "love", "##lace", "bo", "cy"]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertModel(
            BertConfig(
                vocab_size=len(words),
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=64,
                max_position_embeddings=16,
                initializer_range=0.5,
            )
        )
    model.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(("pooling", "tokens"), [("mean", slice(1, -1)), ("mean_all", slice(None))])
def test_special_tokens_stand_in_the_text_and_count_where_asked(encoder, pooling, tokens):
    from transformers import BertModel, BertTokenizerFast

    texts = ["ada lovelace", "bo", "ada cy bo"]
    tokenizer = BertTokenizerFast.from_pretrained(encoder)
    model = BertModel.from_pretrained(encoder).eval()
    settings = ModelConfig(path=encoder, dtype="float32")
    for text, vector in zip(texts, ModelEmbedding(settings, pooling).vectors(texts), strict=True):
        with torch.inference_mode():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        wanted = hidden[tokens].mean(0)
        np.testing.assert_allclose(vector, wanted / wanted.norm(), atol=2e-6)


def test_texts_that_have_no_vector_are_named(encoder):
    embed = ModelEmbedding(ModelConfig(path=encoder, dtype="float32"))
    with pytest.raises(UserError, match="'' has no token: give the topic a name"):
        embed.vectors(["ada", ""])
    with pytest.raises(UserError, match="has 22 tokens, and .* reads 16: shorten it"):
        embed.vectors(["bo " * 20])


def test_a_layer_that_the_model_has_not_is_refused():
    assert embedding(layer=2).vectors(["Ada"]).shape == (1, 64)
    with pytest.raises(UserError, match="layer 3: .* has the layers 1 to 2"):
        embedding(layer=3)


def test_vectors_without_a_direction_are_refused():
    for row in ([0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0]):
        with pytest.raises(UserError, match="zero or not finite"):
            normalised(np.array([[1.0, 0.0], row]))


def test_random_directions_follow_seed_and_text_and_nothing_else():
    texts = [f"topic {n}" for n in range(300)]
    vectors = RandomEmbedding(3).vectors(texts)
    assert np.array_equal(RandomEmbedding(3).vectors(texts[::-1])[::-1], vectors)
    assert not np.array_equal(RandomEmbedding(4).vectors(texts), vectors)
    cosines = (vectors @ vectors.T)[~np.eye(300, dtype=bool)]
    dimensions = vectors.shape[1]
    assert abs(cosines.mean()) < 0.002
    assert abs(cosines.std() - dimensions**-0.5) < 0.002, "as of independent directions"
    assert abs(vectors.mean(axis=0)).max() < 5 / (300 * dimensions) ** 0.5
