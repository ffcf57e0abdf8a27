"""The model card says what a model was made from, and nothing that is not so."""

from maskdpo_ray.config import ModelConfig, TrainingConfig
from maskdpo_ray.training.card import model_card, with_evaluation


def card(path: str, **settings) -> list[str]:
    origin = {"annotator": "judge a|b", "pair": "40 in, 38 out, 2 rejected (equal_scores)"}
    made = model_card(
        ModelConfig(path=path), TrainingConfig(**settings), 7, origin, {"loss": 0.123456789}
    )
    return made.splitlines()


def test_a_base_on_the_hub_is_named_to_the_hub(tmp_path):
    assert "base_model: meta-llama/Llama-3.1-8B" in card("meta-llama/Llama-3.1-8B")
    for place in (str(tmp_path), "s3://bucket/model"):
        lines = card(place)
        assert not any(line.startswith("base_model") for line in lines)
        assert f"| base | {place} |" in lines


def test_rows_that_were_dropped_settings_and_figures_are_listed():
    lines = card("some/model", learning_rate=1e-6)
    assert {
        "| annotator | judge a\\|b |",
        "| pair | 40 in, 38 out, 2 rejected (equal_scores) |",
        "| learning_rate | 1e-06 |",
        "| dtype | bfloat16 |",
        "| seed | 7 |",
        "| loss | 0.123457 |",
    } <= set(lines)


def test_vanilla_dpo_is_not_called_masked():
    assert "Mask-DPO" in " ".join(card("some/model"))
    plain = card("some/model", mask="none")
    assert "Mask-DPO" not in " ".join(plain) and "vanilla DPO" in " ".join(plain)


def test_the_evaluation_is_written_into_the_card_again_and_again():
    before = "\n".join(card("some/model"))
    assert "Not evaluated when this card was written" in before
    first = with_evaluation(before, "score 49")
    second = with_evaluation(first, "score | 65")
    assert "Not evaluated" not in first and "score 49" in first
    assert second == with_evaluation(before, "score | 65"), "the older one is gone"
    assert second.splitlines()[:5] == before.splitlines()[:5]
    assert second.splitlines()[-5:] == before.splitlines()[-5:]
    assert with_evaluation("# My own card\n", "score 49") is None
