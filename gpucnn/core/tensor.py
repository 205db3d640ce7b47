"""The tensor: an array that knows its device and how it came to be.

`Tensor.data` is the plain NumPy or CuPy array. Arithmetic and the other methods are bound by
`gpucnn.ops.methods`, which stands above this file; `gpucnn.core.bound` declares them.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from gpucnn import backends
from gpucnn.core.bound import Bound
from gpucnn.core.device import CPU, Device
from gpucnn.core.dispatch import Order, memory_order
from gpucnn.core.recording import state as recording
from gpucnn.core.recording import unrepeatable

if TYPE_CHECKING:
    from gpucnn.core.autograd import Function

Array = Any
"""A raw array: numpy.ndarray, or cupy.ndarray on a GPU."""

Number = int | float | bool


class Tensor(Bound):
    """An n-dimensional array on a device, with an optional gradient.

    Attributes:
        data: the NumPy or CuPy array itself, not a copy.
        device: where it lives.
        requires_grad: whether operations on it are recorded.
        grad: the accumulated gradient of a leaf after `backward`, else None.
        grad_fn: the Function that made it, None for a leaf.
    """

    __slots__ = (
        "data", "device", "requires_grad", "grad", "grad_fn", "__weakref__",
        "_output_index", "_version", "_grad_slot",
    )  # fmt: skip

    data: Array
    device: Device
    requires_grad: bool
    grad: Tensor | None
    grad_fn: Function | None

    # NumPy must leave `array + tensor` to Tensor.__radd__.
    __array_ufunc__ = None

    def __init__(
        self,
        data: Array,
        device: Device = CPU,
        requires_grad: bool = False,
        version: list[int] | None = None,
    ) -> None:
        self.data = data
        self.device = device
        self.requires_grad = requires_grad
        self.grad = None
        self.grad_fn = None
        self._output_index = 0
        # One counter for all views of a buffer: an in-place change of one is seen by each.
        self._version = [0] if version is None else version
        # Where the optimizer wants the gradient of this leaf (a view of its flat storage).
        self._grad_slot: Tensor | None = None
        if recording.recorder is not None:
            recording.recorder.made(self)

    def view_of(self, data: Array) -> Tensor:
        """A tensor over `data`, which shares this tensor's buffer."""
        return Tensor(data, self.device, version=self._version)

    # ---- what it looks like -------------------------------------------------------------------
    @property
    def shape(self) -> tuple[int, ...]:
        shape: tuple[int, ...] = self.data.shape
        return shape

    @property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = self.data.dtype
        return dtype

    @property
    def ndim(self) -> int:
        ndim: int = self.data.ndim
        return ndim

    @property
    def order(self) -> Order:
        """The axes from slowest to fastest in memory, None for C order."""
        return memory_order(self.data)

    @property
    def is_leaf(self) -> bool:
        return self.grad_fn is None

    def is_floating_point(self) -> bool:
        return bool(self.data.dtype.kind == "f")

    def size(self, dim: int | None = None) -> Any:
        """The shape, or the length of one dimension."""
        return self.shape if dim is None else self.shape[dim]

    def numel(self) -> int:
        return int(self.data.size)

    def dim(self) -> int:
        return self.ndim

    def __len__(self) -> int:
        if self.ndim == 0:
            raise TypeError("len: a 0-d tensor has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __bool__(self) -> bool:
        if self.numel() != 1:
            raise ValueError(
                f"bool: a tensor of shape {self.shape} has no single truth value; "
                "use .item() on one element"
            )
        return bool(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __format__(self, spec: str) -> str:
        # f"{loss:.4f}" formats the number.
        return format(self.item(), spec) if self.ndim == 0 else object.__format__(self, spec)

    def __index__(self) -> int:
        if self.data.dtype.kind not in "iub" or self.numel() != 1:
            raise TypeError("index: only an integer tensor of one element can be an index")
        return int(self.item())

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        from gpucnn.core.printing import format_tensor

        return format_tensor(self)

    # ---- leaving for other libraries ----------------------------------------------------------
    def numpy(self) -> np.ndarray[Any, Any]:
        """The values as a NumPy array: the array itself on the cpu, a copy from elsewhere.

        Raises:
            RuntimeError: the tensor requires a gradient, which NumPy would lose.
        """
        if self.requires_grad:
            raise RuntimeError("numpy: the tensor requires grad; call .detach().numpy()")
        return self._on_host()

    def _on_host(self) -> np.ndarray[Any, Any]:
        unrepeatable("a value is read on the host (item, numpy, float, bool, print)")
        return backends.get(self.device).to_host(self.data)

    def item(self) -> Any:
        """The value of a one-element tensor as a Python number.

        Raises:
            ValueError: it has not exactly one element.
        """
        if self.numel() != 1:
            raise ValueError(f"item: the tensor has {self.numel()} elements, shape {self.shape}")
        return self._on_host().item()

    def tolist(self) -> Any:
        """The values as nested Python lists."""
        return self._on_host().tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        host = self.detach().numpy()
        if copy is False and (self.device is not CPU or (dtype and host.dtype != dtype)):
            raise ValueError("__array__: a copy is needed but copy=False was asked for")
        if copy is True and self.device is CPU:
            host = host.copy(order="K")
        return host if dtype is None else host.astype(dtype, copy=False)

    def __dlpack__(self, **arguments: Any) -> Any:
        if self.requires_grad:
            raise RuntimeError("__dlpack__: the tensor requires grad; call .detach() first")
        return self.data.__dlpack__(**arguments)

    def __dlpack_device__(self) -> tuple[int, int]:
        return cast("tuple[int, int]", self.data.__dlpack_device__())

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if self.device.type != "cuda":
            raise AttributeError(f"__cuda_array_interface__: the tensor is on {self.device}")
        return cast("dict[str, Any]", self.data.__cuda_array_interface__)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        from gpucnn.core.memory import copy

        if self.grad_fn is not None:
            raise RuntimeError("deepcopy: only a leaf can be copied; use .detach() or .clone()")
        if id(self) not in memo:
            result: Tensor = copy(self, order=self.order)
            result.requires_grad = self.requires_grad
            memo[id(self)] = result
            result.grad = None if self.grad is None else self.grad.__deepcopy__(memo)
        return cast(Tensor, memo[id(self)])

    # ---- the graph ----------------------------------------------------------------------------
    def detach(self) -> Tensor:
        """The same values outside the graph; shares the buffer."""
        return self.view_of(self.data)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Set `requires_grad` of a leaf in place.

        Raises:
            RuntimeError: the tensor is not a leaf, or its dtype is not floating.
        """
        if requires_grad and not self.is_floating_point():
            raise RuntimeError(f"requires_grad_: only float tensors, got {self.dtype}")
        if not requires_grad and self.grad_fn is not None:
            raise RuntimeError("requires_grad_: only for leaves; use .detach()")
        self.requires_grad = requires_grad
        return self

    def retain_grad(self) -> None:
        """Keep the gradient of this non-leaf in `.grad` too.

        Raises:
            RuntimeError: the tensor does not require grad.
        """
        if not self.requires_grad:
            raise RuntimeError("retain_grad: the tensor does not require grad")
        if self.grad_fn is not None:
            self.grad_fn._retained[self._output_index] = weakref.ref(self)

    def backward(
        self,
        gradient: Tensor | None = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
    ) -> None:
        """Add the gradient of this tensor to `.grad` of every leaf that it depends on.

        Args:
            gradient: d(loss)/d(self), of this shape; may be left out for one element (then 1).
            retain_graph: keep what the graph saved, for another call.
            create_graph: gradients of gradients; not part of this engine.

        Raises:
            RuntimeError: no graph, a freed graph, a missing or misshapen gradient, a saved tensor
                changed in place, or `create_graph`.
        """
        from gpucnn.core.backward import run_backward

        run_backward([self], [gradient], bool(retain_graph), create_graph)
