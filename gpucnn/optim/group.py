"""The flat storage of one parameter group, and the optimizer's flat state beside it."""

from __future__ import annotations

from collections.abc import Sequence

from gpucnn.core.memory import full
from gpucnn.core.tensor import Tensor
from gpucnn.nn import flat
from gpucnn.nn.flat import FlatStorage, GradientSlot, Run


class GroupStorage:
    """Where a group's parameters lie, and named state (such as momentum) with the same layout.

    Attributes:
        slots: one for each parameter.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.settle(parameters)

    def settle(self, parameters: Sequence[Tensor]) -> None:
        """Bring all parameters into flat storage; the named state begins anew, at zero."""
        self.slots: list[GradientSlot] = flat.settle(parameters, self)
        self._spans: dict[FlatStorage, tuple[int, int]] = {}
        for slot in self.slots:
            start, stop = self._spans.get(slot.storage, (slot.start, slot.stop))
            self._spans[slot.storage] = (min(start, slot.start), max(stop, slot.stop))
        self._state: dict[str, dict[FlatStorage, Tensor]] = {}
        self._views: dict[str, list[Tensor]] = {}
        self._slices: dict[tuple[str, Run], Tensor] = {}
        self._used: set[tuple[str, int]] = set()

    def is_settled(self, parameters: Sequence[Tensor]) -> bool:
        """Whether these are still the parameters, and none has moved since."""
        return len(parameters) == len(self.slots) and all(
            parameter._grad_slot is slot and parameter.data is slot.values
            for parameter, slot in zip(parameters, self.slots)
        )

    def views(self, name: str) -> list[Tensor]:
        """The state `name` of each parameter: views, shaped as the parameter, of flat tensors."""
        if name not in self._views:
            state = self._state[name] = {
                storage: full((stop - start,), 0, storage.values.dtype, storage.values.device)
                for storage, (start, stop) in self._spans.items()
            }
            self._views[name] = [self._view(state[slot.storage], slot) for slot in self.slots]
        return self._views[name]

    def use(self, name: str, number: int) -> Tensor:
        """The state `name` of a parameter, whose content counts from now on."""
        self._used.add((name, number))
        return self.views(name)[number]

    def clear(self, name: str, number: int) -> None:
        """Let the state `name` of a parameter be zero, as it is before its first use."""
        if (name, number) in self._used:
            self.views(name)[number].zero_()

    def _view(self, whole: Tensor, slot: GradientSlot) -> Tensor:
        start = slot.start - self._spans[slot.storage][0]
        return whole.view_of(flat.window(whole, start, slot.shape, slot.order))

    def slice(self, name: str, run: Run) -> Tensor:
        """The flat state `name` beside a run of neighbours."""
        key = (name, run)
        if key not in self._slices:
            self.views(name)
            base = self._spans[run.storage][0]
            whole = self._state[name][run.storage]
            self._slices[key] = whole.view_of(whole.data[run.start - base : run.stop - base])
        return self._slices[key]
