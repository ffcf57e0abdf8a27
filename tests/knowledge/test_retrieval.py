import numpy as np
import pytest

from maskdpo_ray.knowledge.passages import cut_passages
from maskdpo_ray.knowledge.retrieval import Bm25Index, Embedder, closest

TEXTS = ["Ada Quill is a judge.", "She was born in Selby in 1901.", "The town has a mill.", "..."]


def test_the_best_texts_in_their_own_order():
    index = Bm25Index(TEXTS)
    assert index.best("Ada Quill was born in Selby", 1) == [1]
    assert index.best("a mill of a judge", 2) == [0, 2]
    assert index.best("born", 9) == [0, 1, 2, 3]


def test_ties_and_unknown_words_go_to_the_first():
    assert Bm25Index(TEXTS).best("zebra", 2) == Bm25Index(TEXTS).best("", 2) == [0, 1]
    assert Bm25Index(["same", "other", "same"]).best("same", 1) == [0]
    assert Bm25Index(["...", "!"]).best("word", 1) == [0]
    assert Bm25Index(["..."] * 2).best("word", 5) == [0, 1]


def test_bm25_by_hand():
    index = Bm25Index(["mill mill mill town", "mill", "town town", "house", "house", "road"])
    idf = np.log((6 - 2 + 0.5) / (2 + 0.5))

    def score(tf, length):
        return idf * 2.5 * tf / (tf + 1.5 * (1 - 0.75 + 0.75 * length / (10 / 6)))

    expected = [score(3, 4), score(1, 1), 0, 0, 0, 0]
    assert index._scores(["mill"]) == pytest.approx(expected)


def test_the_passage_that_states_a_fact_is_found_in_real_pages(biographies):
    """Facts that people wrote from a sentence, in a page of three answers cut into short passages:
    the five nearest passages hold the sentence."""
    found = searched = 0
    for row in biographies:
        page = "\n".join(answer["response"] for answer in row["candidates"])
        passages = cut_passages(page, "en", 32)
        if len(passages) <= 10:
            continue
        index = Bm25Index(passages)
        for answer in row["candidates"]:
            for sentence in answer["sentences"]:
                stated = answer["response"][sentence["start"] : sentence["end"]]
                home = {n for n, passage in enumerate(passages) if stated in passage}
                for fact in sentence["facts"] if home else []:
                    searched += 1
                    found += bool(home & set(index.best(f"{row['topic']} {fact['text']}", 5)))
    assert searched > 5000
    assert found / searched > 0.99


def test_dense_retrieval_through_transformers(tmp_path):
    import models
    from transformers import AutoTokenizer, BertConfig, BertModel

    tokenizer = AutoTokenizer.from_pretrained(models.tiny_llama())
    tokenizer.save_pretrained(tmp_path)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id,
    )
    BertModel(config).save_pretrained(tmp_path)
    embedder = Embedder(str(tmp_path))
    vectors = embedder.embed([*TEXTS, "long " * 500])
    assert vectors.shape == (5, 32)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(5), abs=1e-5)
    # Padding beside longer texts changes nothing: the mean is over a text's own tokens.
    assert embedder.embed(TEXTS[:1])[0] == pytest.approx(vectors[0], abs=1e-5)
    index = embedder(TEXTS)
    for number, text in enumerate(TEXTS):
        assert index.best(text, 1) == [number]


def test_closest_takes_the_earlier_of_equals():
    assert closest(np.array([1.0, 3.0, 3.0, 2.0]), 2) == [1, 2]
    assert closest(np.array([1.0, 1.0, 1.0]), 2) == [0, 1]
