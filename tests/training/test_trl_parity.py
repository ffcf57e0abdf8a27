"""With all weights one we are vanilla DPO: step for step the loss of TRL's DPOTrainer.

TRL has pins of its own, so it lives in another environment:

    python -m venv trl-env
    trl-env/bin/pip install torch==2.13.0 transformers==5.19.0 trl==1.16.0 accelerate==1.15.0
    MASKDPO_TRL_PYTHON=trl-env/bin/python pytest tests/training/test_trl_parity.py
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

TRL_PYTHON = os.environ.get("MASKDPO_TRL_PYTHON")
EOS = 1  # of the tiny model's tokenizer; TRL would append it where it is missing


# Our settings and theirs.
SAME = {
    "dpo": ({}, {"beta": 0.1}),
    "ld-dpo": ({"ld_alpha": 0.3}, {"beta": 0.1, "ld_alpha": 0.3}),
    "means": ({"ratios": "mean", "beta": 2.0}, {"beta": 2.0, "loss_type": ["sigmoid_norm"]}),
}


@pytest.mark.skipif(not TRL_PYTHON, reason=f"MASKDPO_TRL_PYTHON is not set. {__doc__}")
@pytest.mark.parametrize("name", SAME)
def test_vanilla_dpo_has_the_losses_of_trl(
    name, one_rank, make_job, make_pair, model_config, tiny_llama, tmp_path
):
    from maskdpo_ray.training.batch_plan import global_batch
    from maskdpo_ray.training.logprobs import LogProbModel
    from maskdpo_ray.training.model import load_policy
    from maskdpo_ray.training.reference import reference_log_probs

    # TRL leaves the attention's own dropout on: give both a model without it.
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "no-dropout"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.0}))
    model = model_config.model_copy(update={"path": str(folder)})

    sizes = np.random.default_rng(5).integers(3, 30, (16, 3)).tolist()
    pairs = [make_pair(number, *size) for number, size in enumerate(sizes)]
    for pair in pairs:
        for side in ("chosen", "rejected"):
            pair[side]["token_ids"][-1] = EOS
    references = reference_log_probs(LogProbModel(load_policy(model), 64).eval(), pairs, 512)
    settings, options = SAME[name]
    job = make_job(
        fields={"model": model, "pairs": lambda: pairs, "references": lambda: references},
        mask="none",
        epochs=5,
        warmup_ratio=0.0,
        learning_rate=2e-3,
        **settings,
    )
    ours = one_rank.train(job)

    order = [pairs[i] for step in range(20) for i in global_batch(step, 16, 4, seed=0)]
    task = {
        "model": str(folder),
        "scratch": str(tmp_path / "scratch"),
        "batch_size": 4,
        "learning_rate": 2e-3,
        "options": options,
        "rows": [
            {
                "prompt": text(pair["prompt_ids"]),
                "chosen": " " + text(pair["chosen"]["token_ids"]),
                "rejected": " " + text(pair["rejected"]["token_ids"]),
            }
            for pair in order
        ],
    }
    (tmp_path / "task.json").write_text(json.dumps(task))
    script = Path(__file__).with_name("trl_losses.py")
    command = [TRL_PYTHON, script, tmp_path / "task.json", tmp_path / "losses.json"]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": ""})
    theirs = json.loads((tmp_path / "losses.json").read_text())

    # The comparison means nothing unless both saw the same tokens in the same order.
    assert [(row["prompt_ids"], row["chosen_ids"]) for row in theirs["seen"]] == [
        (pair["prompt_ids"], pair["chosen"]["token_ids"]) for pair in order
    ]
    losses = [line["loss"] for line in ours]
    worst = max(abs(a / b - 1) for a, b in zip(losses, theirs["losses"], strict=True))
    print(
        f"{name}: 20 steps, loss {losses[0]:.6f} -> {losses[-1]:.6f}, worst difference {worst:.1e}"
    )
    assert losses == pytest.approx(theirs["losses"], rel=1e-4)
    assert min(losses) < 0.5, "the run must move, or anything would agree"
    norms = [line["grad_norm"] for line in ours]
    assert norms == pytest.approx(theirs["norms"], rel=1e-3)


def text(token_ids: list[int]) -> str:
    return " ".join(f"w{number:02}" for number in token_ids)
