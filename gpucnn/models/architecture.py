"""A net as JSON and back: {"model": name, "options": ...}, {"layer": name, "options": ...} or
{"layer": "Sequential", "children": [[name, ...], ...]}.

Only the layers and nets listed here and in the registry can be written or made, with options of
the listed kinds: what a file says is looked up, never executed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from gpucnn import nn
from gpucnn.models import registry
from gpucnn.models.registry import Model
from gpucnn.nn.building import TooLargeError
from gpucnn.nn.module import Module

_MAX_DEPTH = 64
_MAX_MODULES = 100_000


class ArchitectureError(ValueError):
    """A net that cannot be described, or a description that is not of a net."""


def _is_whole(value: Any) -> bool:
    return type(value) is int


def _is_size(value: Any) -> bool:
    both = value if type(value) is list and len(value) == 2 else [value]
    return all(map(_is_whole, both))


def _is_optional_size(value: Any) -> bool:
    both = value if type(value) is list and len(value) == 2 else [value]
    return all(v is None or _is_whole(v) for v in both)


def _is_flag(value: Any) -> bool:
    return type(value) is bool


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


_KINDS: dict[str, Callable[[Any], bool]] = {
    "whole": _is_whole,
    "size": _is_size,
    "optional size": _is_optional_size,
    "size or text": lambda value: type(value) is str or _is_size(value),
    "flag": _is_flag,
    "number": _is_number,
    "text": lambda value: type(value) is str,
    "optional whole": lambda value: value is None or _is_whole(value),
    "optional number": lambda value: value is None or _is_number(value),
}

_NORM = {
    "num_features": "whole",
    "eps": "number",
    "momentum": "optional number",
    "affine": "flag",
    "bias": "flag",
    "track_running_stats": "flag",
}

_OPTIONS: dict[type[Module], dict[str, str]] = {
    nn.Conv2d: {
        "in_channels": "whole",
        "out_channels": "whole",
        "kernel_size": "size",
        "stride": "size",
        "padding": "size or text",
        "dilation": "size",
        "groups": "whole",
        "bias": "flag",
        "padding_mode": "text",
    },
    nn.Linear: {"in_features": "whole", "out_features": "whole", "bias": "flag"},
    nn.MaxPool2d: {
        "kernel_size": "size",
        "stride": "size",
        "padding": "size",
        "dilation": "size",
        "return_indices": "flag",
        "ceil_mode": "flag",
    },
    nn.AvgPool2d: {
        "kernel_size": "size",
        "stride": "size",
        "padding": "size",
        "ceil_mode": "flag",
        "count_include_pad": "flag",
        "divisor_override": "optional whole",
    },
    nn.AdaptiveAvgPool2d: {"output_size": "optional size"},
    nn.BatchNorm1d: _NORM,
    nn.BatchNorm2d: _NORM,
    nn.Dropout: {"p": "number", "inplace": "flag"},
    nn.Flatten: {"start_dim": "whole", "end_dim": "whole"},
    nn.ReLU: {"inplace": "flag"},
    nn.Sigmoid: {},
    nn.Tanh: {},
    nn.Softmax: {"dim": "optional whole"},
    nn.LogSoftmax: {"dim": "optional whole"},
    nn.Identity: {},
}
_LAYERS = {cls.__name__: cls for cls in _OPTIONS}


# ---- writing


def describe(module: Module) -> dict[str, Any]:
    """The JSON description of a net made of standard layers, Sequential and registered models.

    Raises:
        ArchitectureError: some module is of another class.
    """
    return _describe(module, "")


def _describe(module: Module, path: str) -> dict[str, Any]:
    cls = type(module)
    if isinstance(module, Model) and registry.is_registered(cls):
        return _plain(module.architecture)
    if cls is nn.Sequential:
        return {
            "layer": "Sequential",
            "children": [
                [name, _describe(child, f"{path}.{name}" if path else name)]
                for name, child in module._modules.items()
                if child is not None
            ],
        }
    if cls not in _OPTIONS:
        where = f"module {path!r} is a {cls.__name__}" if path else f"it is a {cls.__name__}"
        raise ArchitectureError(
            f"{where}, and only Sequential, the standard layers and the models of gpucnn.models "
            "can be stored with their architecture; save model.state_dict() instead"
        )
    options = {name: _plain(getattr(module, name)) for name in _OPTIONS[cls] if name != "bias"}
    if "bias" in _OPTIONS[cls]:
        options["bias"] = module.bias is not None
    return {"layer": cls.__name__, "options": options}


def _plain(value: Any) -> Any:
    """As JSON has it: lists for tuples, Python numbers for NumPy's."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(entry) for entry in value]
    return value.item() if isinstance(value, np.generic) else value


# ---- reading


class _Count:
    """How many modules have been made so far, on all levels."""

    def __init__(self) -> None:
        self._made = 0

    def one_more(self) -> None:
        self._made += 1
        if self._made > _MAX_MODULES:
            raise ArchitectureError(f"more than {_MAX_MODULES} modules")


def build(architecture: Any) -> Module:
    """The net that a description describes, with initial values.

    Raises:
        ArchitectureError: an unknown layer, model or option, a value of the wrong kind or out of
            range, or too deep a nesting.
    """
    return _build(architecture, 0, _Count())


def _build(entry: Any, depth: int, count: _Count) -> Module:
    count.one_more()
    if depth > _MAX_DEPTH:
        raise ArchitectureError(f"nested deeper than {_MAX_DEPTH} levels")
    if not isinstance(entry, dict):
        raise ArchitectureError(f"expected an object with 'layer' or 'model', got {_short(entry)}")
    if set(entry) == {"layer", "children"} and entry["layer"] == "Sequential":
        return _build_sequential(entry["children"], depth, count)
    kind = next((k for k in ("layer", "model") if set(entry) == {k, "options"}), None)
    if kind is None or not isinstance(entry["options"], dict):
        raise ArchitectureError(f"expected an object with 'layer' or 'model', got {_short(entry)}")
    name, options = entry[kind], entry["options"]
    if not isinstance(name, str) or len(name) > 100:
        raise ArchitectureError(f"there is no {kind} {_short(name)}")
    try:
        if kind == "model":
            return registry.create(name, **options)
        return _build_layer(name, options)
    except TooLargeError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        raise ArchitectureError(str(error)) from None


def _build_sequential(children: Any, depth: int, count: _Count) -> Module:
    pairs = children if isinstance(children, list) else [None]
    modules: OrderedDict[str, Module] = OrderedDict()
    for pair in pairs:
        if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)):
            raise ArchitectureError(f"Sequential: expected [name, module], got {_short(pair)}")
        if pair[0] in modules:
            raise ArchitectureError(f"Sequential: two modules are called {_short(pair[0])}")
        modules[pair[0]] = _build(pair[1], depth + 1, count)
    try:
        return nn.Sequential(modules)
    except KeyError as error:  # a name that no module can have
        raise ArchitectureError(f"Sequential: {error.args[0]}") from None


def _build_layer(name: str, options: dict[str, Any]) -> Module:
    cls: Any = _LAYERS.get(name)
    if cls is None:
        raise ArchitectureError(f"there is no layer {_short(name)}")
    known = _OPTIONS[cls]
    for option, value in options.items():
        if option not in known:
            raise ArchitectureError(f"{name}: there is no option {_short(option)}")
        if not _KINDS[known[option]](value):
            raise ArchitectureError(
                f"{name}: {option} must be of kind {known[option]!r}, got {_short(value)}"
            )
    arguments = {key: tuple(v) if isinstance(v, list) else v for key, v in options.items()}
    layer: Module = cls(**arguments)
    return layer


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
