"""models, convert, push: published checkpoints, in and out."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from echoic.cli.common import (
    JsonOption,
    TokenizerOption,
    emit,
    plain_table,
    program,
    say,
    show,
    typed,
    wrong,
)

PANEL = "Use a model"


class Form(StrEnum):
    echoic = "echoic"
    huggingface = "huggingface"


def add_to(app: typer.Typer) -> None:
    app.command(rich_help_panel=PANEL, epilog="Example: echoic models --json")(models)
    example = "Example: echoic convert 630k-audioset-best.pt clap.safetensors"
    app.command(rich_help_panel=PANEL, epilog=example)(convert)
    example = "Example: echoic push runs/rain/model.safetensors me/rain-model --private"
    app.command(rich_help_panel=PANEL, epilog=example)(push)


def models(as_json: JsonOption = False) -> None:
    """List the public checkpoints that are known by name: what each is and was trained on.

    Any other checkpoint of LAION-CLAP or M2D opens as well, by its path; of these, what is on the
    Hugging Face Hub can be named instead.
    """
    from dataclasses import asdict

    from echoic.convert.known import KNOWN_MODELS

    if as_json:
        emit([asdict(model) for model in KNOWN_MODELS])
        return
    table = plain_table("name", "audio", "fusion", "text", "trained on", "the same as")
    for model in KNOWN_MODELS:
        table.add_row(
            model.name, model.architecture, model.fusion or "none", model.text,
            model.trained_on or "not stated", model.same_as or "",
        )  # fmt: skip
    table.columns[0].no_wrap = True  # to be copied
    show(table)
    for model in KNOWN_MODELS:
        if model.warning:
            say(f"{model.name}: {model.warning}")
    for repo in dict.fromkeys(model.repo for model in KNOWN_MODELS if not model.page):
        files = [model.name for model in KNOWN_MODELS if model.repo == repo and model.file]
        say(f"{repo}: {', '.join(files)}" if files else repo)
    for page in dict.fromkeys(model.page for model in KNOWN_MODELS if model.page):
        say(f"{page}: the M2D models; not on the Hub, so fetched by hand and named by their path")
    for licence in dict.fromkeys(model.licence for model in KNOWN_MODELS):
        whose = {model.repo.partition("/")[0] for model in KNOWN_MODELS if model.licence == licence}
        say(f"licence of the models of {' and '.join(sorted(whose))}: {licence}")
    say("a name of the others is fetched from the Hub, once, when a command is given it")


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FROM",
            help="A model in any form that echoic opens: a path, or a name of echoic models.",
            show_default=False,
        ),
    ],
    target: Annotated[
        Path,
        typer.Argument(metavar="TO", help="A .safetensors file, or a folder.", show_default=False),
    ],
    to: Annotated[
        Form | None,
        typer.Option(
            help="Our one file, or a folder that transformers' ClapModel opens.",
            show_default="echoic",
        ),
    ] = None,
    tokenizer: TokenizerOption = None,
    without_int16: Annotated[
        bool,
        typer.Option(
            "--without-int16",
            help="To huggingface: export a model that rounds samples to 16 bits all the same; "
            "transformers does not. Vectors differ by 1e-4 for most sounds, more for quiet ones.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Bring a model into another form: weights, front end and tokenizer, exactly.

    A checkpoint of another program is read strictly: every tensor must find its place. No pickle
    code is run.
    """
    from echoic.api import save_tested
    from echoic.convert.huggingface import is_huggingface, save_huggingface
    from echoic.convert.native import FILE_NAME
    from echoic.convert.open import open_model, reads_tokens, with_tokenizer
    from echoic.hub import find_model

    form = to or Form.echoic
    if form is Form.echoic and target.suffix != ".safetensors":
        raise wrong(f"{target}: our form is one file, NAME.safetensors (or give --to huggingface)")
    if form is Form.huggingface and target.exists() and not target.is_dir():
        raise wrong(f"{target}: is a file; --to huggingface writes a folder")
    if form is Form.huggingface and (target / FILE_NAME).exists() and not is_huggingface(target):
        raise wrong(f"{target}: holds another model, {FILE_NAME}; name a folder of its own")
    content = open_model(find_model(source))
    if tokenizer is not None:
        content = with_tokenizer(content, tokenizer)
    if form is Form.echoic:
        save_tested(target, content)
        left: tuple[str, ...] = ()
    else:
        left = save_huggingface(content, target, without_int16=without_int16)
    told: dict[str, Any] = content.card.get("source", {})
    if as_json:
        tokenized = content.tokenizer is not None
        emit({"model": str(target), "form": form.value, "source": told, "tokenizer": tokenized,
              "left_behind": list(left)})  # fmt: skip
        return
    for line in source_lines(told):
        say(line)
    for line in left:
        say(f"not in {target}: {line}")
    if content.tokenizer is None and reads_tokens(content.model.spec):
        say("tokenizer    none; echoic.load(..., tokenizer=...) or --tokenizer brings one")
    print(f"model: {target}")
    print(f"check it:  {typed(program(), 'check', target)}")


def push(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A model in any form that echoic opens.", show_default=False
        ),
    ],
    name: Annotated[
        str, typer.Argument(metavar="OWNER/NAME", help="Of the repository.", show_default=False)
    ],
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository, if it is new, a private one.")
    ] = False,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--only-to", help="Write the same files to a folder, and send nothing: to look at them."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Put a model on the Hugging Face Hub: weights, tokenizer, description and model card.

    A repository that is not there is made; a card that stands there stays. It needs a token that
    may write, in HF_TOKEN or of hf auth login.
    """
    from echoic.convert.open import open_model
    from echoic.hub import find_model, push_to_hub, require_name, save_pretrained

    require_name(name)
    content = open_model(find_model(model))
    if folder is not None:
        save_pretrained(content, folder, name=name)
        where = str(folder)
    else:
        say(f"sending {model} to {name}")
        where = push_to_hub(content, name, private=private)
    if as_json:
        emit({"model": name, "at": where, "sent": folder is None})
        return
    print(f"model: {where}")
    if folder is not None:
        say("lines of its README.md that are marked TODO wait for you")
    else:
        print(f'load it:  echoic.load("{name}")')


def source_lines(told: dict[str, Any]) -> list[str]:
    """What a checkpoint of another program was found to be; empty for one of ours."""
    if not told:
        return []
    from echoic.convert.laion import in_words

    is_what = f"{told['architecture']}, text {told['text']}"
    if "fusion" in told:
        is_what = in_words(told["architecture"], told["fusion"], told["text"])
    lines = [
        f"read from    {told['file']}: {is_what}",
        f"taken        {told['tensors']} tensors; each found its place",
    ]
    for reason, names in told.get("dropped", {}).items():
        if names:
            shown = names[0] if len(names) == 1 else f"{names[0]} ... {names[-1]}"
            lines.append(f"left out     {len(names)} ({reason}): {shown}")
    return lines + [f"note         {note}" for note in told.get("notes", ())]
