"""`gpucnn kernels choose`: which kernels a net's training step would get on a GPU, and why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from gpucnn.emulator.gpus import Gpu
    from gpucnn.training.prediction import Prediction

_EPILOG = """\b
Examples:
  gpucnn kernels choose --net resnet18 --gpu a100
  gpucnn kernels choose --net lenet5 --batch 64 --gpu "rtx 4090" --gpu h100
  gpucnn kernels choose --net convnet --precision bf16 --json
\b
score = useful share of the tiles x share of the GPU that the blocks keep busy (waves) x share of
the peak that the instruction mix allows (pipe) x that peak, in units of the fp32 peak. The best
score is launched; the runner-up is the next. A time is that of the busiest resource: multiply-adds
at the score's share of the peak, or each launch's arrays read and written once; launch overhead is
not in it. 'roofline' is the share of the limit that the estimate reaches: the full peak, or each
array moved once. All of it is an estimate from public figures, not a measurement. Needs no GPU."""

_HEAD = [
    "layer", "direction", "instance", "runner-up", "limit", "times", "score", "tiles", "waves",
    "pipe", "peak", "next", "grid", "splits", "us", "roofline",
]  # fmt: skip


@click.command(epilog=_EPILOG)
@click.option("--net", metavar="NAME", required=True, help="Of gpucnn.models.")
@click.option(
    "--gpu", "gpus", metavar="NAME", multiple=True, default=("a100",), show_default=True,
    help="t4, rtx3090, rtx4090, a100, h100, b200; may be repeated.",
)  # fmt: skip
@click.option(
    "--batch", type=click.IntRange(1), default=128, show_default=True, help="Images of a step."
)
@click.option(
    "--precision", metavar="NAME", default="auto", show_default=True,
    help="auto, fp32, 3xtf32, tf32, bf16 or fp16.",
)  # fmt: skip
@click.option("--capture", is_flag=True, help="The fused step of Trainer(capture=True).")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON line a primitive instead.")
def choose(
    net: str, gpus: Sequence[str], batch: int, precision: str, capture: bool, as_json: bool
) -> None:
    """Show which kernels a training step would launch on a GPU, and what they would cost."""
    import gpucnn
    from gpucnn.backends.gpu import estimate
    from gpucnn.training.prediction import predict
    from gpucnn.training.rehearsal import rehearse

    for gpu in [estimate.find(name) for name in gpus]:
        model = gpucnn.models.create(net.lower().replace("-", "_"))
        properties = estimate.properties(gpu)
        done = rehearse(
            model, batch, properties, precision=precision, evaluate=False, capture=capture
        )
        found = predict(done.step, gpu, precision)
        if as_json:
            for each in found:
                click.echo(json.dumps({"net": net, "batch": batch, **each.row()}))
        else:
            click.echo(f"{net}, batches of {batch}, precision {precision}, {gpu.name}: estimates")
            _print(found, gpu)


def _print(found: Sequence[Prediction], gpu: Gpu) -> None:
    from gpucnn.cli.output import print_table
    from gpucnn.training.prediction import grouped

    layers, others = [], []
    for (problem, direction), group in grouped(found).items():
        if problem.sizes:
            layers.append(_cells(str(problem), direction, group))
        else:
            time = sum(each.microseconds for each in group)
            launches = sum(len(each.call.launches) for each in group)
            others.append([str(problem), str(len(group)), str(launches), f"{time:.1f}"])
    print_table(_HEAD, layers, left=5)
    print_table(["the rest", "times", "launches", "us"], others)
    total = sum(each.microseconds for each in found)
    limits: dict[str, float] = {}
    for each in found:
        limits[each.limit] = limits.get(each.limit, 0.0) + each.microseconds
    by_time = sorted(limits.items(), key=lambda item: -item[1])
    shares = ", ".join(f"{limit} {time / total:.0%}" for limit, time in by_time)
    launches = sum(len(each.call.launches) for each in found)
    click.echo(
        f"step on {gpu.name}: at least {total:,.0f} us, limited by {shares}; {launches} launches "
        "(estimate, not a measurement)\n"
    )


def _cells(problem: str, direction: str, group: Sequence[Prediction]) -> list[str]:
    each = group[0]
    scored, other = each.scored, each.runner_up
    time = sum(one.microseconds for one in group)
    launch = each.main_launch
    if scored is None:
        numbers = [""] * 5
    else:
        parts = [scored.parts[name] for name in ("tiles", "waves", "pipe", "peak")]
        numbers = [f"{value:.2f}" for value in (scored.score, *parts)]
    return [
        problem,
        direction,
        each.title,
        "" if other is None else other.instance.name,
        each.limit,
        str(len(group)),
        *numbers,
        "" if other is None else f"{other.score:.2f}",
        " x ".join(map(str, launch.grid)),
        "" if scored is None else str(scored.plan.splits),
        f"{time:.1f}",
        f"{each.of_roofline:.0%}",
    ]
