"""Moments of 8 bits: torchao's optimizer, its step as fast as the GPU is.

Why: torchao 0.18 (optim/adam.py, step) asks torch.compile anew for each weight, and weights of all shapes share one
compiled function, whose guards are tried one shape after another: 1.3 ms for each of 7B's 729 weights, in which the
GPU stands still most of the time. Here each shape has a compiled function of its own, and gets the shards themselves.
The weights after a step are equal to the last bit. Used by `cookbook.engine.bridge`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


def install_moments() -> str:
    """Put it in place. Returns what it does."""
    from torchao.optim import adam

    if adam.torch is torch:
        adam.torch = ShapeByShape()
    return "a shape at a time"


class ShapeByShape:
    """Stands for `torch` in torchao's module: all of it, but `compile`."""

    def __init__(self) -> None:
        self.compiled: dict[tuple, Callable] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def compile(self, function: FunctionType, **how: Any) -> Callable:
        """Returns what calls the function as it was compiled for the shape of what it gets."""
        return partial(self._call, function, how)

    def _call(self, function: FunctionType, how: Mapping[str, Any], weight: Tensor, *rest: Any) -> None:
        shards = [value.to_local() if isinstance(value, DTensor) else value for value in (weight, *rest)]
        kind = tuple((type(v), v.shape, v.dtype, v.device) for v in shards if isinstance(v, Tensor))
        if kind not in self.compiled:  # code of its own, for that is what guards belong to
            own = FunctionType(function.__code__.replace(), function.__globals__, function.__name__)
            self.compiled[kind] = torch.compile(own, **how)
        self.compiled[kind](*shards)
