"""Primitives as the operations see them: declared once, called with tensors."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from gpucnn.core.dispatch import Spec, dispatch
from gpucnn.core.recording import changed
from gpucnn.core.tensor import Tensor

MUTATED: dict[str, tuple[int, ...]] = {}
"""Which inputs the primitives that change some in place change, by the primitive's name."""


class Primitive:
    """A declared primitive: calling it with tensors runs it on their device.

    `rule` is the declaration: it takes the call's inputs and attributes and returns the `Spec` of
    each output. Attributes named shape, dtype, order or with_* only describe outputs, and are not
    passed on. `mutates` numbers the inputs that the primitive changes in place.
    """

    def __init__(self, rule: Callable[..., list[Spec]], mutates: tuple[int, ...] = ()) -> None:
        self.rule = rule
        self.name: str = rule.__name__
        self.mutates = mutates
        if mutates:
            MUTATED[self.name] = mutates
        self.signature = inspect.signature(rule)
        self._describing = [
            name
            for name in self.signature.parameters
            if name in ("shape", "dtype", "order") or name.startswith("with_")
        ]
        self.__doc__ = rule.__doc__

    def __call__(self, *inputs: Any, out: Tensor | None = None, **attributes: Any) -> Any:
        """One Tensor, or a tuple where the rule declares several outputs, None for none.

        `out` is an existing tensor to write into; its version counts up.
        """
        device = None
        arrays = []
        for value in inputs:
            if isinstance(value, Tensor):
                if value.device is not device:
                    if device is not None:
                        raise RuntimeError(
                            f"{self.name}: one tensor is on {device} but another on "
                            f"{value.device}; move one with .to(...)"
                        )
                    device = value.device
                arrays.append(value.data)
            else:
                arrays.append(value)
        if out is not None:
            dispatch(self.name, out.device, arrays, (), attributes, (out.data,))
            changed(out)
            return out
        if device is None:
            raise TypeError(f"{self.name}: no tensor among the arguments")
        specs = self.rule(*inputs, **attributes)
        for name in self._describing:
            attributes.pop(name, None)
        results = dispatch(self.name, device, arrays, specs, attributes)
        for number in self.mutates:
            if inputs[number] is not None:
                changed(inputs[number])
        if len(results) == 1:
            return Tensor(results[0], device)
        return tuple([Tensor(array, device) for array in results]) if results else None


def primitive(rule: Callable[..., list[Spec]]) -> Primitive:
    """Declare a primitive by its inference rule (a decorator)."""
    return Primitive(rule)


def mutating(*numbers: int) -> Callable[[Callable[..., list[Spec]]], Primitive]:
    """Declare a primitive that changes the inputs of these numbers in place (a decorator)."""
    return lambda rule: Primitive(rule, numbers)
