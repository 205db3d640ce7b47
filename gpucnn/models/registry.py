"""The nets that have a name, and the options that they take."""

from __future__ import annotations

import difflib
import inspect
from typing import Any, ClassVar

import numpy as np

from gpucnn.core.tensor import Tensor
from gpucnn.nn.module import Module
from gpucnn.ops.geometry import pair

Size = int | tuple[int, int]


class Model(Module):
    """A net for images with a name, that knows how it was made.

    Attributes:
        name: what `create` calls it; a class that sets it is registered.
        architecture: {"model": name, "options": {...}}, enough to make the net again.
        input_shape: (C, H, W) of the images that it takes.
        num_classes: the length of the logits that it returns.
    """

    name: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if not cls.__dict__.get("name"):
            return
        known = _models.get(cls.name)
        # The same class once more is a notebook's cell run again.
        if known is not None and (known.__module__, known.__qualname__) != (
            cls.__module__,
            cls.__qualname__,
        ):
            raise ValueError(f"model: the name {cls.name!r} belongs to {known.__qualname__}")
        _models[cls.name] = cls

    def __init__(self, **options: Any) -> None:
        super().__init__()
        options["input_size"] = list(_size(self.name, options["input_size"]))
        self.architecture: dict[str, Any] = {"model": self.name, "options": options}
        self.input_shape = (options["in_channels"], *options["input_size"])
        self.num_classes = options["num_classes"]

    def forward(self, input: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, C, H, W)."""
        logits: Tensor = self.classifier(self.features(input))
        return logits


_models: dict[str, type[Model]] = {}


def _size(call: str, size: Any) -> tuple[int, int]:
    return pair(call, "input_size", tuple(size) if isinstance(size, list) else size, 1)


def names() -> list[str]:
    """The names that `create` knows, sorted."""
    return sorted(_models)


def is_registered(cls: type[Module]) -> bool:
    """Whether `create` makes exactly this class."""
    return any(cls is known for known in _models.values())


def find(name: str) -> type[Model]:
    """The class of a net.

    Raises:
        ValueError: no net has this name; the text offers the nearest.
    """
    if name not in _models:
        near = difflib.get_close_matches(str(name).lower(), names(), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"model: there is no {name!r}; {hint}the models are {', '.join(names())}")
    return _models[name]


def create(name: str, **options: Any) -> Model:
    """Make the net called `name` with PyTorch's default initial values.

    Args:
        options: of the net's constructor: in_channels, num_classes, input_size (one number or
            (H, W)).

    Raises:
        ValueError: an unknown name or option, or a value that the net cannot be made with.
        TypeError: an option of the wrong type.
    """
    cls = find(name)
    parameters = inspect.signature(cls).parameters
    for option, value in options.items():
        if option not in parameters:
            known = ", ".join(parameters)
            raise ValueError(f"{name}: there is no option {option!r}; it takes {known}")
        if option != "input_size":
            options[option] = _checked(name, option, value, parameters[option].default)
    return cls(**options)


def _checked(name: str, option: str, value: Any, default: Any) -> Any:
    """The value, which has the type of the default; a count is at least 1."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(default):
        wanted = type(default).__name__
        raise TypeError(f"{name}: {option} must be of type {wanted}, got {value!r}")
    if type(value) is int and value < 1:
        raise ValueError(f"{name}: {option} must be at least 1, got {value}")
    return value


def fitting(model: Model, height: int, width: int, least: str) -> tuple[int, int]:
    """(height, width) of the last feature map.

    Raises:
        ValueError: nothing is left of an image of the model's input size.
    """
    if height < 1 or width < 1:
        got = model.architecture["options"]["input_size"]
        raise ValueError(f"{model.name}: input_size must be at least {least}, got {tuple(got)}")
    return height, width
