"""Which pairs are learnt in which step, and how a step is cut over workers and forward passes.

The pairs of a step depend on the seed, the epoch and the step alone, so one worker, eight
workers, or a run that shrank on the way follow the same loss curve. How a step is cut depends on
the number of workers, and must not change the gradient: see :func:`split_batch`.
"""

import numpy as np


def steps_per_epoch(pairs: int, batch_size: int) -> int:
    """The remainder of an epoch is a smaller batch of its own, with the mean over its own pairs.

    Dropping it would leave out other pairs in every epoch; filling it up would show some twice.
    """
    return -(-pairs // batch_size)


def global_batch(step: int, pairs: int, batch_size: int, seed: int) -> np.ndarray:
    """Indices of the pairs of one optimizer step, ``[<= batch_size]``.

    Args:
        step: optimizer step over the whole run, from 0.
    """
    epoch, position = divmod(step, steps_per_epoch(pairs, batch_size))
    order = np.random.default_rng((seed, epoch)).permutation(pairs)
    return order[position * batch_size : (position + 1) * batch_size]


def split_batch(
    batch: np.ndarray, lengths: np.ndarray, workers: int, micro_batch_tokens: int
) -> list[list[np.ndarray]]:
    """Cut a step into forward passes: ``plan[worker][micro_step]`` is an array of pair indices.

    Pairs of like length share a forward pass, so little is padding, and the passes that run at
    the same time on different workers cost about the same. Every worker gets the same number of
    passes, empty ones if need be, because ZeRO-3 gathers weights with all workers in each pass.

    Workers may hold unequal numbers of pairs. The gradient is still the mean over the step if
    each pass is scaled by ``workers / len(batch)`` over its *sum* of pair losses, since the
    engine averages gradients over workers.

    Args:
        batch: pair indices, from :func:`global_batch`.
        lengths: tokens of the longer of the two sequences of every pair, ``[pairs]``.
        micro_batch_tokens: padded tokens of one pass, both responses together. A pair that is
            longer than this alone has a pass of its own.
    """
    order = batch[np.argsort(-lengths[batch], kind="stable")]
    passes: list[np.ndarray] = []
    start = 0
    while start < len(order):
        fit = max(1, micro_batch_tokens // (2 * int(lengths[order[start]])))
        passes.append(order[start : start + fit])
        start += fit
    passes = _fill_to_multiple(passes, lengths, workers)
    # Costliest first, to and fro: the passes of one micro-step are alike, and so are the sums.
    passes.sort(key=lambda p: -_cost(p, lengths))
    rounds = [passes[at : at + workers] for at in range(0, len(passes), workers)]
    rounds = [r if number % 2 == 0 else r[::-1] for number, r in enumerate(rounds)]
    return [list(column) for column in zip(*rounds, strict=True)]


def _cost(indices: np.ndarray, lengths: np.ndarray) -> int:
    """Padded tokens of one side of a pass."""
    return len(indices) * int(lengths[indices].max(initial=0))


def _fill_to_multiple(
    passes: list[np.ndarray], lengths: np.ndarray, workers: int
) -> list[np.ndarray]:
    """Halve the costliest passes, then add empty ones, until every worker has as many."""
    while len(passes) % workers:
        costs = [_cost(p, lengths) if len(p) > 1 else 0 for p in passes]
        widest = int(np.argmax(costs))
        if costs[widest] == 0:
            passes.append(np.array([], dtype=np.int64))
            continue
        passes[widest : widest + 1] = np.array_split(passes[widest], 2)
    return passes
