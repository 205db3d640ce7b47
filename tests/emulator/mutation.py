"""Defects seeded into CUDA text: each operator at every place where it fits.

An operator is found by its shape in the text alone (loops, guards, subscripts, barriers, declared
sizes ...), never by what a kernel does. Comments and preprocessor lines are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

OPERATORS = (
    "barrier removed", "buffer index off", "loop bound off by one", "mask dropped", "pad removed",
    "array too short", "wait weakened", "index shifted", "shuffle offset off",
    "initial value changed", "swizzle removed", "address shifted",
)  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One defect: `old` at `start` of a text becomes `new`.

    Attributes:
        operator: which of OPERATORS made it.
        line: the whole source line it starts in, without its indentation.
        place: file and number of that line.
    """

    operator: str
    start: int
    old: str
    new: str
    line: str
    place: str

    def apply(self, text: str) -> str:
        assert text.startswith(self.old, self.start)
        return text[: self.start] + self.new + text[self.start + len(self.old) :]

    def __str__(self) -> str:
        return f"{self.place}: {self.operator}: `{self.old}` -> `{self.new}` in `{self.line}`"


Edit = tuple[int, int, str]  # start, end, replacement

_HIDDEN = re.compile(
    r"//[^\n]*|/\*.*?\*/|^#if __CUDA_ARCH__ < 800$.*?(?=^#e)"
    r"|^[ \t]*#(?!pragma unroll)(?:[^\n]*\\\n)*[^\n]*",
    re.MULTILINE | re.DOTALL,
)
_UNROLLED = re.compile(r"#pragma unroll(?! 1$)[^\n]*")
_MARK = re.compile(r'#line (\d+) "([^"]+)"')


def mutants(text: str) -> list[Mutant]:
    """Every mutant of a text, in its order, no two with the same result."""
    code = _HIDDEN.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    places = _places(text)
    made: dict[Edit, Mutant] = {}
    for operator, find in _FINDERS.items():
        for start, end, new in find(code):
            line, place = places[text.count("\n", 0, start)]
            mutant = Mutant(operator, start, text[start:end], new, line.strip(), place)
            made.setdefault((start, end, new), mutant)
    return sorted(made.values(), key=lambda m: (m.start, len(m.old), m.new))


def _places(text: str) -> list[tuple[str, str]]:
    """Each line and, by the #line marks, its file and number."""
    file, number, places = "?", 0, []
    for line in text.splitlines():
        places.append((line, f"{file}:{number}"))
        mark = _MARK.match(line)
        number = int(mark[1]) if mark else number + 1
        file = mark[2] if mark else file
    return places


def _closing(code: str, start: int) -> int:
    """Where the bracket that opens at `start` closes."""
    depth = 0
    for i in range(start, len(code)):
        depth += code[i] in "([{"
        depth -= code[i] in ")]}"
        if depth == 0:
            return i
    raise ValueError("an open bracket")


def _split(code: str, start: int, end: int, *separators: str) -> Iterator[tuple[int, int]]:
    """The parts of code[start:end] between separators outside all brackets."""
    depth, begin, i = 0, start, start
    while i < end:
        depth += code[i] in "([{"
        depth -= code[i] in ")]}"
        separator = next((s for s in separators if depth == 0 and code.startswith(s, i)), None)
        if separator is not None:
            yield begin, i
            begin = i = i + len(separator)
        else:
            i += 1
    yield begin, end


def _trim(code: str, start: int, end: int) -> tuple[int, int]:
    part = code[start:end]
    return start + len(part) - len(part.lstrip()), end - len(part) + len(part.rstrip())


def _barriers(code: str) -> Iterator[Edit]:
    for found in re.finditer(r"__sync(?:threads|warp)\([^()]*\)", code):
        yield found.start(), found.end(), ""


def _waits(code: str) -> Iterator[Edit]:
    """One group more may be under way; or no wait, or no end of a group, at all."""
    pattern = r"(?:wait_prior(?:<|\()|wait_group |wait_for_\w+<)([\w -]+)(?=[>);])"
    for found in re.finditer(pattern, code):
        number = found[1]
        new = str(int(number) + 1) if number.isdigit() else f"{number} + 1"
        yield found.start(1), found.end(1), new
    pattern = (
        r"__pipeline_wait_prior\([^()]*\)|cp\.async\.wait_all;|cp\.async\.commit_group;"
        r"|(?<!void )\b(?:wait_for_\w+(?:<[^<>]*>)?|commit_\w+)\(\)(?=;)"
    )
    for found in re.finditer(pattern, code):
        yield found.start(), found.end(), ""


def _buffers(code: str) -> Iterator[Edit]:
    """Variables that alternate by `^ 1`, by their sign or around a ring: not advanced, or the other
    buffer taken.
    """
    for name in sorted(set(re.findall(r"\b(\w+) \^= 1\b", code))):
        for found in re.finditer(rf"\b{name} \^= 1\b", code):
            yield found.end() - 1, found.end(), "0"
        for found in re.finditer(rf"\[({name})( \^ 1)?\]", code):
            new = name if found[2] else f"{name} ^ 1"
            yield found.start(1), found.end() - 1, new
    for found in re.finditer(r"\(\w+ \+ 1\) (?:& 1|% \d)", code):
        yield found.start(), found.end(), found[0].replace(" + 1", "")
    for found in re.finditer(r"\((\w+) \^ 1\)", code):
        yield found.start(), found.end(), found[1]
    for negated in re.finditer(r"\b(\w+) = (-\1);", code):
        yield negated.start(2), negated.end(2), negated[1]
        for found in re.finditer(rf"\+= ({negated[1]});", code):
            yield found.start(1), found.end(1), "0"
    for found in re.finditer(r"\b(\w+) = (\1 == [^?;]*?) \? 0 : \1 \+", code):
        yield found.start(2), found.end(2), "false"
    for found in re.finditer(r"\bint (\w+) = ([A-Z]\w+) - (\w+);(?=.*\b\3 = \1;)", code, re.DOTALL):
        yield found.start(2), found.end(3), found[3]


def _loops(code: str) -> Iterator[Edit]:
    for found in re.finditer(r"\bfor \(", code):
        opening = found.end() - 1
        parts = list(_split(code, opening + 1, _closing(code, opening), ";"))
        if len(parts) != 3:
            continue
        start, end = _trim(code, *parts[1])
        # One turn more of a loop over registers is not defined, and compilers leave it out.
        line = code.rfind("\n", 0, code.rfind("\n", 0, found.start())) + 1
        whole = _UNROLLED.fullmatch(code[line : found.start()].strip())
        constant = re.search(r"< [A-Z0-9_:]+$", code[start:end])
        yield from list(_bounds(code, start, end))[1 if whole and constant else 0 :]
    for found in re.finditer(r"\bwhile \(", code):
        yield from _bounds(code, found.end(), _closing(code, found.end() - 1))


def _bounds(code: str, start: int, end: int) -> Iterator[Edit]:
    """A comparison that takes one more, and one that takes one less."""
    sides = re.fullmatch(r"(.*[^<>])\s(<|>|<=|>=)\s([^<>]*)", code[start:end], re.DOTALL)
    if sides is None:
        return
    sign, at = sides[2], start + sides.start(2)
    yield at, at + len(sign), sign[0] if len(sign) == 2 else sign + "="
    bound = start + sides.start(3), start + sides.end(3)
    yield *bound, f"({sides[3]}) {'-' if sign[0] == '<' else '+'} 1"


_GUARD = re.compile(r"\bif \(")
_COMPARED = re.compile(r"[^=<>!]*\s(?:<|<=|>|>=)\s[^<>]*")


def _masks(code: str) -> Iterator[Edit]:
    """Conditions of guards that always hold (those of an early exit never), bounds of min."""
    for found in _GUARD.finditer(code):
        opening = found.end() - 1
        closing = _closing(code, opening)
        leaves = re.match(r"\s*\{?\s*(?:return|continue|break)\b", code[closing + 1 :])
        for part in _split(code, opening + 1, closing, "&&", "||"):
            start, end = _trim(code, *part)
            if not re.fullmatch(r"!?[A-Z_]+", code[start:end]):  # a define: no mask
                yield start, end, "false" if leaves else "true"
    for found in re.finditer(r"[=(,]\s*([^=(,?;{}<>]*\s(?:<|<=|>|>=)\s[^=(,?;{}<>]*?)\s\?", code):
        yield found.start(1), found.end(1), "true"
    for found in re.finditer(r"\breturn ([^;?{}]*\s(?:<|<=|>|>=)\s[^;?{}]*);", code):
        yield found.start(1), found.end(1), "true"
    for found in re.finditer(r"\bmin\(", code):
        closing = _closing(code, found.end() - 1)
        parts = list(_split(code, found.end(), closing, ","))
        for part in parts if len(parts) == 2 else ():
            yield found.start(), closing + 1, f"({code[part[0] : part[1]].strip()})"


_SHARED = re.compile(
    r"__shared__[^;]*;|\btypedef real \w+\[[^;]*\];|\bconstexpr int \w*PITCH\b[^;]*;"
    r"|\b(?:struct|union) (?:Shared|Step) \{[^{}]*\}|\bconstexpr int \w+ = \w+ \+ \d+;"
)


def _pads(code: str) -> Iterator[Edit]:
    for declaration in _SHARED.finditer(code):
        for found in re.finditer(r" (?:\+ \d+|\| 1)\b", declaration[0]):
            yield declaration.start() + found.start(), declaration.start() + found.end(), ""


def _sizes(code: str) -> Iterator[Edit]:
    for declaration in _SHARED.finditer(code):
        for found in re.finditer(r"\[([^\[\]]+)\]", declaration[0]):
            start = declaration.start() + found.start(1)
            yield start, start + len(found[1]), f"({found[1]}) - 1"


_DECLARATION = re.compile(
    r"\s*(?:(?:const|constexpr|static|extern|unsigned|typedef)\s+)*(?!else\b|return\b)"
    r"[\w:]+(?:<[^<>;]*>)?[*&]*\s+[&*(]*\w+\)?(?:\[[^\]]*\])*(?:, \w+(?:\[[^\]]*\])*)*"
)


def _shifts(code: str) -> Iterator[Edit]:
    """Subscripts, index variables and pointers, one further."""
    for found in re.finditer(r"(?<=[\w\])])\[", code):
        before = code[max(code.rfind(c, 0, found.start()) for c in ";{}") + 1 : found.start()]
        parameter = re.search(r"\(&\w+\)(?:\[[^\]]*\])*$", before)
        if "__shared__" in before or parameter or _DECLARATION.fullmatch(before):
            continue
        start, end = found.end(), _closing(code, found.start())
        yield start, end, f"({code[start:end]}) + 1"
    pattern = r"(?<!constexpr )\b(?:int|unsigned|long long|index_t)\s+(?=\w+ = [^;{}]*;)"
    for found in re.finditer(pattern, code):
        end = code.find(";", found.end())
        for part in _split(code, found.end(), end, ","):
            value = code[part[0] : part[1]].partition(" = ")[2]
            if value:
                yield part[1] - len(value), part[1], f"{value} + 1"
    pointers = set(re.findall(r"\*\s*(?:__restrict__\s+)?(\w+)(?=\s*[,)=])", code))
    for name in sorted(pointers):
        for found in re.finditer(rf"(?:\* {name} =|\s{name} \+=)\s+([^;{{}}]+);", code):
            yield found.start(1), found.end(1), f"{found[1]} + 1"


def _shuffles(code: str) -> Iterator[Edit]:
    for found in re.finditer(r"__shfl_\w+\(", code):
        parts = list(_split(code, found.end(), _closing(code, found.end() - 1), ","))
        start, end = _trim(code, *parts[2])
        yield start, end, f"({code[start:end]}) + 1"


def _swizzles(code: str) -> Iterator[Edit]:
    """What is exchanged by an XOR stays in its place."""
    for found in re.finditer(r"(?<=[\w)]) \^ (?!1\b)\w[\w.]*(?: [*/%] \w+)*", code):
        yield found.start(), found.end(), ""


_ACCESS = re.compile(
    r"(?<!void )(?<!unsigned )(?<!Quad )(?<!float4 )\b"
    r"(?:(load)_(?:shared|chunk|pair|word|matrices\w*)|store_(?:shared|chunk)|copy_chunk)\("
)


def _addresses(code: str) -> Iterator[Edit]:
    """Where an access to shared memory by its address begins: 16 bytes or more further."""
    for found in _ACCESS.finditer(code):
        parts = list(_split(code, found.end(), _closing(code, found.end() - 1), ","))
        start, end = _trim(code, *parts[-1 if found[1] else 0])
        yield start, end, f"({code[start:end]}) + 16"


def _initials(code: str) -> Iterator[Edit]:
    """What sums and maxima start from, and what fills the place of elements outside."""
    number = r"\b(?:real|element|float|double|int|index_t)\s[^;(){}]*;"
    for declaration in re.finditer(number, code):
        if code.endswith("for (", 0, declaration.start()):  # where a loop begins: an index
            continue
        for found in re.finditer(r"\b(\w+) = 0(?=[,;])", declaration[0]):
            start, end = (declaration.start() + place for place in found.span())
            yield start, end, f"{found[1]} = 1"
    for found in re.finditer(r"= (negative_infinity\(\))", code):
        yield found.start(1), found.end(1), "0"
    for found in re.finditer(r"= (identity|-INFINITY)(?=;)", code):
        yield found.start(1), found.end(1), "1"
    for found in re.finditer(r"= (\{\}|\{0\})(?=;)", code):
        yield found.start(1), found.end(1), "{1}"


_FINDERS: dict[str, Callable[[str], Iterator[Edit]]] = dict(
    zip(
        OPERATORS,
        (_barriers, _buffers, _loops, _masks, _pads, _sizes, _waits, _shifts, _shuffles, _initials,
         _swizzles, _addresses),
    )
)  # fmt: skip
