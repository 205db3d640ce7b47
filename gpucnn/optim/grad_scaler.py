"""Loss scaling for float16: gradients are computed a power of two too large, and brought back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from gpucnn.core import recording
from gpucnn.core.autograd import no_grad
from gpucnn.core.device import Device
from gpucnn.core.tensor import Tensor
from gpucnn.nn.flat import GradientSlot, runs
from gpucnn.ops.comparison import equal, not_equal
from gpucnn.ops.creation import tensor
from gpucnn.ops.elementwise import select
from gpucnn.optim.optimizer import Optimizer


class GradScaler:
    """Scales a loss, so that small gradients are not lost in float16; torch.amp.GradScaler.

        scaler = gpucnn.GradScaler()
        for images, labels in loader:
            optimizer.zero_grad()
            with gpucnn.precision("fp16"):
                loss = F.cross_entropy(model(images), labels)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()

    A step whose gradients are not all finite is left out, and the scale is multiplied by
    `backoff_factor`; after `growth_interval` steps without one it is multiplied by `growth_factor`
    (Micikevicius et al., "Mixed precision training", ICLR 2018). The scale lives on the device of
    the first loss. `step` reads one number back, to know whether to step; within `gpucnn.capture`
    nothing is read: the step is made, and undone on the device where it should not have been (Adam
    then counts it all the same).

    Args:
        device: of the scale until the first loss comes.
        init_scale: the first scale.
        growth_factor: above 1.
        backoff_factor: below 1.
        growth_interval: at least 1.
        enabled: if not, nothing is scaled and `step` is the optimizer's.

    Raises:
        ValueError: a value out of its range.
    """

    def __init__(
        self,
        device: str | Device = "cpu",
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        if not growth_factor > 1.0:
            raise ValueError(f"GradScaler: growth_factor must be above 1, got {growth_factor}")
        if not 0.0 < backoff_factor < 1.0:
            raise ValueError(
                f"GradScaler: backoff_factor must be between 0 and 1, got {backoff_factor}"
            )
        if growth_interval < 1:
            raise ValueError(
                f"GradScaler: growth_interval must be at least 1, got {growth_interval}"
            )
        self._enabled = enabled
        self._growth_factor, self._backoff_factor = growth_factor, backoff_factor
        self._growth_interval = growth_interval
        self._place(init_scale, 0, Device(device))
        # By optimizer, what became of its gradients since the last update: 1 where one was not
        # finite, else 0, on the device; and whether `step` has been called.
        self._found: dict[int, Tensor] = {}
        self._stepped: set[int] = set()

    def _place(self, scale: float, tracker: int, device: Device) -> None:
        self._scale = tensor(scale, dtype=np.float32, device=device)
        self._tracker = tensor(tracker, dtype=np.float32, device=device)

    # ---- a step

    def scale(self, outputs: Any) -> Any:
        """The loss, or each of an iterable of them, times the scale."""
        if not self._enabled:
            return outputs
        if isinstance(outputs, Tensor):
            if outputs.device is not self._scale.device:
                self._place(self.get_scale(), self._get_growth_tracker(), outputs.device)
            return outputs * self._scale.to(outputs.dtype)
        if isinstance(outputs, Iterable):
            return type(outputs)(self.scale(output) for output in outputs)  # type: ignore[call-arg]
        raise TypeError(
            f"scale: outputs must be a tensor or an iterable of tensors, "
            f"got {type(outputs).__name__}"
        )

    def unscale_(self, optimizer: Optimizer) -> None:
        """Divide the gradients of the optimizer's parameters by the scale, before clipping them.

        `step` does it otherwise.

        Raises:
            RuntimeError: it was done already since the last `update`, or `step` was called.
        """
        if not self._enabled:
            return
        if id(optimizer) in self._stepped:
            raise RuntimeError("unscale_() is being called after step().")
        if id(optimizer) in self._found:
            raise RuntimeError(
                "unscale_() has already been called on this optimizer since the last update()."
            )
        with no_grad():
            self._found[id(optimizer)] = self._unscale(optimizer)

    def _unscale(self, optimizer: Optimizer) -> Tensor:
        inverse = 1.0 / self._scale
        found = self._scale * 0
        for _, gradients, _ in _runs(optimizer):
            gradients.mul_(inverse.to(gradients.dtype))
            # Not finite: then the difference is not either, and nought times it is no number. (The
            # gaps between parameters hold zeros: whatever is done to gradients keeps a zero one.)
            probe = (gradients.max() - gradients.min()) * 0
            found = found + not_equal(probe, probe).to(np.float32)
        return not_equal(found, 0).to(np.float32)

    def step(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        """`optimizer.step(*args, **kwargs)` with unscaled gradients, unless one is not finite.

        Returns:
            What the optimizer's step returned; None where it was left out.

        Raises:
            RuntimeError: called twice since the last `update`, or with a closure.
        """
        if not self._enabled:
            return optimizer.step(*args, **kwargs)
        if args or kwargs:
            raise RuntimeError("Closure use is not currently supported if GradScaler is enabled.")
        if id(optimizer) in self._stepped:
            raise RuntimeError("step() has already been called since the last update().")
        if id(optimizer) not in self._found:
            self.unscale_(optimizer)
        self._stepped.add(id(optimizer))
        found = self._found[id(optimizer)]
        if recording.state.recorder is None:
            return None if found.item() else optimizer.step()
        with no_grad():
            flats = [flat for values, _, state in _runs(optimizer) for flat in (values, *state)]
            before = [flat.clone() for flat in flats]
            result = optimizer.step()
            for flat, kept in zip(flats, before):
                flat.copy_(select(not_equal(found, 0), kept, flat))
        return result

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """Adapt the scale to what the steps since the last call have found, or set it.

        Raises:
            RuntimeError: no optimizer has stepped or been unscaled since the last call.
        """
        if not self._enabled:
            return
        with no_grad():
            if new_scale is not None:
                self._scale.fill_(float(new_scale))
            else:
                self._adapt()
        self._found.clear()
        self._stepped.clear()

    def _adapt(self) -> None:
        if not self._found:
            raise RuntimeError("No inf checks were recorded prior to update.")
        found = self._scale * 0
        for each in self._found.values():
            found = found + each
        bad = not_equal(found, 0)
        tracker = select(bad, 0.0, self._tracker + 1)
        due = equal(tracker, self._growth_interval)
        grown = self._scale * self._growth_factor
        # Growth stops before infinity, and backing off before the inverse is one.
        finite = equal((grown - grown) * 0, 0)
        larger = select(finite, select(due, grown, self._scale), self._scale)
        smaller = (self._scale * self._backoff_factor).clamp(min=2.0**-120)
        self._scale.copy_(select(bad, smaller, larger))
        self._tracker.copy_(select(due, 0.0, tracker))

    # ---- what it is set to

    def get_scale(self) -> float:
        """The scale, read from the device; 1 where not enabled."""
        return float(self._scale.item()) if self._enabled else 1.0

    def _get_growth_tracker(self) -> int:
        return int(self._tracker.item()) if self._enabled else 0

    def get_growth_factor(self) -> float:
        return self._growth_factor

    def set_growth_factor(self, new_factor: float) -> None:
        self._growth_factor = new_factor

    def get_backoff_factor(self) -> float:
        return self._backoff_factor

    def set_backoff_factor(self, new_factor: float) -> None:
        self._backoff_factor = new_factor

    def get_growth_interval(self) -> int:
        return self._growth_interval

    def set_growth_interval(self, new_interval: int) -> None:
        self._growth_interval = new_interval

    def is_enabled(self) -> bool:
        """Whether it scales."""
        return self._enabled

    def state_dict(self) -> dict[str, Any]:
        """PyTorch's keys: scale, growth_factor, backoff_factor, growth_interval,
        _growth_tracker; empty where not enabled.
        """
        if not self._enabled:
            return {}
        return {
            "scale": self.get_scale(),
            "growth_factor": self._growth_factor,
            "backoff_factor": self._backoff_factor,
            "growth_interval": self._growth_interval,
            "_growth_tracker": self._get_growth_tracker(),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take what a `state_dict` says, this engine's or PyTorch's.

        Raises:
            RuntimeError: it is empty, as of a scaler that was not enabled.
        """
        if not self._enabled:
            return
        if len(state_dict) == 0:
            raise RuntimeError(
                "The source state dict is empty, possibly because it was saved "
                "from a disabled instance of GradScaler."
            )
        self._growth_factor = float(state_dict["growth_factor"])
        self._backoff_factor = float(state_dict["backoff_factor"])
        self._growth_interval = int(state_dict["growth_interval"])
        self._place(
            float(state_dict["scale"]), int(state_dict["_growth_tracker"]), self._scale.device
        )


def _runs(optimizer: Optimizer) -> list[tuple[Tensor, Tensor, list[Tensor]]]:
    """Flat values, gradients and state of all parameters that have a gradient."""
    found = []
    for group, storage in zip(optimizer.param_groups, optimizer._storages):
        parameters = group["params"]
        if not storage.is_settled(parameters):
            storage.settle(parameters)
        slots: list[GradientSlot | None] = []
        for parameter, slot in zip(parameters, storage.slots):
            slots.append(None if parameter.grad is None else slot)
            if parameter.grad is not None and parameter.grad is not slot:
                slot.copy_(parameter.grad)
                parameter.grad = slot
        names = optimizer._buffers(group)
        for run in runs(slots, [0] * len(slots)):
            values, gradients = run.storage.slices(run.start, run.stop)
            found.append((values, gradients, [storage.slice(name, run) for name in names]))
    return found
