"""Losses of TRL's DPOTrainer, for test_trl_parity.py. Runs in an environment of its own:

python trl_losses.py INPUT.json OUTPUT.json
"""

import json
import sys

from datasets import Dataset
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer


class RecordingTrainer(DPOTrainer):
    """Keeps the order of the rows and the unrounded losses."""

    def _get_train_sampler(self, dataset=None):
        return SequentialSampler(self.train_dataset)

    def compute_loss(self, *args, **kwargs):
        result = super().compute_loss(*args, **kwargs)
        loss = result[0] if isinstance(result, tuple) else result
        self.losses.append(loss.item())
        return result


def main(source: str, target: str) -> None:
    with open(source, encoding="utf-8") as file:
        task = json.load(file)
    config = DPOConfig(
        output_dir=task["scratch"],
        per_device_train_batch_size=task["batch_size"],
        num_train_epochs=1,
        learning_rate=task["learning_rate"],
        lr_scheduler_type="cosine",
        warmup_steps=0,
        **task["options"],
        max_length=None,
        max_grad_norm=1.0,
        weight_decay=0.0,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        report_to=[],
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        precompute_ref_log_probs=False,
    )
    load = {"dtype": "float32", "attn_implementation": "sdpa"}
    trainer = RecordingTrainer(
        model=AutoModelForCausalLM.from_pretrained(task["model"], **load),
        ref_model=AutoModelForCausalLM.from_pretrained(task["model"], **load),
        args=config,
        train_dataset=Dataset.from_list(task["rows"]),
        processing_class=AutoTokenizer.from_pretrained(task["model"]),
    )
    columns = ("prompt_ids", "chosen_ids", "rejected_ids")
    seen = [{column: row[column] for column in columns} for row in trainer.train_dataset]
    trainer.losses = []
    trainer.train()
    norms = [log["grad_norm"] for log in trainer.state.log_history if "grad_norm" in log]
    with open(target, "w", encoding="utf-8") as file:
        json.dump({"losses": trainer.losses, "norms": norms, "seen": seen}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
