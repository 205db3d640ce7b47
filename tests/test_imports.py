"""What importing the package loads, and which layer may import which."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import gpucnn

PACKAGE = Path(gpucnn.__file__).parent

# From the lowest to the highest; a module may import from its own row and from those above it in
# this table. `gpucnn` is the package's own file.
LAYERS = [
    {"version", "emulator", "kernels"},
    {"ops.geometry"},  # pure size arithmetic, on both sides of the seam
    {"backends"},
    {"core", "random", "cuda"},
    {"ops", "recorded"},
    {"kernel"},
    {"gpucnn"},
    {"nn"},
    {"models", "data", "optim", "serialization", "cases"},
    {"training"},
    {"benchmarks"},
    {"cli"},
    {"__main__"},
]
# Upwards all the same, inside a function; each with its reason.
ALLOWED = {
    # A check of the layers above, for which users look beside autograd.
    ("core.gradcheck", "ops.creation"),
    # Devices by name: registering the host runtime needs the key that `backends.get` is asked for.
    ("backends.gpu.host", "core.device"),
}


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


HEAVY = ["cupy", "rich", "PIL", "matplotlib", "onnx", "torch", "safetensors", "click"]


@pytest.mark.parametrize(
    "statement",
    [
        "import gpucnn",
        "import gpucnn; gpucnn.tensor([1.0], device='cpu') + 1",
        "import gpucnn.nn, gpucnn.optim, gpucnn.models, gpucnn.data",
    ],
)
def test_import_loads_no_large_library(statement: str) -> None:
    loaded = run(f"import sys\n{statement}\nprint(*sys.modules)").split()
    assert not {name.partition(".")[0] for name in loaded} & set(HEAVY)


def test_import_loads_no_package_beside_the_core() -> None:
    loaded = run("import sys, gpucnn\nprint(*sys.modules)").split()
    beside = {"nn", "optim", "data", "models", "training", "cli", "benchmarks", "serialization"}
    assert not {f"gpucnn.{name}" for name in beside} & set(loaded)


def test_help_imports_no_command() -> None:
    code = (
        "import sys, gpucnn.cli\n"
        "try: gpucnn.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print('loaded:', *sys.modules)"
    )
    loaded = run(code).split("loaded:")[1].split()
    assert not {name.partition(".")[0] for name in loaded} & (set(HEAVY) - {"click"})
    assert [name for name in loaded if name.startswith("gpucnn.cli.")] == ["gpucnn.cli.errors"]


def _modules() -> dict[str, Path]:
    """Dotted name below gpucnn -> file; the folders behind symbolic links too."""
    folders = [PACKAGE, *(PACKAGE / name for name in ("cli", "benchmarks", "kernels"))]
    found = {}
    for path in {file for folder in folders for file in folder.rglob("*.py")}:
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "gpucnn"] = path
    return found


MODULES = _modules()


@cache
def imports(name: str) -> tuple[str, ...]:
    """The modules that a file imports when it runs: dotted names, below gpucnn without `gpucnn.`"""
    return tuple(_imports(name, MODULES[name]))


def _imports(name: str, path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(below)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for below in ast.walk(node)
    }
    package = [] if name == "gpucnn" else name.split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield _below(alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            base = node.module.split(".") if node.module else []
            if node.level:
                base = ["gpucnn", *package[: len(package) + 1 - node.level], *base]
            for alias in node.names:
                inner = _below([*base, alias.name])
                yield inner if inner in MODULES else _below(base)


def _below(parts: list[str]) -> str:
    if parts[0] != "gpucnn":
        return f"/{'.'.join(parts)}"  # somebody else's
    return ".".join(parts[1:]) or "gpucnn"


def _rank(name: str) -> int:
    for key in (name, name.partition(".")[0]):
        for rank, layer in enumerate(LAYERS):
            if key in layer:
                return rank
    raise AssertionError(f"gpucnn.{name} stands in no layer: add it to LAYERS")


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"gpucnn"}))
def test_direction(name: str) -> None:
    for imported in imports(name):
        if imported.startswith("/") or (name, imported) in ALLOWED:
            continue
        assert _rank(imported) <= _rank(name), f"gpucnn.{name} imports gpucnn.{imported}"


def test_only_one_file_imports_cupy() -> None:
    importing = {
        name
        for name in MODULES
        for imported in imports(name)
        if imported.split(".")[0] in ("/cupy", "/cupyx", "/cupy_backends")
    }
    assert importing == {"backends.gpu.cuda"}


def test_the_emulator_stands_alone() -> None:
    for name in MODULES:
        if name.partition(".")[0] == "emulator":
            own = [i for i in imports(name) if not i.startswith(("/", "emulator"))]
            assert not own, f"gpucnn.{name} imports {own}"
