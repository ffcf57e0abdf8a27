"""The learning rate, a pure function of the step: nothing to save, nothing to restore."""

import math


def learning_rate(
    step: int, total_steps: int, peak: float, warmup_ratio: float, min_ratio: float
) -> float:
    """Linear warm-up, then a cosine down to ``min_ratio * peak``.

    Args:
        step: optimizer step, from 0. The first warm-up step already moves the weights; the last
            one is at the peak.
        total_steps: length of the whole schedule.
    """
    warmup = math.ceil(total_steps * warmup_ratio)
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, total_steps - warmup)
    return peak * (min_ratio + (1 - min_ratio) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))
