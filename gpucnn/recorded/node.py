"""What a recording consists of: primitive calls over pieces of memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

Array = Any


@dataclass(eq=False)
class Buffer:
    """Memory that the recorded step allocated.

    Attributes:
        start, stop: addresses by which its pieces are known. No other buffer has them: the memory
            itself may be handed out again during the recording.
        memory: the array that owns it, if somebody outside the step still has a tensor on it.
    """

    start: int
    stop: int
    memory: Array | None = None

    @property
    def held(self) -> bool:
        """Whether somebody outside the step can see it."""
        return self.memory is not None


@dataclass(frozen=True)
class Ref:
    """An array argument of a call: a piece of memory, seen under a shape and strides.

    Attributes:
        array: None where it can be had from the buffer.
        address: of its first element.
        start, stop: the addresses between which its elements lie.
        buffer: what it is a piece of; None for memory from before the step.
    """

    array: Array = field(compare=False, repr=False)
    address: int
    start: int
    stop: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: Any
    buffer: Buffer | None = field(compare=False, repr=False)

    def overlaps(self, other: Ref) -> bool:
        """Whether the two may share an element."""
        return self.start < other.stop and other.start < self.stop


@dataclass(eq=False)
class Node:
    """One primitive call.

    `inputs` holds a Ref for an array, and numbers and None as they are.
    """

    name: str
    inputs: list[Any]
    outputs: list[Any]
    attributes: dict[str, Any]
    mutated: tuple[int, ...] = ()

    def reads(self) -> Iterator[Ref]:
        """The arrays it reads (those it changes in place included)."""
        return (value for value in self.inputs if isinstance(value, Ref))

    def writes(self) -> Iterator[Ref]:
        """The arrays it writes."""
        yield from (value for value in self.outputs if isinstance(value, Ref))
        for number in self.mutated:
            if isinstance(self.inputs[number], Ref):
                yield self.inputs[number]

    def without_arrays(self) -> Node:
        """The same, to be looked at: its pieces of memory may be gone."""

        def described(value: Any) -> Any:
            return replace(value, array=None) if isinstance(value, Ref) else value

        return replace(
            self,
            inputs=list(map(described, self.inputs)),
            outputs=list(map(described, self.outputs)),
        )


def extent(address: int, array: Array) -> tuple[int, int]:
    """The addresses between which the elements of an array lie, whose first one is at `address`."""
    low = high = 0
    for size, stride in zip(array.shape, array.strides):
        if size == 0:
            return address, address
        if stride < 0:
            low += (size - 1) * stride
        else:
            high += (size - 1) * stride
    return address + low, address + high + array.itemsize


def touch(refs: Iterable[Ref], region: Ref) -> bool:
    """Whether one of the pieces overlaps a region."""
    return any(ref.overlaps(region) for ref in refs)
