"""The rows in PyTorch: the same inputs, initial values and number of threads.

On the cpu eager and NCHW, as a script without any setting has it. On a GPU by cuDNN in benchmark
mode, with TF32 off and on, by autocast where gpucnn rounds to 16 bits, and in several modes (see
`torch_nets`).
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np

from gpucnn.benchmarks import peaks, torch_epoch, torch_nets
from gpucnn.benchmarks.case_row import CaseRow, upstream
from gpucnn.benchmarks.environment import Environment
from gpucnn.benchmarks.epoch import EpochRow
from gpucnn.benchmarks.measure import Function
from gpucnn.benchmarks.net_row import NetRow
from gpucnn.benchmarks.optimizer_row import OPTIONS, OptimizerRow
from gpucnn.benchmarks.overhead import OverheadRow
from gpucnn.benchmarks.row import Array, Call, Row, Setup, Variant
from gpucnn.benchmarks.scaling import ProductsRow
from gpucnn.core.device import CPU, Device
from gpucnn.nn import Dropout

MODES = ("eager", "channels_last", "compile", "graph")
EAGER = Variant("PyTorch", "eager", "fp32")


def _torch() -> Any:
    return importlib.import_module("torch")


class Opponent:
    """PyTorch on one device.

    Args:
        threads: of its operations on the cpu.

    Raises:
        RuntimeError: PyTorch is not installed, or does not see the GPU.
    """

    def __init__(self, device: Device, threads: int) -> None:
        try:
            self.torch = _torch()
        except ImportError as error:
            raise RuntimeError(
                f"--compare torch: PyTorch cannot be imported ({error}); pip install torch"
            ) from error
        torch = self.torch
        if device.type == "cuda" and not torch.cuda.is_available():
            raise RuntimeError(
                f"--compare torch: PyTorch {torch.__version__} sees no GPU; "
                "install one built for CUDA, or compare on --device cpu"
            )
        self.on_gpu = device.type == "cuda"
        self.device = torch.device(str(device))
        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(threads)

    def close(self) -> None:
        """Give PyTorch its number of threads back."""
        self.torch.set_num_threads(self._threads_before)

    def give_memory_back(self) -> None:
        """Release the memory of the GPU that PyTorch keeps without using it."""
        self.torch.cuda.empty_cache()

    def environment(self) -> Environment:
        """What to say of PyTorch beside the engine's environment."""
        torch = self.torch
        found = {"torch": str(torch.__version__), "torch_threads": torch.get_num_threads()}
        if self.on_gpu:
            found.update(
                torch_cuda=torch.version.cuda,
                cudnn=torch.backends.cudnn.version(),
                torch_gpu=torch.cuda.get_device_name(self.device),
            )
        return found

    def products(self) -> dict[str, Function]:
        """Its float32 matrix product, which may be the machine's peak."""
        size = peaks.GEMM_SIZES["cuda" if self.on_gpu else "cpu"]
        x = self.torch.full((size, size), 0.5, device=self.device)

        def product() -> None:
            with self.setting("fp32"):
                self.torch.mm(x, x)

        return {"PyTorch": product}

    def variants(self, row: Row, setup: Setup) -> Sequence[Variant]:
        """How PyTorch does a row: in each precision that the engine's are compared with."""
        if isinstance(row, EpochRow):
            return [Variant("PyTorch", mode, "fp32") for mode in torch_epoch.LOADERS]
        if isinstance(row, ProductsRow):  # of the machine
            return []
        if not self.on_gpu:
            return [EAGER]
        modes: tuple[str, ...] = MODES if isinstance(row, NetRow) else MODES[:1]
        if isinstance(row, CaseRow) and row.geometry is not None:
            modes = MODES[:2]
        classes = dict.fromkeys(variant.accuracy for variant in row.variants(setup))
        return [
            Variant("PyTorch", mode, precision)
            for precision in classes
            for mode in modes
            if not setup.modes or mode in setup.modes
        ]

    def call(self, row: Row, variant: Variant = EAGER) -> Call:
        """The row's call in PyTorch."""
        return _call(row, self, variant)

    def tensor(self, array: Array) -> Any:
        """A contiguous copy on the device."""
        dense = np.ascontiguousarray(array).reshape(array.shape)  # a scalar stays one
        return self.torch.tensor(dense, device=self.device)

    def comparable(self, row: Row) -> bool:
        """Whether its result can be checked: random numbers of dropout are other than ours."""
        if isinstance(row, OverheadRow):
            return self.comparable(row.inner)
        if not (isinstance(row, NetRow) and row.training):
            return True
        return not any(isinstance(layer, Dropout) for layer in row.model(CPU).modules())

    @contextmanager
    def setting(self, precision: str = "fp32") -> Iterator[None]:
        """Within it, on a GPU: cuDNN's benchmark mode, and a precision.

        `torch.backends.cudnn.allow_tf32` is True by default, so that a convolution "in float32"
        is one of 10-bit mantissas: here "fp32" switches that off.
        """
        if not self.on_gpu:
            yield
            return
        cudnn, matmul = self.torch.backends.cudnn, self.torch.backends.cuda.matmul
        before = cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
        cudnn.benchmark = True
        cudnn.allow_tf32 = matmul.allow_tf32 = precision == "tf32"
        try:
            yield
        finally:
            cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before

    def autocast(self, precision: str) -> AbstractContextManager[Any]:
        """Around each forward pass by itself: it keeps rounded weights until it is left."""
        kinds = {"bf16": self.torch.bfloat16, "fp16": self.torch.float16}
        if precision not in kinds:
            return nullcontext()
        found: AbstractContextManager[Any] = self.torch.autocast("cuda", dtype=kinds[precision])
        return found


def arrays(tensors: Any) -> list[Array]:
    """Tensors on the host, in float32 at least."""
    return [tensor.detach().float().cpu().numpy() for tensor in tensors]


@functools.singledispatch
def _call(row: Row, opponent: Opponent, variant: Variant) -> Call:
    raise TypeError(f"--compare torch: no counterpart of {type(row).__name__}")


@_call.register
def _case(row: CaseRow, opponent: Opponent, variant: Variant) -> Call:
    torch = opponent.torch
    tensors = [None if a is None else opponent.tensor(a) for a in row.arrays()]
    if variant.mode == "channels_last":
        tensors = [torch_nets.channels_last(torch, tensor) for tensor in tensors]
    home = torch.nn.functional if hasattr(torch.nn.functional, row.case.op) else torch
    function, attributes = getattr(home, row.case.op), row.case.attributes

    def setting() -> Any:
        return opponent.setting(variant.precision)

    if not row.wanted:

        def forward() -> Any:
            with torch.no_grad(), opponent.autocast(variant.precision):
                return function(*tensors, **attributes)

        return Call(forward, lambda y: arrays([y]), setting)
    sources: list[Any] = [tensors[number] for number in row.wanted]
    for source in sources:
        source.requires_grad_()
    with setting(), opponent.autocast(variant.precision):
        y = function(*tensors, **attributes)
    dy = opponent.tensor(upstream(tuple(y.shape))).to(y.dtype)
    if variant.mode == "channels_last":
        dy = torch_nets.channels_last(torch, dy)
    return Call(lambda: torch.autograd.grad(y, sources, dy, retain_graph=True), arrays, setting)


@_call.register
def _optimizer(row: OptimizerRow, opponent: Opponent, variant: Variant) -> Call:
    values, gradients = row.arrays()
    parameters = [opponent.tensor(value).requires_grad_() for value in values]
    for parameter, gradient in zip(parameters, gradients):
        parameter.grad = opponent.tensor(gradient)
    kind: Callable[..., Any] = getattr(opponent.torch.optim, row.optimizer)
    optimizer = kind(parameters, **OPTIONS[row.optimizer])
    optimizer.step()
    return Call(optimizer.step, lambda _: arrays(parameters))


@_call.register
def _overhead(row: OverheadRow, opponent: Opponent, variant: Variant) -> Call:
    return _call(row.inner, opponent, variant)


@_call.register
def _net(row: NetRow, opponent: Opponent, variant: Variant) -> Call:
    return torch_nets.call(row, opponent, variant)


@_call.register
def _epoch(row: EpochRow, opponent: Opponent, variant: Variant) -> Call:
    return torch_epoch.call(row, opponent, variant)
