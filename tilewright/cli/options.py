"""Options that several verbs share, as types for their signatures."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer


def writable(file: Path | None) -> Path | None:
    """For a file that is written when all is done: its folder is made now, and typer.BadParameter is raised
    where it could not be written then.
    """
    if file is None:
        return None
    if file.is_dir():
        raise typer.BadParameter(f"{file} is a folder")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise typer.BadParameter(f"the folder of {file} cannot be made: {error.strerror}") from None
    return file


class Preset(str, enum.Enum):
    flash = "flash"
    pro = "pro"
    demo = "demo"


class Backend(str, enum.Enum):
    native = "native"
    interpreter = "interpreter"
    checked = "checked"


class Bounds(str, enum.Enum):
    error = "error"
    zeros = "zeros"


class Layout(str, enum.Enum):
    release = "release"
    hf = "hf"


class WeightFormat(str, enum.Enum):
    fp8 = "fp8"
    bf16 = "bf16"


class RopeTable(str, enum.Enum):
    plain = "plain"
    yarn = "yarn"


KERNELS = "prefill_qkv_proj_rope (prefill), qkv_proj_rope (decode), either with _bf16, or qkv_proj_rope_cached (cached)"

KernelName = Annotated[str, typer.Argument(metavar="KERNEL", help=f"{KERNELS}.")]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH", help="Weights from this checkpoint: its folder or a safetensors file."
    ),
]
Layer = Annotated[
    int | None,
    typer.Option(min=0, help="Layer of the checkpoint.", show_default="its first"),
]
Tokens = Annotated[
    int | None,
    typer.Option(min=1, help="Tokens in the call; by default what a deployed call carries."),
]
StartPos = Annotated[
    int | None,
    typer.Option(
        help="Position of the first token. Default: 0 for prefill, drawn positions for decode."
    ),
]
MaxSeq = Annotated[
    int | None,
    typer.Option(min=1, help="Rows of the RoPE tables; by default the model's positions."),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of whatever is drawn.")]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Threads of the native run; by default all cores.")
]
