"""The method of the released Mask-DPO code, restated from its description: see ``training.py``.

The reference model is asked in every step; both models give full logits of the chosen and the
rejected sequences, padded to a common length; the mask multiplies the log-probabilities of
tokens.
"""

from task import Meter, quiet, read_task

quiet()

import torch  # noqa: E402
from torch.nn.functional import logsigmoid  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402


def padded(rows: list[dict], device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, attention mask and token weights, ``[2 * rows, length]``, chosen sequences first."""
    sequences = [(row, side) for side in ("chosen", "rejected") for row in rows]
    length = max(len(row["prompt"]) + len(row[side]) for row, side in sequences)
    ids = torch.zeros(len(sequences), length, dtype=torch.long)
    mask, weights = torch.zeros_like(ids), torch.zeros(ids.shape)
    for number, (row, side) in enumerate(sequences):
        start, end = len(row["prompt"]), len(row["prompt"]) + len(row[side])
        ids[number, :end] = torch.tensor(row["prompt"] + row[side])
        mask[number, :end] = 1
        weights[number, start:end] = torch.tensor(row[f"{side}_weights"])
    return ids.to(device), mask.to(device), weights.to(device)


def masked_sums(model, ids, mask, weights) -> torch.Tensor:
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
    log_probs = logits.float().log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2)
    return (log_probs * weights[:, 1:]).sum(dim=1)


def main() -> None:
    task = read_task()
    load = {"dtype": getattr(torch, task["dtype"]), "attn_implementation": "sdpa"}
    meter = Meter(task["model"])
    policy = AutoModelForCausalLM.from_pretrained(task["model"], **load).to(task["device"])
    reference = AutoModelForCausalLM.from_pretrained(task["model"], **load).to(task["device"])
    reference.requires_grad_(False)
    optimizer = torch.optim.AdamW(
        policy.parameters(), lr=task["learning_rate"], weight_decay=0.0, fused=True
    )
    micro, size = task["options"]["pairs"], task["batch_size"]
    losses = []
    meter.begin()
    for step in range(task["steps"]):
        at = step * size % len(task["rows"])
        batch = task["rows"][at : at + size]
        total = 0.0
        for start in range(0, size, micro):
            tensors = padded(batch[start : start + micro], task["device"])
            with torch.no_grad():
                expected = masked_sums(reference, *tensors)
            chosen, rejected = (masked_sums(policy, *tensors) - expected).chunk(2)
            loss = -logsigmoid(0.1 * (chosen - rejected)).sum() / size
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
        meter.step()
    meter.report(losses=losses)


if __name__ == "__main__":
    main()
