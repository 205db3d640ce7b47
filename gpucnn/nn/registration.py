"""How a module holds parameters, buffers and other modules: assigning an attribute registers it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from gpucnn.core.tensor import Tensor
from gpucnn.nn.hooks import Hooks
from gpucnn.nn.parameter import Parameter

if TYPE_CHECKING:
    from gpucnn.nn.module import Module


def _wrong_kind(value: object, kind: str, name: str, expected: str) -> str:
    return (
        f"cannot assign '{type(value).__name__}' object to {kind} '{name}' "
        f"({expected} or None required)"
    )


class Registration:
    """The tables of a module and the attribute access that goes through them."""

    training: bool
    _parameters: dict[str, Parameter | None]
    _buffers: dict[str, Tensor | None]
    _modules: dict[str, Module | None]
    _non_persistent_buffers: set[str]
    _host_buffers: tuple[str, ...] = ()
    _forward_hooks: Hooks
    _forward_pre_hooks: Hooks

    def __init__(self) -> None:
        values = self.__dict__
        values["training"] = True
        for name in ("_parameters", "_buffers", "_modules"):
            values[name] = {}
        values["_non_persistent_buffers"] = set()
        values["_forward_hooks"] = OrderedDict()
        values["_forward_pre_hooks"] = OrderedDict()

    def __setattr__(self, name: str, value: Any) -> None:
        tables = self.__dict__
        if isinstance(value, Parameter):
            self._check_initialised("parameters")
            self._forget(name, except_for="_parameters")
            self.register_parameter(name, value)
        elif isinstance(value, Registration):
            self._check_initialised("modules")
            self._forget(name, except_for="_modules")
            self._modules[name] = cast("Module", value)
        elif name in tables.get("_parameters", ()):
            if value is not None:
                raise TypeError(_wrong_kind(value, "parameter", name, "gpucnn.nn.Parameter"))
            self._parameters[name] = None
        elif name in tables.get("_modules", ()):
            if value is not None:
                raise TypeError(_wrong_kind(value, "child module", name, "gpucnn.nn.Module"))
            self._modules[name] = None
        elif name in tables.get("_buffers", ()):
            if not (value is None or isinstance(value, Tensor)):
                raise TypeError(_wrong_kind(value, "buffer", name, "gpucnn.Tensor"))
            self._buffers[name] = value
        else:
            object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        # Called only when the usual look-up fails.
        tables = self.__dict__
        for table in ("_parameters", "_buffers", "_modules"):
            try:
                return tables[table][name]
            except KeyError:
                continue
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")

    def __delattr__(self, name: str) -> None:
        for table in (self._parameters, self._buffers, self._modules):
            if name in table:
                del table[name]
                self._non_persistent_buffers.discard(name)
                return
        object.__delattr__(self, name)

    def __dir__(self) -> list[str]:
        names = [*super().__dir__(), *self._parameters, *self._buffers, *self._modules]
        return sorted(name for name in set(names) if not name[:1].isdigit())

    def _check_initialised(self, what: str) -> None:
        if "_parameters" not in self.__dict__:
            raise AttributeError(f"cannot assign {what} before Module.__init__() call")

    def _forget(self, name: str, except_for: str) -> None:
        self.__dict__.pop(name, None)
        for table in ("_parameters", "_buffers", "_modules"):
            if table != except_for:
                self.__dict__[table].pop(name, None)
        self._non_persistent_buffers.discard(name)

    def _check_name(self, kind: str, name: str, table: Mapping[str, Any]) -> None:
        self._check_initialised(f"{kind}s")
        if not isinstance(name, str):
            raise TypeError(f"{kind} name should be a string. Got {type(name).__name__}")
        if "." in name:
            raise KeyError(f'{kind} name can\'t contain ".", got: {name}')
        if name == "":
            raise KeyError(f'{kind} name can\'t be empty string ""')
        if hasattr(self, name) and name not in table:
            raise KeyError(f"attribute '{name}' already exists")

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Hold `param` under `name`; None reserves the name for an absent parameter."""
        self._check_name("parameter", name, self.__dict__.get("_parameters", {}))
        if not (param is None or isinstance(param, Parameter)):
            raise TypeError(_wrong_kind(param, "parameter", name, "gpucnn.nn.Parameter"))
        if param is not None and not param.is_leaf:
            raise ValueError(
                f"Cannot assign non-leaf Tensor to parameter '{name}'. Model parameters must be "
                "created explicitly."
            )
        self._parameters[name] = param

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Hold `tensor`, which is not trained, under `name`; in state_dict where `persistent`."""
        self._check_name("buffer", name, self.__dict__.get("_buffers", {}))
        if not (tensor is None or isinstance(tensor, Tensor)):
            raise TypeError(_wrong_kind(tensor, "buffer", name, "gpucnn.Tensor"))
        self._buffers[name] = tensor
        if persistent:
            self._non_persistent_buffers.discard(name)
        else:
            self._non_persistent_buffers.add(name)

    def add_module(self, name: str, module: Module | None) -> None:
        """Hold `module` under `name`."""
        self._check_name("module", name, self.__dict__.get("_modules", {}))
        if not (module is None or isinstance(module, Registration)):
            raise TypeError(f"{type(module).__name__} is not a Module subclass")
        self._modules[name] = module

    register_module = add_module
