"""`gpucnn info`."""

from __future__ import annotations

import json
import os
from typing import Any

import click

from gpucnn.cli import options


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
def info(as_json: bool) -> None:
    """Show versions, devices (and why a GPU is not used), threads and folders."""
    facts = _collect()
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    label = max(map(len, facts)) + 2
    for name, value in facts.items():
        lines = _lines(value)
        click.echo("\n".join(f"{name if not i else '':<{label}}{t}" for i, t in enumerate(lines)))


def _lines(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [f"{name}: {_plain(entry)}" for name, entry in value.items()]
    if isinstance(value, list):
        return [line for entry in value for line in [", ".join(_lines(entry))]] or ["none"]
    return [_plain(value)]


def _plain(value: Any) -> str:
    return "none" if value is None else str(value)


def _collect() -> dict[str, Any]:
    import gpucnn
    from gpucnn.data import cache_folder

    reason = gpucnn.cuda.why_not()
    try:
        default = str(gpucnn.default_device())
    except ValueError as error:
        default = f"none ({error})"
    return {
        **options.versions(),
        "packages": _packages(),
        "cuda": "can be used" if reason is None else f"is not used: {reason}",
        "gpus": [] if reason is not None else _gpus(),
        "nvrtc": _compilers(),
        "default device": default,
        "GPUCNN_DEVICE": os.environ.get("GPUCNN_DEVICE"),
        "cpu": {"cores": os.cpu_count(), "gpucnn threads": gpucnn.get_num_threads()},
        "blas": _blas(),
        "cache folder": str(cache_folder()),
        "kernels": _kernels(),
        "models": gpucnn.models.names(),
        "data sets": list(gpucnn.data.NAMES),
    }


def _packages() -> dict[str, str | None]:
    """The libraries around the engine, from their metadata: nothing is imported."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str | None] = {}
    for label, names in {
        "cupy": ("cupy-cuda12x", "cupy-cuda13x", "cupy"),
        "safetensors": ("safetensors",),
        "pillow": ("pillow",),
        "rich": ("rich",),
        "click": ("click",),
        "torch": ("torch",),
    }.items():
        found[label] = None
        for name in names:
            try:
                found[label] = version(name) + (f" ({name})" if len(names) > 1 else "")
            except PackageNotFoundError:
                continue
            break
    return found


def _gpus() -> list[dict[str, Any]]:
    from gpucnn.backends.gpu.cuda import CudaRuntime

    runtimes = [CudaRuntime(0)]
    while True:
        try:
            runtimes.append(CudaRuntime(len(runtimes)))
        except RuntimeError:  # there are no more
            break
    gpus = []
    for runtime in runtimes:
        properties, memory = runtime.properties(), runtime.memory_info()
        major, minor = properties.compute_capability
        gpus.append(
            {
                "device": runtime.name,
                "name": properties.name,
                "compute capability": f"{major}.{minor}",
                "multiprocessors": properties.multiprocessors,
                "memory": f"{memory.free / 2**30:.1f} GiB free of {memory.total / 2**30:.1f}",
            }
        )
    return gpus


def _compilers() -> list[str]:
    """The NVRTC of the installed wheels; CuPy may find another one, of a CUDA installation."""
    from gpucnn.backends.gpu import nvrtc

    try:
        return [f"{major}.{minor}" for major, minor in _versions(nvrtc.compilers())]
    except (OSError, RuntimeError) as error:
        return [f"cannot be loaded: {error}"]


def _versions(compilers: dict[int, Any]) -> list[tuple[int, int]]:
    return [compiler.version for compiler in compilers.values()]


def _blas() -> list[dict[str, Any]]:
    import numpy  # noqa: F401  (its BLAS is listed only once it is loaded)
    from threadpoolctl import threadpool_info

    return [
        {
            "name": library["internal_api"],
            "version": library["version"],
            "threads": library["num_threads"],
            "architecture": library.get("architecture"),
        }
        for library in threadpool_info()
        if library["user_api"] == "blas"
    ]


def _kernels() -> dict[str, int]:
    from gpucnn.backends.gpu import kernel

    files = sorted(kernel.KERNELS.glob("*.cu"))
    # Types that a file leaves open are set when it is used; any will do for counting.
    types = dict.fromkeys(("element", "source", "target", "integer", "word"), "int")
    entries = sum(len(kernel.module(file.name, **types).entries) for file in files)
    return {"files": len(files), "kernels": entries}
