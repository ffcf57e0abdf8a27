"""Masked DPO: loss, log-probabilities, batch plan, reference cache, worker loop, checkpoints."""
