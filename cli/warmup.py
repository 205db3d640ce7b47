"""`gpucnn warmup`: compile ahead what the training of a net needs."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from gpucnn.backends.gpu.kernel import Module
    from gpucnn.backends.gpu.runtime import DeviceProperties
    from gpucnn.models import Model

_EPILOG = """\b
Examples:
  gpucnn warmup resnet18_cifar                   for this machine's GPU
  gpucnn warmup lenet5 --batch 64 --batch 500
  gpucnn warmup convnet --arch sm_90             without a GPU: what it takes
\b
A training of two steps and a validation is rehearsed without running anything; the modules that it
asks for are compiled in parallel. On a GPU they go to CuPy's cache, and the training that follows
compiles nothing. With --arch they go to gpucnn's own cache, which its tools read ('gpucnn kernels',
the tests), and nothing but time is learnt about a GPU."""


@click.command(epilog=_EPILOG)
@click.argument("model")
@click.option(
    "--batch", "batches", type=click.IntRange(1), multiple=True, default=(128,),
    show_default=True, metavar="N", help="Images of a step; may be repeated.",
)  # fmt: skip
@click.option("--device", metavar="NAME", help="cuda or cuda:N; cuda by default.")
@click.option("--arch", metavar="NAME", help="Compile for sm_75 to sm_120 instead, without a GPU.")
@click.option("--precision", metavar="NAME", default="auto", show_default=True)
@click.option("--optimizer", default="sgd", show_default=True, help="sgd, adam or adamw.")
@click.option("--capture", is_flag=True, help="Of Trainer(capture=True): the fused kernels too.")
@click.option(
    "--workers", type=click.IntRange(1), metavar="N", help="Processes; one a core by default."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
def warmup(
    model: str,
    batches: Sequence[int],
    device: str | None,
    arch: str | None,
    precision: str,
    optimizer: str,
    capture: bool,
    workers: int | None,
    as_json: bool,
) -> None:
    """Compile every module that training MODEL (a name, or a model file) needs."""
    from gpucnn.backends.gpu.workers import cores
    from gpucnn.training.rehearsal import rehearse

    if device is not None and arch is not None:
        raise ValueError("warmup: --device and --arch do not go together")
    index, properties = _target(device, arch)
    began = time.perf_counter()
    modules: dict[Module, set[str]] = {}
    for batch in batches:
        done = rehearse(
            _model(model),
            batch,
            properties,
            optimizer=optimizer,
            precision=precision,
            capture=capture,
        )
        for module, entries in done.modules.items():
            modules.setdefault(module, set()).update(entries)
    rehearsed = time.perf_counter() - began
    began = time.perf_counter()
    compiled, folder, problem = _compile(list(modules), index, arch, workers)
    seconds = time.perf_counter() - began
    facts: dict[str, Any] = {
        "model": model,
        "batches": list(batches),
        "target": arch or f"cuda:{index}",
        "modules": len(modules),
        "compiled": compiled,
        "seconds": seconds,
        "rehearsal_seconds": rehearsed,
        "processes": workers or cores(),
        "cache": str(folder),
        "cache_problem": problem,
        "needed": {str(module): sorted(entries) for module, entries in modules.items()},
    }
    if as_json:
        click.echo(json.dumps(facts))
        return
    click.echo(
        f"{model}, batches of {', '.join(map(str, batches))}, {facts['target']}: "
        f"{len(modules)} modules, {compiled} compiled in {seconds:.1f} s"
        + (", the others were there" if compiled < len(modules) else "")
    )
    click.echo(f"cache folder: {folder}{f' ({problem}: nothing is kept)' if problem else ''}")


def _model(name: str) -> Model:
    import gpucnn
    from gpucnn.models import Model

    if not Path(name).is_file():
        return gpucnn.models.create(name.lower().replace("-", "_"))
    found = gpucnn.load(Path(name), "cpu")
    if not isinstance(found, Model):
        raise ValueError(f"warmup: {name} holds no net of gpucnn.models")
    return found


def _target(device: str | None, arch: str | None) -> tuple[int, DeviceProperties]:
    """The device's number, and what to plan for."""
    if arch is not None:
        from gpucnn.backends.gpu import estimate
        from gpucnn.cli.kernel_rows import number

        return 0, estimate.planned_for(number(arch))
    import gpucnn
    from gpucnn.backends.gpu.cuda import CudaRuntime

    chosen = gpucnn.device(device or "cuda")
    if chosen.type != "cuda":
        raise ValueError(f"warmup: --device must be cuda or cuda:N, got {device!r}")
    reason = gpucnn.cuda.why_not()
    if reason is not None:
        raise RuntimeError(f"warmup: there is no GPU to compile for ({reason}); see --arch")
    return chosen.index or 0, CudaRuntime(chosen.index or 0).properties()


def _compile(
    modules: Sequence[Module], index: int, arch: str | None, workers: int | None
) -> tuple[int, Path, str | None]:
    """How many were compiled, where they are kept, and why they are not."""
    from gpucnn.backends.gpu import precompile, store

    if arch is None:
        sources = [module.source for module in modules]
        made = precompile.compile_with_cupy(sources, index, workers)
        return made, precompile.cupy_folder(), None
    from gpucnn.cli.kernel_rows import compiler, number

    major = compiler(number(arch)).version[0]
    jobs = [
        precompile.Job(major, module.source, module.file, f"sm_{number(arch)}")
        for module in modules
    ]
    left = len(precompile.missing(jobs))
    precompile.compile_all(jobs, workers)
    return left, store.folder(), store.problem()
