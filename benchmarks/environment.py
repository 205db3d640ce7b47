"""What a measurement was made on: hardware, libraries, settings, commit."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

import gpucnn
from gpucnn import backends
from gpucnn.benchmarks import malloc
from gpucnn.core.device import Device

Environment = dict[str, Any]

_SETTINGS = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", "OPENBLAS_", "OMP_", "MKL_", "GOMP_")
"""Environment variables that begin so change timings."""


def describe(device: Device, threads: int) -> Environment:
    """Everything that a reader of a timing asks for; values are strings and numbers."""
    found: Environment = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "gpucnn": gpucnn.__version__,
        **_commit(Path(gpucnn.__file__).resolve().parent.parent),
        "device": str(device),
        "cpu": _cpu_model(),
        "cores": _cores(),
        "threads": threads,
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "numpy": np.__version__,
        "blas": _blas(),
        "settings": {k: v for k, v in sorted(os.environ.items()) if k.startswith(_SETTINGS)},
    }
    if device.type == "cuda":
        found.update(gpu(device))
    return found


def lines(environment: Environment) -> list[str]:
    """The environment for people, each line below 100 columns where names allow."""
    e = environment
    commit = f", commit {e['commit'][:10]}" if "commit" in e else ""
    commit += " with changes" if e.get("modified") else ""
    text = [
        f"gpucnn {e['gpucnn']}{commit}, device {e['device']}, float32, Python {e['python']}",
        f"{e['cpu']}, {e['cores']} cores, {e['threads']} threads; NumPy {e['numpy']}, {e['blas']}",
    ]
    if "gpu" in e:
        text.append(f"{e['gpu']}, compute {e['compute_capability']}, driver {e['driver']}")
        text.append(f"CuPy {e['cupy']}, NVRTC {e['nvrtc']}")
    if "clock" in e:
        text.append(
            f"clock {e['clock']} of {e['clock_limit']}, memory {e['memory_clock']}, power "
            f"{e['power']} of {e['power_limit']}, {e['temperature']} C"
        )
    if "cudnn" in e:
        text.append(f"PyTorch {e['torch']}, CUDA {e['torch_cuda']}, cuDNN {e['cudnn']}")
    elif "torch" in e:
        text.append(f"PyTorch {e['torch']}, {e['torch_threads']} threads, eager, NCHW")
    settings = [f"{name}={value}" for name, value in e["settings"].items()]
    text.append(" ".join([f"malloc {malloc.state(e['settings'])}", *settings]))
    if e["load"] is not None and e["load"] > 0.5:
        text.append(
            f"the machine was busy (load average {e['load']}): mind the spread of the times"
        )
    return text


def _commit(root: Path) -> Environment:
    """The commit of the checkout that the package was imported from, if it was."""
    if not (root / ".git").exists() or shutil.which("git") is None:
        return {}
    commit = _output("git", "-C", str(root), "rev-parse", "--verify", "--quiet", "HEAD")
    if not commit:
        return {}
    return {
        "commit": commit,
        "modified": bool(_output("git", "-C", str(root), "status", "--porcelain", "-uno")),
    }


def _output(*command: str) -> str:
    """What a command prints; empty when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            names = [line.partition(":")[2].strip() for line in info if "model name" in line]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _blas() -> str:
    """NumPy's BLAS and the processor it takes this one for: "OpenBLAS 0.3.31 (SkylakeX)"."""
    from threadpoolctl import threadpool_info

    libraries = [library for library in threadpool_info() if library["user_api"] == "blas"]
    numpy_own = [library for library in libraries if "numpy" in library["filepath"].lower()]
    for library in numpy_own or libraries:
        core = library.get("architecture")
        name = {"openblas": "OpenBLAS", "mkl": "MKL", "blis": "BLIS"}.get(
            library["internal_api"], library["internal_api"]
        )
        return f"{name} {library['version']}" + (f" ({core})" if core else "")
    return "BLAS unknown"


def gpu(device: Device) -> Environment:
    """The GPU, its libraries, and (by nvidia-smi) its driver, clocks and power at this moment."""
    properties = backends.get(device).runtime.properties()  # type: ignore[attr-defined]
    found: Environment = {
        "gpu": properties.name,
        "compute_capability": ".".join(map(str, properties.compute_capability)),
        "multiprocessors": properties.multiprocessors,
        "driver": "unknown",
        "cupy": _version("cupy-cuda12x", "cupy-cuda13x", "cupy"),
        "nvrtc": _version("nvidia-cuda-nvrtc-cu12", "nvidia-cuda-nvrtc"),
        "cuda_runtime": _version("nvidia-cuda-runtime-cu12", "nvidia-cuda-runtime"),
    }
    if shutil.which("nvidia-smi"):
        query = ("nvidia-smi", f"--query-gpu={','.join(_SMI)}", "--format=csv,noheader")
        found.update(_smi(_output(*query), properties.name))
    return found


_SMI = {
    "name": "",
    "driver_version": "driver",
    "clocks.sm": "clock",
    "clocks.max.sm": "clock_limit",
    "clocks.mem": "memory_clock",
    "power.draw": "power",
    "power.limit": "power_limit",
    "temperature.gpu": "temperature",
    "persistence_mode": "persistence_mode",
}
"""What nvidia-smi is asked for, and what it is called in a result."""


def _smi(table: str, name: str) -> Environment:
    """The line of the GPU of that name; the first one where there is none."""
    lines = [[cell.strip() for cell in line.split(",")] for line in table.splitlines()]
    lines = [cells for cells in lines if len(cells) == len(_SMI)]
    cells = next((cells for cells in lines if cells[0] == name), lines[0] if lines else [])
    return {key: cell for key, cell in zip(_SMI.values(), cells) if key}


def _version(*distributions: str) -> str:
    """The versions of those that are installed: "14.2 (cupy-cuda12x)"."""
    found = []
    for name in distributions:
        try:
            found.append(f"{importlib.metadata.version(name)} ({name})")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found) or "unknown"
