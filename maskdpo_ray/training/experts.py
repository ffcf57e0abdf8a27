"""Experts that are modules of their own, as in the code that some models bring along.

Which of them are called depends on the tokens, so on every worker others are. DeepSpeed takes all
workers to call the same modules: ZeRO 3 would wait for those that do not, ZeRO 1 for gradients that
are not there, and ZeRO 2, which takes gradients as they arise, would add those of different
weights. Models of Transformers hold all experts of a layer in one weight and know none of this.
"""

from typing import Any

from torch import Tensor, nn


def expert_blocks(model: nn.Module) -> list[nn.Module]:
    """The modules that choose among experts, which are a list of modules named so."""
    return [model.get_submodule(path) for path in _lists(model)]


def _lists(model: nn.Module) -> dict[str, nn.ModuleList]:
    """Lists of experts, by the path of the module that holds them."""
    found = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and "expert" in ".".join(path.split(".")[-2:]):
            found[path.rpartition(".")[0]] = module
    return found


def gather_together(model: nn.Module) -> None:
    """Under ZeRO 3: all weights of a block are gathered, and their gradients reduced, at once."""
    from deepspeed.utils import set_z3_leaf_module

    for block in expert_blocks(model):
        set_z3_leaf_module(block, True)


class Uncalled:
    """The experts that a forward pass did not call."""

    def __init__(self, model: nn.Module) -> None:
        self._called: set[nn.Module] = set()
        self._experts = [expert for experts in _lists(model).values() for expert in experts]
        for expert in self._experts:
            expert.register_forward_hook(self._note)

    def _note(self, expert: nn.Module, *_: Any) -> None:
        self._called.add(expert)

    def nothing(self) -> Tensor | float:
        """Zero, as a function of their weights, which then have a gradient like all others; of the
        passes since the last call."""
        weights = [
            parameter
            for expert in self._experts
            if expert not in self._called
            for parameter in expert.parameters()
            if parameter.requires_grad
        ]
        self._called.clear()
        return sum((weight.reshape(-1)[0] * 0.0 for weight in weights), 0.0)
