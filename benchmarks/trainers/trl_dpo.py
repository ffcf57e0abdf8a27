"""TRL's DPOTrainer in a process and an environment of its own: see ``training.py``."""

import tempfile

from task import Meter, quiet, read_task

quiet()

import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
    TrainerCallback,
)
from trl import DPOConfig, DPOTrainer  # noqa: E402


class Timed(TrainerCallback):
    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    def on_train_begin(self, *_, **__) -> None:
        self.meter.begin()

    def on_step_end(self, *_, **__) -> None:
        self.meter.step()


class OfTokens(DPOTrainer):
    """The rows are token ids already: both trainers get the same ones."""

    def _prepare_dataset(self, dataset, *_):
        return dataset


def main() -> None:
    task = read_task()
    columns = {"prompt_ids": "prompt", "chosen_ids": "chosen", "rejected_ids": "rejected"}
    rows = [{name: row[ours] for name, ours in columns.items()} for row in task["rows"]]
    on_gpu = task["device"] == "cuda"
    low = task["dtype"] == "bfloat16"
    meter = Meter(task["model"])
    options = dict(task["options"])
    micro, attention = options.pop("pairs"), options.pop("attention", "sdpa")
    # Under mixed precision TRL's weights are fp32, as the engine's master weights are.
    policy = AutoModelForCausalLM.from_pretrained(
        task["model"], dtype=torch.float32, attn_implementation=attention
    )
    if on_gpu:
        policy.to("cuda")
    with tempfile.TemporaryDirectory() as scratch:
        config = DPOConfig(
            output_dir=scratch,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=task["batch_size"] // micro,
            max_steps=task["steps"],
            learning_rate=task["learning_rate"],
            lr_scheduler_type="constant",
            beta=0.1,
            max_length=None,
            max_grad_norm=1.0,
            bf16=low,
            use_cpu=not on_gpu,
            report_to=[],
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            **options,
        )
        trainer = OfTokens(
            model=policy,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=PreTrainedTokenizerFast.from_pretrained(task["model"]),
            callbacks=[Timed(meter)],
        )
        trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    meter.report(losses=losses)


if __name__ == "__main__":
    main()
