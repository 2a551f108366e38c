"""plan: what a training will cost, before it is run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from echoic.cli.common import (
    JsonOption,
    RecipeSize,
    RecipeStage,
    emit,
    plain_table,
    recipe_name,
    say,
    show,
    wrong,
)

if TYPE_CHECKING:
    from echoic.plan.planner import Option, StagePlan

_ASSUMED = "What is assumed"


def add_to(app: typer.Typer) -> None:
    example = "Example: echoic plan slap:base --pairs 109e6 --mean-s 10 --gpus 64 --gpu h100"
    app.command(rich_help_panel="Make a model", epilog=example)(plan)


def plan(
    recipe: Annotated[
        str, typer.Argument(help="A recipe by name, as of echoic train.", show_default=False)
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY.SUB=VALUE", show_default=False, help="Changes to it, as of echoic train."
        ),
    ] = None,
    size: RecipeSize = None,
    stage: RecipeStage = None,
    pairs: Annotated[float, typer.Option(help="Clips with captions.")] = 1e6,
    mean_s: Annotated[float, typer.Option(help="Their mean length in seconds.")] = 10.0,
    gpus: Annotated[int, typer.Option(min=1, help="In all.")] = 8,
    gpu: Annotated[str, typer.Option(help="a100, h100, h200, b200, l4, l40s, rtx4090.")] = "h100",
    nodes: Annotated[
        int | None, typer.Option(min=1, help="Machines.", show_default="of 8 GPUs each")
    ] = None,
    epochs: Annotated[
        float | None, typer.Option(help="Of all pairs.", show_default="the recipe's steps")
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(min=2, help="Clips of a step, of all GPUs.", show_default="the recipe's"),
    ] = None,
    caption_tokens: Annotated[
        int, typer.Option(min=2, help="Of a caption.", rich_help_panel=_ASSUMED)
    ] = 20,
    utilisation: Annotated[
        float,
        typer.Option(
            min=0.01, max=1, help="Of the GPU's best rate, in a step.", rich_help_panel=_ASSUMED
        ),
    ] = 0.35,
    price: Annotated[
        float, typer.Option(min=0, help="Of a GPU-hour.", rich_help_panel=_ASSUMED)
    ] = 2.5,
    cores: Annotated[
        float, typer.Option(help="Of the processor, per GPU.", rich_help_panel=_ASSUMED)
    ] = 16,
    hours_per_core_s: Annotated[
        float | None,
        typer.Option(
            help="Hours of audio that a core loads in a second (python -m benchmarks.loader).",
            show_default="as measured", rich_help_panel=_ASSUMED,
        ),
    ] = None,
    network_gbit_s: Annotated[
        float, typer.Option(help="Of a node.", rich_help_panel=_ASSUMED)
    ] = 400.0,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Plan a training: operations, memory, shards, loader, days, cost, and what holds it up.

    Every clip counts as long as the mean. Stages that tune on labels are left out.
    """
    from echoic.plan.machines import HOURS_PER_CORE_S, find_gpu
    from echoic.plan.planner import Ask, plan_recipe
    from echoic.recipes import find_stages
    from echoic.stages import changed

    ask = Ask(
        pairs=pairs, mean_s=mean_s, gpus=gpus, gpu=find_gpu(gpu), nodes=nodes, epochs=epochs,
        batch=batch, caption_tokens=caption_tokens, utilisation=utilisation, price=price,
        cores=cores, network_gbit_s=network_gbit_s,
        hours_per_core_s=HOURS_PER_CORE_S if hours_per_core_s is None else hours_per_core_s,
    )  # fmt: skip
    named = recipe_name(recipe, size, stage)
    stages = changed(find_stages(named), overrides or ())
    plans = [plan_recipe(each.recipe, ask) for each in stages if each.recipe is not None]
    if not plans:
        raise wrong(f"{named}: tunes a model on labels, which is not planned")
    for each in stages:
        if each.recipe is None:
            say(f"{each.name}: tuning on labels, not planned")
    if as_json:
        told = [each.to_json() for each in plans]
        emit(told[0] if len(told) == 1 else told)
        return
    for found in plans:
        _show(found)


def _show(plan: StagePlan) -> None:
    table = plain_table(plan.recipe.name, "figure", "", right=["figure"])
    for row in _rows(plan, plan.to_json()):
        table.add_row(*row)
    show(table)
    ways = plain_table("way", "passes", "GB", "fits", "s/step", right=["passes", "GB", "s/step"])
    for option in plan.options:
        ways.add_row(*_way(option, chosen=option == plan.chosen))
    show(ways)
    from echoic.plan.planner import advice

    for line in advice(plan):
        print(f"- {line}")


def _rows(plan: StagePlan, told: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """What, how much, how it comes about."""
    ask, spent, found = plan.ask, plan.chosen.seconds, plan.chosen.memory
    data, traffic, way = told["data"], told["traffic"], plan.chosen.way
    clips = f"{plan.clips} clips a step, {way.clips} on a GPU at once"
    yield "steps", f"{plan.steps:,}", f"{clips}; {told['epochs']:.2f} epochs"
    tokens = f"{told['audio_tokens_per_step']:,.0f} a step"
    yield "tokens of sound", _big(told["audio_tokens"]), tokens
    yield "weights", _big(told["weights"]), f"and {_big(told['weights_held'])} that do not learn"
    yield "operations", _big(told["flop"]), f"{_big(told['flop_per_step'])} a step"
    parts = told["flop_by_part"]
    whole = sum(part["forward"] + part["backward"] for part in parts.values())
    for name, part in parts.items():
        share = (part["forward"] + part["backward"]) / whole
        yield f"  {name}", f"{share:.1%}", f"{_big(part['forward'])} forward"
    yield "memory", f"{found.peak / 1e9:.1f} GB", f"a GPU; of {ask.gpu.memory / 1e9:.0f} GB"
    for name, size in asdict(found).items():
        yield f"  {name}", f"{size / 1e9:.2f} GB", ""
    yield "a step", f"{spent.step:.3f} s", f"{ask.utilisation:.0%} of a {ask.gpu.name} assumed"
    hidden = f"after what products hide; embeddings {spent.embeddings:.4f} s"
    yield "  gradients", f"{spent.gradients:.3f} s", hidden
    sends = f"{traffic['gradient_bytes'] / 1e9:.2f} GB of gradients a GPU and step"
    yield "network", f"{ask.network_gbit_s:g} Gbit/s", f"{sends}, {ask.count_nodes} nodes"
    loads = f"{ask.cores:g} are there; {plan.audio_s / spent.step:.0f} s of audio a GPU-second"
    yield "loader", f"{plan.cores_needed:.1f} cores", f"needed per GPU; {loads}"
    yield "shards", f"{data['shards']:,.0f}", "of 512 clips"
    packed = f"FLAC {_big(data['flac_bytes'])}B, Opus {_big(data['opus_bytes'])}B"
    yield "  bytes", f"{_big(data['raw_bytes'])}B", f"as 16-bit samples; {packed}"
    reads = f"{traffic['read_bytes_per_s'] / 1e9:.2f} GB/s"
    yield "  read", reads, "of FLAC, by each node"
    yield "days", f"{plan.days:.2f}", f"on {ask.gpus} GPUs"
    yield "cost", f"{plan.cost:,.0f}", f"at {ask.price:g} a GPU-hour"


def _way(option: Option, *, chosen: bool) -> tuple[str, ...]:
    way = option.way
    name = f"{way.kind}{', checkpointed' if way.checkpointed else ''}"
    return (
        f"{'>' if chosen else ' '} {name}", str(way.passes), f"{option.memory.peak / 1e9:.1f}",
        "yes" if option.fits else "no", f"{option.seconds.step:.3f}",
    )  # fmt: skip


def _big(number: float) -> str:
    """`1.2 T`."""
    for size, letter in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:,.0f} "
