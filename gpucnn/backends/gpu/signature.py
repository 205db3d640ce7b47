"""Read the entries of a CUDA source: names, parameters, launch bounds, and the structs passed by
value.

This is no C++ parser. It reads what the kernels' rules allow (CONTRIBUTING.md): an entry is either
`extern "C" __global__ void __launch_bounds__(N) name(parameters) {` or a macro whose body holds
such a line, stamped at the start of a line as `MACRO(arguments)`. Types and numbers may be
object-like macros, typedefs and `constexpr int`s. Entries, and the macros and typedefs that their
parameter lists use, stand outside `#if`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

_BASIC = {
    "bool": "?",
    "char": "i1", "signed char": "i1", "unsigned char": "u1",
    "short": "i2", "unsigned short": "u2",
    "int": "i4", "unsigned int": "u4", "unsigned": "u4",
    "long long": "i8", "long long int": "i8",
    "unsigned long long": "u8", "unsigned long long int": "u8",
    "float": "f4", "double": "f8",
    "long": "l", "unsigned long": "L", "size_t": "P", "ptrdiff_t": "p",
}  # fmt: skip
_VECTOR = re.compile(r"(char|uchar|short|ushort|int|uint|longlong|ulonglong|float|double)([234])")
_VECTOR_BASE = {"uchar": "unsigned char", "ushort": "unsigned short", "uint": "unsigned int",
                "longlong": "long long", "ulonglong": "unsigned long long"}  # fmt: skip
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_OBJECT_MACRO = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(\w+)(?!\()[ \t]+([^\n]+)$", re.MULTILINE)
_FUNCTION_MACRO = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(\w+)\(([^)]*)\)([^\n]*)$", re.MULTILINE)
_CONSTANT = re.compile(r"\bconstexpr\s+(?:unsigned\s+)?(?:int|long\s+long)\s+(\w+)\s*=\s*([^;]+);")
_TYPEDEF = re.compile(r"\btypedef\s+([\w\s]+?)\s+(\w+)\s*;|\busing\s+(\w+)\s*=\s*([\w\s]+?)\s*;")
_STRUCT = re.compile(r"\bstruct\s+(\w+)\s*\{([^{}]*)\}\s*;")
_ENTRY = re.compile(r'extern\s+"C"\s+__global__\s+void\b')
_NAME_OF_ENTRY = re.compile(r"\s*(\w+)\s*(?=\()")
_QUALIFIERS = frozenset(
    {"const", "volatile", "__restrict__", "__restrict", "__grid_constant__", "struct"}
)


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel; `dtype` is that of the elements if it is a pointer."""

    name: str
    declaration: str
    dtype: np.dtype[Any]
    pointer: bool
    const: bool

    @cached_property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest value of an integer parameter."""
        info = np.iinfo(self.dtype)
        return int(info.min), int(info.max)


@dataclass(frozen=True)
class Entry:
    parameters: tuple[Parameter, ...]
    launch_bounds: int


@dataclass(frozen=True)
class Source:
    """What `parse` found: kernels by name in the order of the text, and structs by name."""

    entries: dict[str, Entry]
    structs: dict[str, np.dtype[Any]]


def parse(source: str) -> Source:
    """The kernels and structs of a spliced source (its defines in front).

    Raises ValueError, naming the kernel, for what it cannot read: an unknown type, no launch
    bounds, a name used twice.
    """
    text = _COMMENT.sub(" ", source).replace("\\\n", " ")
    types = _Types(text)
    entries: dict[str, Entry] = {}
    for declaration in _declarations(text):
        name, entry = _entry(declaration, types)
        if name in entries:
            raise ValueError(f"kernel '{name}' is defined twice")
        entries[name] = entry
    return Source(entries, types.structs)


def names(source: str) -> tuple[str, ...]:
    """The kernels' names in the order of the text; defines that it leaves open do not matter."""
    text = _COMMENT.sub(" ", source).replace("\\\n", " ")
    return tuple(_head(declaration)[1][1] for declaration in _declarations(text))


def declare_plainly(source: str) -> str:
    """A user's text in the form that `parse` reads: launch bounds behind `void`, 1024 where there
    are none.
    """
    bounds = r"(__launch_bounds__\s*\((?:[^()]|\([^()]*\))*\))"
    return re.sub(
        rf"__global__\s+{bounds}?\s*void\s+{bounds}?",
        lambda m: f"__global__ void {m[1] or m[2] or '__launch_bounds__(1024)'} ",
        _COMMENT.sub(" ", source),
    )


def _declarations(text: str) -> Iterator[str]:
    """The text from behind `__global__ void` of each entry, macros stamped, in the order of the
    text.
    """
    stamps = {
        m[1]: (_split(m[2]), m[3]) for m in _FUNCTION_MACRO.finditer(text) if _ENTRY.search(m[3])
    }
    plain = re.sub(r"^[ \t]*#[^\n]*$", "", text, flags=re.MULTILINE)
    alternatives = "|".join([_ENTRY.pattern, *(rf"^[ \t]*{name}(?=\()" for name in stamps)])
    for match in re.finditer(alternatives, plain, re.MULTILINE):
        stamp = stamps.get(match[0].strip())
        if stamp is None:
            yield plain[match.end() :]
            continue
        names, body = stamp
        values = _split(_parenthesised(plain, match.end()))
        if len(values) < len(names) and names[-1] != "...":
            raise ValueError(f"{match[0].strip()}: takes {len(names)} arguments, got {values}")
        body = re.sub(r"\s*##\s*", "##", body)
        for name, value in zip(names, values, strict=False):
            body = re.sub(rf"\b{re.escape(name)}\b", lambda _, value=value: value, body)  # type: ignore[misc]
        body = body.replace("##", "")
        for found in _ENTRY.finditer(body):
            yield body[found.end() :]


def _head(declaration: str) -> tuple[str | None, re.Match[str]]:
    """What stands in `__launch_bounds__`, if it is there, and the match of the name."""
    bounds = re.match(r"\s*__launch_bounds__\s*(?=\()", declaration)
    start = bounds.end() if bounds else 0
    inside = _parenthesised(declaration, start) if bounds else ""
    name = _NAME_OF_ENTRY.match(declaration, start + len(inside) + 2 if bounds else 0)
    if name is None:
        raise ValueError(f"no kernel name in '{declaration[:60].strip()}'")
    return inside if bounds else None, name


def _entry(declaration: str, types: _Types) -> tuple[str, Entry]:
    bounds, name = _head(declaration)
    if bounds is None:
        raise ValueError(f"kernel '{name[1]}' has no __launch_bounds__")
    parameters = tuple(
        types.parameter(name[1], text)
        for text in _split(_parenthesised(declaration, name.end()))
        if text
    )
    return name[1], Entry(parameters, types.integer(_split(bounds)[0]))


class _Types:
    """The macros, constants, typedefs and structs of a text, and what they make of a
    declaration.
    """

    def __init__(self, text: str) -> None:
        self.names: dict[str, str] = {}
        for m in (*_OBJECT_MACRO.finditer(text), *_CONSTANT.finditer(text)):
            # The first one holds: the module's defines stand in front of a file's #ifndef defaults.
            self.names.setdefault(m[1], m[2].strip())
        for m in _TYPEDEF.finditer(text):
            self.names.update({m[2]: m[1]} if m[2] else {m[3]: m[4]})
        self.structs: dict[str, np.dtype[Any]] = {}
        for m in _STRUCT.finditer(text):
            members = [self._member(member) for member in _members(m[2])]
            if None in members:
                continue  # not a plain struct: no dtype, so no parameter by value can be of it
            # align=True applies the C rules for offsets and padding, which the device compiler
            # follows as well.
            self.structs[m[1]] = np.dtype(members, align=True)

    def parameter(self, kernel: str, text: str) -> Parameter:
        """A parameter declaration such as `const real* __restrict__ x`."""
        words = re.findall(r"\w+|\*|\S", text)
        name = words[-1]
        dtype = self.dtype([word for word in words[:-1] if word != "*"], "*" in words)
        if dtype is None or "*" in words[:-1] and words.count("*") != 1 or not name.isidentifier():
            raise ValueError(f"kernel '{kernel}': cannot read parameter '{text}'")
        return Parameter(name, " ".join(text.split()), dtype, "*" in words, "const" in words)

    def dtype(self, words: list[str], pointer: bool = False) -> np.dtype[Any] | None:
        """The NumPy dtype of a type; vector types only behind a pointer, as their elements."""
        text = " ".join(word for word in words if word not in _QUALIFIERS)
        for _ in range(16):
            text, before = " ".join(self.names.get(word, word) for word in text.split()), text
            if text == before:
                break
        text = " ".join(word for word in text.split() if word not in _QUALIFIERS)
        if text in self.structs and not pointer:
            return self.structs[text]
        vector = _VECTOR.fullmatch(text)
        if vector and pointer:
            text = _VECTOR_BASE.get(vector[1], vector[1])
        return np.dtype(_BASIC[text]) if text in _BASIC else None

    def integer(self, text: str) -> int:
        """The value of a constant expression of integers, + - * / and parentheses."""
        for _ in range(16):
            text, before = (
                re.sub(r"[A-Za-z_]\w*", lambda m: f"({self.names.get(m[0], m[0])})", text),
                text,
            )
            text = re.sub(r"\((\w+)\)", r"\1", text)
            if text == before:
                break
        if not re.fullmatch(r"[\d\s()+*/-]+", text):
            raise ValueError(f"'{text}' is no constant integer expression")
        return int(eval(text.replace("/", "//"), {"__builtins__": {}}))

    def _member(self, text: str) -> tuple[str, Any] | tuple[str, Any, tuple[int, ...]] | None:
        match = re.fullmatch(r"([\w\s]+?)\s*\b(\w+)\s*((?:\[[^\]]+\]\s*)*)", text.strip())
        dtype = self.dtype(match[1].split()) if match else None
        if match is None or dtype is None:
            return None
        try:
            sizes = tuple(self.integer(size) for size in re.findall(r"\[([^\]]+)\]", match[3]))
        except ValueError:
            return None  # of a template's shared memory, say: no struct that is passed by value
        return (match[2], dtype, sizes) if sizes else (match[2], dtype)


def _members(body: str) -> Iterator[str]:
    """`int a, b[2]; float c` as `int a`, `int b[2]`, `float c`."""
    for statement in body.split(";"):
        first, *more = (part.strip() for part in statement.split(","))
        if not first:
            continue
        yield first
        kind = re.sub(r"\s*\b\w+\s*(\[[^\]]+\]\s*)*$", "", first)
        for name in more:
            yield f"{kind} {name}"


def _parenthesised(text: str, start: int) -> str:
    """What stands between the parenthesis at `start` and the one that closes it."""
    depth = 0
    for position in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[position], 0)
        if depth == 0:
            return text[start + 1 : position]
    raise ValueError(f"parenthesis not closed in '{text[start : start + 60]}'")


def _split(text: str) -> list[str]:
    """Split at the commas outside parentheses; blanks around the parts are dropped."""
    parts, depth = [""], 0
    for letter in text:
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]
