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
    batch: np.ndarray,
    tokens: np.ndarray,
    workers: int,
    micro_batch_tokens: int,
    packed: bool = False,
) -> list[list[np.ndarray]]:
    """Cut a step into forward passes: ``plan[worker][micro_step]`` is an array of pair indices.

    The passes that run at the same time on different workers cost about the same, and every
    worker gets the same number of them, empty ones if need be, because ZeRO-3 gathers weights
    with all workers in each pass. Where passes are padded, pairs of like length share one.

    Workers may hold unequal numbers of pairs. The gradient is still the mean over the step if
    each pass is scaled by ``workers / len(batch)`` over its *sum* of pair losses, since the
    engine averages gradients over workers.

    Args:
        batch: pair indices, from :func:`global_batch`.
        tokens: what every pair takes in a pass, see ``TrainingPair.tokens``, ``[pairs]``.
        micro_batch_tokens: of one pass, padding included. A pair that is longer than this alone
            has a pass of its own.
        packed: passes without padding.
    """
    order = batch[np.argsort(-tokens[batch], kind="stable")]
    cut = _packed_passes if packed else _padded_passes
    passes = cut(order, tokens, workers, micro_batch_tokens)
    # Costliest first, to and fro: the passes of one micro-step are alike, and so are the sums.
    passes.sort(key=lambda p: -pass_cost(p, tokens, packed))
    rounds = [passes[at : at + workers] for at in range(0, len(passes), workers)]
    rounds = [r if number % 2 == 0 else r[::-1] for number, r in enumerate(rounds)]
    return [list(column) for column in zip(*rounds, strict=True)]


def pass_cost(pairs: np.ndarray, tokens: np.ndarray, packed: bool) -> int:
    """Tokens of a pass, padding included."""
    if packed:
        return int(tokens[pairs].sum())
    return len(pairs) * int(tokens[pairs].max(initial=0))


def waiting(plan: list[list[np.ndarray]], tokens: np.ndarray, packed: bool) -> float:
    """How much longer a step takes than if every worker were busy all the time.

    1 is ideal: the sum over micro-steps of the costliest pass, which all others wait for, over
    the mean cost of a worker. Padding counts as work.
    """
    costs = np.array([[pass_cost(p, tokens, packed) for p in passes] for passes in plan])
    return float(costs.max(axis=0).sum() / costs.sum(axis=1).mean())


def _packed_passes(
    order: np.ndarray, tokens: np.ndarray, workers: int, budget: int
) -> list[np.ndarray]:
    """Longest first into the emptiest pass, with as few passes as keep to the budget."""
    # Pairs longer than the budget have passes of their own: beyond one each, passes are empty.
    full = min(len(order), -(-int(tokens[order].sum()) // budget))
    count = workers * -(-full // workers)
    while True:
        passes: list[list[int]] = [[] for _ in range(count)]
        loads = [0] * count
        for pair in order:
            emptiest = loads.index(min(loads))
            passes[emptiest].append(pair)
            loads[emptiest] += int(tokens[pair])
        if all(n <= budget or len(p) == 1 for n, p in zip(loads, passes, strict=True)):
            return [np.array(p, dtype=np.int64) for p in passes]
        count += workers


def _padded_passes(
    order: np.ndarray, tokens: np.ndarray, workers: int, budget: int
) -> list[np.ndarray]:
    """Neighbours in length together; then halve the costliest, or add empty passes, until every
    worker has as many."""
    passes: list[np.ndarray] = []
    start = 0
    while start < len(order):
        fit = max(1, budget // int(tokens[order[start]]))
        passes.append(order[start : start + fit])
        start += fit
    while len(passes) % workers:
        costs = [pass_cost(p, tokens, packed=False) if len(p) > 1 else 0 for p in passes]
        widest = int(np.argmax(costs))
        if costs[widest] == 0:
            passes.append(np.array([], dtype=np.int64))
            continue
        passes[widest : widest + 1] = np.array_split(passes[widest], 2)
    return passes
