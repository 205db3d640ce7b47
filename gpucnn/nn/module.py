"""Module: the base class of layers and nets, with the names and meanings of torch.nn.Module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gpucnn.core import recording
from gpucnn.core.device import Device
from gpucnn.core.precision import checked
from gpucnn.core.precision import precision as in_precision
from gpucnn.core.tensor import Tensor
from gpucnn.nn import convert, hooks, state
from gpucnn.nn.hooks import RemovableHandle
from gpucnn.nn.parameter import Parameter
from gpucnn.nn.registration import Registration

if TYPE_CHECKING:
    from typing_extensions import Self


class Module(Registration):
    """A layer or net: holds parameters, buffers and other modules, and computes `forward`.

    Assigning a `Parameter` or a `Module` to an attribute registers it under that name.
    """

    # ---- calling

    def _forward_missing(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__}: forward is not defined")

    # A declared attribute, not a method, so that subclasses choose their own signature.
    forward: Callable[..., Any] = _forward_missing

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        recorder = recording.state.recorder
        if recorder is not None:
            recorder.enter(self)
        forward = self._hooked if self._forward_hooks or self._forward_pre_hooks else self.forward
        if self._precision is None:
            return forward(*args, **kwargs)
        with in_precision(self._precision):
            return forward(*args, **kwargs)

    def _hooked(self, *args: Any, **kwargs: Any) -> Any:
        recording.unrepeatable(f"{type(self).__name__} has forward hooks")
        return hooks.call(self, args, kwargs)

    _precision: str | None = None

    @property
    def precision(self) -> str | None:
        """What `gpucnn.precision` is while the module is called; None: what it is outside.

        Setting it raises ValueError for an unknown name.
        """
        return self._precision

    @precision.setter
    def precision(self, name: str | None) -> None:
        self._precision = None if name is None else checked("Module.precision", name)

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Call `hook(module, args)` before forward; a returned value replaces the arguments."""
        return hooks.register(self._forward_pre_hooks, hook, prepend, with_kwargs)

    def register_forward_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Call `hook(module, args, output)` after forward; a returned value replaces the output."""
        return hooks.register(self._forward_hooks, hook, prepend, with_kwargs)

    # ---- looking around

    def named_modules(
        self, memo: set[Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """(dotted name, module) of this module and all below it, depth first, each once."""
        memo = set() if memo is None else memo
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
        for name, module in self._modules.items():
            if module is not None:
                below = f"{prefix}.{name}" if prefix else name
                yield from module.named_modules(memo, below, remove_duplicate)

    def modules(self) -> Iterator[Module]:
        """This module and all below it."""
        return (module for _, module in self.named_modules())

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """(name, module) of the modules directly below."""
        seen: set[Module] = set()
        for name, module in self._modules.items():
            if module is not None and module not in seen:
                seen.add(module)
                yield name, module

    def children(self) -> Iterator[Module]:
        """The modules directly below."""
        return (module for _, module in self.named_children())

    def _named(
        self, table: str, prefix: str, recurse: bool, remove_duplicate: bool
    ) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        if recurse:
            modules = self.named_modules(prefix=prefix, remove_duplicate=remove_duplicate)
        else:
            modules = iter([(prefix, self)])
        for path, module in modules:
            for name, value in getattr(module, table).items():
                if value is None or id(value) in seen:
                    continue
                if remove_duplicate:
                    seen.add(id(value))
                yield (f"{path}.{name}" if path else name), value

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """(dotted name, parameter), each once."""
        return self._named("_parameters", prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """The parameters, each once, in the order of registration."""
        return (parameter for _, parameter in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """(dotted name, buffer), each once."""
        return self._named("_buffers", prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """The buffers, each once."""
        return (buffer for _, buffer in self.named_buffers(recurse=recurse))

    def get_submodule(self, target: str) -> Module:
        """The module at the dotted path `target` ("" is this one)."""
        module: Module = self
        for name in target.split(".") if target else ():
            child = module._modules.get(name)
            if child is None:
                raise AttributeError(f"{type(module).__name__} has no submodule `{name}`")
            module = child
        return module

    def get_parameter(self, target: str) -> Parameter:
        """The parameter at the dotted path `target`."""
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        parameter = module._parameters.get(name)
        if parameter is None:
            raise AttributeError(f"{type(module).__name__} has no parameter `{name}`")
        return parameter

    def get_buffer(self, target: str) -> Tensor:
        """The buffer at the dotted path `target`."""
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        buffer = module._buffers.get(name)
        if buffer is None:
            raise AttributeError(f"{type(module).__name__} has no buffer `{name}`")
        return buffer

    # ---- modes, devices and dtypes

    def apply(self, fn: Callable[[Module], None]) -> Self:
        """Call `fn` on every module below and then on this one."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    def train(self, mode: bool = True) -> Self:
        """Switch this module and all below to training (dropout acts, batch norm learns)."""
        if not isinstance(mode, bool):
            raise ValueError("training mode is expected to be boolean")
        self.training = mode
        for child in self.children():
            child.train(mode)
        return self

    def eval(self) -> Self:
        """Switch to evaluation."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Let autograd record the parameters, or freeze them."""
        for parameter in self.parameters():
            parameter.requires_grad = requires_grad
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, or fill them with zero."""
        for parameter in self.parameters():
            if parameter.grad is None:
                continue
            if set_to_none:
                recording.forget_gradient(parameter)
            else:
                parameter.grad.zero_()

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move to a device and, for floating point tensors, to a dtype, in place.

        `to(device=None, dtype=None)`, `to(dtype)`, `to(tensor)`. The Parameter objects stay the
        same, so an optimizer made before goes on with them.

        Raises:
            TypeError: the dtype is not a floating point one.
        """
        device, dtype = convert.parse_to(args, kwargs)
        convert.move_module(self, device, dtype)
        return self

    def cpu(self) -> Self:
        """Move to the cpu."""
        return self.to("cpu")

    def cuda(self, device: int | str | Device | None = None) -> Self:
        """Move to a GPU (the first, or the one named)."""
        return self.to(f"cuda:{device}" if isinstance(device, int) else device or "cuda")

    def float(self) -> Self:
        """Make the floating point parameters and buffers float32."""
        return self.to(np.float32)

    def double(self) -> Self:
        """Make the floating point parameters and buffers float64."""
        return self.to(np.float64)

    # ---- state

    def state_dict(
        self,
        *,
        destination: dict[str, Any] | None = None,
        prefix: str = "",
        keep_vars: bool = False,
    ) -> dict[str, Any]:
        """Parameters and persistent buffers by dotted name, in the order of registration.

        The tensors share the module's memory; they are detached unless `keep_vars`.
        """
        return state.collect(self, {} if destination is None else destination, prefix, keep_vars)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True
    ) -> state.IncompatibleKeys:
        """Copy the values of `state_dict` into the parameters and buffers, in place.

        Values may be tensors of any device and dtype, or arrays; they are converted. Nothing is
        copied unless everything fits.

        Returns:
            The keys that were missing and those that were not expected (empty when `strict`).

        Raises:
            RuntimeError: shapes differ, or (when `strict`) keys are missing or unexpected; the
                text names all of them.
        """
        return state.load(self, state_dict, strict)

    # ---- printing

    def extra_repr(self) -> str:
        """What stands between the brackets of the repr; layers override it."""
        return ""

    def _get_name(self) -> str:
        return type(self).__name__

    def __repr__(self) -> str:
        extra = self.extra_repr().split("\n") if self.extra_repr() else []
        children = [
            f"({name}): " + repr(module).replace("\n", "\n  ")
            for name, module in self._modules.items()
        ]
        lines = extra + children
        if len(lines) <= 1 and not children:
            return f"{self._get_name()}({''.join(lines)})"
        return "\n  ".join([f"{self._get_name()}(", *lines]) + "\n)"
