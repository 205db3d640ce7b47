"""Forward hooks: functions that a user hangs on a module, and the handle that takes them off."""

from __future__ import annotations

import itertools
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

_numbers = itertools.count()


class Hook(NamedTuple):
    """A registered function and how it wants to be called."""

    function: Callable[..., Any]
    with_kwargs: bool


Hooks = OrderedDict[int, Hook]


class RemovableHandle:
    """What registering a hook returns: `remove()` takes the hook off; usable in a `with` block."""

    def __init__(self, hooks: Hooks) -> None:
        self.id = next(_numbers)
        self._hooks: weakref.ref[Hooks] = weakref.ref(hooks)

    def remove(self) -> None:
        """Take the hook off; a second call does nothing."""
        hooks = self._hooks()
        if hooks is not None:
            hooks.pop(self.id, None)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


def register(
    hooks: Hooks, function: Callable[..., Any], prepend: bool, with_kwargs: bool
) -> RemovableHandle:
    """Add `function` to `hooks`, last or (with `prepend`) first."""
    if not callable(function):
        raise TypeError(f"register hook: expected a function, got {type(function).__name__}")
    handle = RemovableHandle(hooks)
    hooks[handle.id] = Hook(function, with_kwargs)
    if prepend:
        hooks.move_to_end(handle.id, last=False)
    return handle


def call(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`module.forward` between its hooks, each of which may replace what passes it."""
    # Copies of the dictionaries: a hook may remove itself.
    for function, with_kwargs in list(module._forward_pre_hooks.values()):
        result = function(module, args, kwargs) if with_kwargs else function(module, args)
        if result is None:
            continue
        if with_kwargs:
            if not (isinstance(result, tuple) and len(result) == 2):
                raise RuntimeError(
                    "forward pre-hook must return None or a tuple of (new_args, new_kwargs), "
                    f"but got {result}."
                )
            args, kwargs = result
        else:
            args = result if isinstance(result, tuple) else (result,)
    output = module.forward(*args, **kwargs)
    for function, with_kwargs in list(module._forward_hooks.values()):
        if with_kwargs:
            result = function(module, args, kwargs, output)
        else:
            result = function(module, args, output)
        if result is not None:
            output = result
    return output
