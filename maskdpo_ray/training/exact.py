"""What a model's own forward makes of its LM head, measured, and that ours says the same.

Models scale or cap their logits, or scale what the head reads (Cohere, Granite, Gemma 2), by
settings of its own. Here the model is run on a few tokens with its head taken out: what comes
to the head, and what becomes of numbers put in the place of logits, shows the rest of its forward
whatever it is called, and however small the real logits are.
"""

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from maskdpo_ray.errors import UserError, first_line

if TYPE_CHECKING:
    from maskdpo_ray.training.logprobs import LogProbModel

_PROBE = 8  # tokens that are compared
# What the code of a model may end with, and a person has to mend.
BROKEN = (
    TypeError, ValueError, RuntimeError, LookupError, AttributeError, AssertionError, ImportError,
    ArithmeticError, SyntaxError,
)  # fmt: skip
_TINY, _WHOLE = 2.0**-24, 1e6  # logits that no cap bends, and that are beyond every cap


@dataclass(frozen=True)
class HeadShape:
    """How log-probabilities come from the hidden states that the base model returns."""

    scale: float = 1.0
    """Of the logits, ``logits = scale * (weight @ hidden * read + bias)``."""
    cap: float | None = None
    """Then ``cap * tanh(logits / cap)``."""
    read: float | None = 1.0
    """What the head reads, in hidden states; None where more than a factor lies between."""

    @property
    def plain(self) -> bool:
        return self.scale == 1.0 and self.cap is None


class HeadNotMeasured(Exception):
    """The model's logits are no function of this kind; says what they are."""


def measure_head(policy: Any, head: nn.Module) -> HeadShape:
    """What the forward of a policy does before and after its head.

    Args:
        policy: in evaluation mode.

    Raises:
        HeadNotMeasured: something that training cannot do tile by tile.
    """
    words = head.weight.shape[0]
    ids = probe_ids(policy, 1, head.weight.device)
    precise = torch.float64 if head.weight.dtype == torch.float64 else torch.float32
    grid = _grid(ids.shape[1], words).to(ids.device, precise)
    read: list[Tensor] = []

    def instead(hidden: Tensor, *_: Any) -> Tensor:
        read.append(hidden)
        return grid[: hidden.shape[-2]].expand(*hidden.shape[:-1], -1).clone()

    with torch.no_grad(), evaluating(policy), _forward_of(head, instead):
        logits = policy(**accepted(policy, input_ids=ids, use_cache=False)).logits[0]
    if len(read) != 1 or read[0].shape[:2] != ids.shape:
        raise HeadNotMeasured("its forward does not call its LM head on every position, once")
    if logits.shape != grid.shape:
        raise HeadNotMeasured(
            f"it returns {tuple(logits.shape)} logits for {tuple(grid.shape)} of its LM head"
        )
    scale, cap = _fit(grid, logits.to(grid.dtype))
    return HeadShape(scale, cap, _factor(policy, ids, read[0]))


def _grid(rows: int, words: int) -> Tensor:
    """Numbers to stand for logits, ``[rows, words]``: small ones, sizes that caps bend, and some
    that are beyond all caps; each word gets others in every row."""
    steps = torch.linspace(-60, 60, 31, dtype=torch.float64)
    values = torch.cat([steps, torch.tensor([_TINY, -_TINY, _WHOLE, -_WHOLE])])
    places = torch.arange(words)[None] + 5 * torch.arange(rows)[:, None]
    return values[places % len(values)]


def _fit(grid: Tensor, logits: Tensor) -> tuple[float, float | None]:
    """Scale and cap that make these logits of the grid.

    Raises:
        HeadNotMeasured: none do.
    """
    small, large = grid == _TINY, grid == _WHOLE
    scale = float(logits[small].median()) / _TINY if small.any() else math.nan
    top = float(logits[large].median()) if large.any() else math.nan
    cap = None if abs(top - scale * _WHOLE) <= 1e-3 * abs(top) else top
    expected = grid.double() * scale
    if cap is not None:
        expected = cap * (expected / cap).tanh()
    apart = (logits.double() - expected).abs()
    # Model code rounds where it computes in 16 bits.
    rounding = torch.finfo(torch.bfloat16).eps * 2 if _in_16_bits(logits) else 1e-5
    if not bool((apart <= rounding * expected.abs() + 1e-6).all()):
        row, word = divmod(int(apart.nan_to_num(math.inf).argmax()), grid.shape[1])
        raise HeadNotMeasured(
            f"it turns the logit {float(grid[row, word]):.4g} of word {word} into "
            f"{float(logits[row, word]):.4g}, which is neither a scale nor a cap of all words"
        )
    return scale, cap


def _in_16_bits(logits: Tensor) -> bool:
    return torch.equal(logits, logits.bfloat16().to(logits.dtype))


def _factor(policy: Any, ids: Tensor, read: Tensor) -> float | None:
    """What the head reads as a multiple of the base model's hidden states; None if it is none."""
    with torch.no_grad(), evaluating(policy):
        try:
            hidden = base_hidden(policy, input_ids=ids)
        except (AttributeError, TypeError):
            return None
    if hidden is None or hidden.shape != read.shape or not torch.isfinite(read).all():
        return None
    if torch.equal(hidden, read):
        return 1.0
    factor = float((read.double() * hidden).sum() / hidden.double().square().sum())
    rounding = 2 * torch.finfo(hidden.dtype).eps
    near = (read.double() - factor * hidden.double()).abs() <= rounding * read.double().abs() + 1e-9
    return factor if bool(near.all()) else None


def base_hidden(policy: Any, **inputs: Any) -> Tensor | None:
    """The last hidden states of the policy without its head; None where it gives none."""
    return getattr(base_output(policy, **inputs), "last_hidden_state", None)


def base_output(policy: Any, **inputs: Any) -> Any:
    """What the policy without its head gives; None where there is no such model."""
    base = policy.base_model
    if base is policy:
        return None
    given = {"use_cache": False, **inputs}
    return base(**accepted(base, **given))


def accepted(module: nn.Module, **inputs: Any) -> dict[str, Any]:
    """Those of the inputs that a module's forward names or passes on: models of older kinds
    count positions by themselves."""
    parameters = _parameters(type(module))
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return inputs
    return {name: value for name, value in inputs.items() if name in parameters}


def _parameters(kind: type) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(kind.forward).parameters)


@contextmanager
def evaluating(policy: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, the mode before afterwards."""
    mode = policy.training
    policy.eval()
    try:
        yield
    finally:
        policy.train(mode)


@contextmanager
def _forward_of(module: nn.Module, forward: Callable[..., Tensor]) -> Iterator[None]:
    module.forward = forward
    try:
        yield
    finally:
        del module.forward


def probe_ids(policy: Any, rows: int, device: Any) -> Tensor:
    """Random words, ``[rows, 8]``, the same for everyone."""
    words = policy.get_input_embeddings().weight.shape[0]
    random = torch.Generator().manual_seed(0)
    return torch.randint(words, (rows, _PROBE), generator=random).to(device)


@dataclass(frozen=True)
class Probe:
    """A few short sequences, and what the policy itself says of them, one whole one at a time, in
    evaluation mode."""

    sequences: list[Tensor]
    logits: list[Tensor]
    tolerance: float


@torch.no_grad()
def probe(policy: Any) -> Probe:
    """Errors as :func:`require`: the policy's own logits cannot be learnt from."""
    head = policy.get_output_embeddings()
    ids = probe_ids(policy, 2, head.weight.device)
    sequences = [ids[0], ids[1, : _PROBE - 3], ids[0, :3]]
    try:
        with evaluating(policy):
            logits = [_own_logits(policy, sequence) for sequence in sequences]
    except BROKEN as error:
        require(f"its own forward fails: {first_line(error)}", policy)
    if not all(each.isfinite().any(-1).all() and not each.isnan().any() for each in logits):
        require("its logits are not finite: its weights are damaged, or overflow", policy)
    tolerance = _tolerance(head, logits)
    begun, whole = (each.double().log_softmax(-1) for each in (logits[2], logits[0][:3]))
    apart = float((begun - whole).nan_to_num(neginf=0).abs().max())
    if not apart <= tolerance:
        require(
            f"its log-probabilities depend on tokens that come later (up to {apart:.2g} apart): it "
            "is no causal language model",
            policy,
        )
    return Probe(sequences, logits, tolerance)


def disagreement(model: "LogProbModel", own: Probe, packed: bool) -> str | None:
    """Where a policy in training mode, in passes as training makes them, is not what it says by
    itself, or passes no gradient back; None where it is, and does.

    The reference would share an error of ours, and the first loss would be ln 2 all the same.
    """
    sizes = [len(sequence) for sequence in own.sequences]
    expected, positions, targets = [], [], []
    for start, logits in zip(_starts(sizes, packed), own.logits, strict=True):
        # What a scale or a cap moves most.
        words = torch.cat([logits.argmax(-1), logits.argmin(-1)])
        places = torch.arange(len(logits), device=words.device).repeat(2)
        expected.append(logits.double().log_softmax(-1)[places, words])
        positions.append(start + places)
        targets.append(words)
    tokens = {"positions": torch.cat(positions), "targets": torch.cat(targets)}
    mode = model.training
    model.train()
    what = "forward"
    try:
        with torch.enable_grad(), _embedded(model.policy) as embedded:
            ours = model(**_pass(own.sequences, packed), **tokens, sizes=tuple(sizes))
            what = "backward"
            # Of the embedded words alone: through all layers, and none of the weights gets one.
            found = torch.autograd.grad(ours.sum(), embedded, allow_unused=True) if embedded else ()
    except BROKEN as error:
        return f"its {what} fails: {first_line(error)}"
    finally:
        model.train(mode)
    apart = float((ours.detach().double() - torch.cat(expected)).abs().max())
    if not apart <= own.tolerance:
        return (
            "its log-probabilities in training are not those of its own logits (up to "
            f"{apart:.2g} apart)"
        )
    if not all(each is None or each.isfinite().all() for each in found):
        return "its gradients are not finite"
    return None


@contextmanager
def _embedded(policy: nn.Module) -> Iterator[list[Tensor]]:
    """What the input embedding gives inside; gradients can be asked for of it, learnt or not."""
    found: list[Tensor] = []

    def noted(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        found.append(output if output.requires_grad else output.detach().requires_grad_())
        return output if output.requires_grad else found[-1].clone()  # which may be changed

    hook = policy.get_input_embeddings().register_forward_hook(noted)
    try:
        yield found
    finally:
        hook.remove()


def _own_logits(policy: Any, sequence: Tensor) -> Tensor:
    inputs = accepted(policy, input_ids=sequence[None], use_cache=False)
    return policy(**inputs).logits[0]


def _tolerance(head: nn.Module, logits: list[Tensor]) -> float:
    """A product of another shape may round a logit, and all that it is normalised by, to the next
    numbers of the head's dtype."""
    finite = torch.cat([each[each.isfinite()] for each in logits]).double()
    largest = float(finite.abs().max() + finite.max() - finite.min())
    return 1e-4 + 4 * torch.finfo(head.weight.dtype).eps * largest


def _starts(sizes: list[int], packed: bool) -> list[int]:
    if packed:
        return [sum(sizes[:number]) for number in range(len(sizes))]
    return [number * max(sizes) for number in range(len(sizes))]


def _pass(sequences: list[Tensor], packed: bool) -> dict[str, Tensor | None]:
    places = [torch.arange(len(each), device=each.device) for each in sequences]
    if packed:
        ids, positions = torch.cat(sequences)[None], torch.cat(places)[None]
        return {"input_ids": ids, "attention_mask": None, "position_ids": positions}
    padded = nn.utils.rnn.pad_sequence(sequences, batch_first=True)
    ones = nn.utils.rnn.pad_sequence([torch.ones_like(e) for e in sequences], batch_first=True)
    positions = torch.arange(padded.shape[1], device=padded.device).expand_as(padded)
    return {"input_ids": padded, "attention_mask": ones, "position_ids": positions}


def require(problem: str | None, policy: Any) -> None:
    """Raise ``UserError`` in one line where there is a problem."""
    if problem is not None:
        raise UserError(
            f"{type(policy).__name__} ({policy.config.name_or_path}) cannot be trained here: "
            f"{problem}"
        )
