"""CUDA source files as modules: find, splice, parse the entries, check every launch argument.

A module is one `kernels/*.cu` file behind a block of `#define`s. Its text is complete: `#include
"x.cuh"` is replaced by the file (once, with `#line` marks), because CuPy's cache does not look
inside headers and NVRTC would need a search path. `get("gemm.cu", "gemm", real="float")` returns
the entry with its parsed signature; `Kernel.bind` turns the arguments of a launch into exactly what
the driver has to receive, or says which parameter of which kernel is wrong. CuPy itself converts
nothing: a Python float would arrive as a double.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gpucnn.backends.gpu.layout import is_dense
from gpucnn.backends.gpu.signature import Parameter, Source, declare_plainly, names, parse

KERNELS = Path(__file__).resolve().parents[2] / "kernels"
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]+"([^"]+)"[^\n]*$', re.MULTILINE)


@dataclass(frozen=True)
class Strided:
    """An array whose strides the launcher passes to the kernel itself (see `strided`)."""

    array: Any


def strided(array: Any) -> Strided:
    """Mark a launch argument that may have any strides, because the kernel is told them."""
    return Strided(array)


@dataclass(frozen=True)
class Module:
    """One .cu file with its defines: what NVRTC compiles at once.

    `source` is the full text. Modules are equal (and hash equal) when file and defines are, and
    `digest`, which is that of the text where it is a user's.
    """

    file: str
    defines: tuple[tuple[str, str], ...]
    source: str = field(compare=False, repr=False)
    digest: str = field(default="", repr=False)

    @cached_property
    def parsed(self) -> Source:
        return parse(declare_plainly(self.source) if self.digest else self.source)

    @property
    def entries(self) -> tuple[str, ...]:
        """Names of the kernels, in the order of the file."""
        return names(declare_plainly(self.source) if self.digest else self.source)

    def struct(self, name: str) -> np.dtype[Any]:
        """The NumPy dtype of a struct defined in the source: same offsets and size as in CUDA."""
        return self.parsed.structs[name]

    def __str__(self) -> str:
        return " ".join([self.file, *(f"{name}={value}" for name, value in self.defines)])


@dataclass(frozen=True)
class Kernel:
    """One entry of a module: `signature` lists its parameters, `launch_bounds` its largest
    block.
    """

    module: Module
    entry: str
    signature: tuple[Parameter, ...] = field(compare=False)
    launch_bounds: int = field(compare=False)

    def struct(self, name: str) -> np.dtype[Any]:
        """The NumPy dtype of a struct of the module, to be filled for a by-value parameter."""
        return self.module.struct(name)

    def bind(self, arguments: Sequence[Any], owns: Callable[[Any], bool]) -> tuple[Any, ...]:
        """Check `arguments` against the signature and cast the scalars to what the kernel reads.

        `owns(array)` says whether an object is an array of the runtime that launches. Pointers take
        such an array of the parameter's dtype whose elements fill one block of memory in some order
        of the axes (anything else must be wrapped by `strided`), or None. Scalars become NumPy
        scalars of the exact type, structs 0-d arrays of the struct's dtype (the form CuPy copies by
        value).

        Raises TypeError (count, kind, dtype), ValueError (strides), OverflowError (range); each
        names the kernel and the parameter.
        """
        if len(arguments) != len(self.signature):
            names = ", ".join(parameter.name for parameter in self.signature)
            raise TypeError(
                f"{self.entry}: takes {len(self.signature)} arguments "
                f"({names}), got {len(arguments)}"
            )
        return tuple(
            self._pointer(parameter, argument, owns)
            if parameter.pointer
            else self._value(parameter, argument)
            for parameter, argument in zip(self.signature, arguments, strict=True)
        )

    def _pointer(self, parameter: Parameter, argument: Any, owns: Callable[[Any], bool]) -> Any:
        if argument is None:
            return None
        explicit = isinstance(argument, Strided)
        array = argument.array if explicit else argument
        if not owns(array):
            raise TypeError(
                f"{self._at(parameter)}: takes an array of this device or None, got {_kind(array)}"
            )
        if array.dtype != parameter.dtype:
            raise TypeError(
                f"{self._at(parameter)}: takes {parameter.dtype} elements, got {array.dtype}"
            )
        if not explicit and not is_dense(array.shape, array.strides, array.itemsize):
            raise ValueError(
                f"{self._at(parameter)}: takes an array dense in memory, "
                f"got shape {array.shape} with strides {array.strides}"
            )
        return array

    def _value(self, parameter: Parameter, argument: Any) -> Any:
        dtype = parameter.dtype
        if type(argument) is dtype.type and dtype.names is None:
            return argument
        if dtype.names is not None:
            if (
                not isinstance(argument, (np.void, np.ndarray))
                or argument.dtype != dtype
                or argument.size != 1
            ):
                raise TypeError(
                    f"{self._at(parameter)}: takes one structured value of dtype {dtype}, "
                    f"got {_kind(argument)}"
                )
            return np.asarray(argument)
        if dtype.kind == "f":
            if isinstance(argument, bool) or not isinstance(
                argument, (int, float, np.integer, np.floating)
            ):
                raise TypeError(f"{self._at(parameter)}: takes a number, got {_kind(argument)}")
            if -1e38 < argument < 1e38:
                return dtype.type(argument)
            with np.errstate(over="ignore"):
                number = dtype.type(argument)
            if np.isinf(number) and not np.isinf(float(argument)):
                raise OverflowError(
                    f"{self._at(parameter)}: {argument} is outside the range of {dtype}"
                )
            return number
        if dtype.kind == "b":
            if not isinstance(argument, (bool, np.bool_)):
                raise TypeError(f"{self._at(parameter)}: takes a bool, got {_kind(argument)}")
            return np.bool_(argument)
        if not isinstance(argument, (int, np.integer, np.bool_)):
            raise TypeError(f"{self._at(parameter)}: takes an integer, got {_kind(argument)}")
        low, high = parameter.limits
        if not low <= int(argument) <= high:
            raise OverflowError(
                f"{self._at(parameter)}: {argument} is outside {low} to {high} ({dtype})"
            )
        return dtype.type(argument)

    def _at(self, parameter: Parameter) -> str:
        place = f"{self.entry} ({self.module.file})"
        return f"{place}: argument '{parameter.name}' ({parameter.declaration})"


def _kind(value: Any) -> str:
    kind = type(value)
    name = (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )
    dtype = getattr(value, "dtype", None)
    return f"{name} of dtype {dtype}" if dtype is not None else f"{name} {value!r}"


def get(file: str, entry: str, **defines: str | int) -> Kernel:
    """The kernel `entry` of `kernels/<file>` compiled with `#define NAME VALUE` for each of
    `defines`.

    Nothing is compiled here. Raises FileNotFoundError, or LookupError when the file has no such
    entry.
    """
    return _kernel(
        file, entry, tuple(sorted((name, str(value)) for name, value in defines.items()))
    )


def module(file: str, **defines: str | int) -> Module:
    """The module of `kernels/<file>` with these defines."""
    return _module(file, tuple(sorted((name, str(value)) for name, value in defines.items())))


def from_source(
    text: str,
    name: str,
    entry: str,
    defines: Mapping[str, str | int | float] | None = None,
    folder: Path | None = None,
) -> Kernel:
    """The kernel `entry` of a user's own CUDA text, which errors and findings call `name`.

    `#include "x.cuh"` is looked for in `folder`, then among the kernels of this package. The text
    may leave out `extern "C"` and `__launch_bounds__` (1024 then).

    Raises FileNotFoundError (an include), LookupError (no such entry), ValueError (a signature that
    cannot be read).
    """
    places = ((folder,) if folder is not None else ()) + (KERNELS,)
    pairs = tuple(sorted((key, str(value)) for key, value in (defines or {}).items()))
    source = _with_c_names(_text(name, text, pairs, places))
    digest = hashlib.sha256(source.encode()).hexdigest()
    return _entry_of(Module(name, pairs, source, digest), entry)


def _with_c_names(source: str) -> str:
    """The text with `extern "C"` in front of each kernel, so that its name is not mangled."""

    def declare(match: re.Match[str]) -> str:
        before = match.string[: match.start()].rstrip()
        return match[0] if before.endswith(('"C"', ">", "static")) else f'extern "C" {match[0]}'

    return re.sub(r"(?<!\w)__global__(?!\w)", declare, source)


@cache
def _kernel(file: str, entry: str, defines: tuple[tuple[str, str], ...]) -> Kernel:
    return _entry_of(_module(file, defines), entry)


def _entry_of(owner: Module, entry: str) -> Kernel:
    if entry not in owner.parsed.entries:
        raise LookupError(
            f"{owner.file}: no kernel '{entry}', it has {', '.join(owner.entries) or 'none'}"
        )
    found = owner.parsed.entries[entry]
    return Kernel(owner, entry, found.parameters, found.launch_bounds)


@cache
def _module(file: str, defines: tuple[tuple[str, str], ...]) -> Module:
    text = (KERNELS / file).read_text(encoding="utf-8")
    return Module(file, defines, _text(file, text, defines, (KERNELS,)))


def _text(
    file: str, text: str, defines: tuple[tuple[str, str], ...], folders: Sequence[Path]
) -> str:
    """What NVRTC compiles: the defines, then the text with its includes in place."""
    lines = [f"#define {name} {value}" for name, value in defines]
    return "\n".join([*lines, *_splice(file, text, folders, set())]) + "\n"


def _splice(file: str, text: str, folders: Sequence[Path], seen: set[str]) -> Iterator[str]:
    """The lines of a text with its includes in place; a file already seen is left out."""
    seen.add(file)
    yield f'#line 1 "{file}"'
    for number, line in enumerate(text.splitlines(), start=1):
        include = _INCLUDE.match(line)
        if include is None:
            yield line
        elif include[1] in seen:
            yield ""
        else:
            yield from _splice(include[1], _included(include[1], file, folders), folders, seen)
            yield f'#line {number + 1} "{file}"'


def _included(name: str, by: str, folders: Sequence[Path]) -> str:
    for folder in folders:
        if (folder / name).is_file():
            return (folder / name).read_text(encoding="utf-8")
    listed = ", ".join(str(folder) for folder in folders)
    raise FileNotFoundError(f"{by}: no file '{name}' to include in {listed}")
