"""Other names for parameters: authors know one operand as `lhs`, `input` or `tensor`, a window's corner as
`offset` or `offsets`. Whatever a call says is read as the parameter it must mean.
"""

from __future__ import annotations

from inspect import Signature
from typing import TypeVar

Argument = TypeVar("Argument")

# The names in a signature of ours, each with what else it is called.
ALSO: dict[str, tuple[str, ...]] = {
    "x": ("input", "tensor", "tile", "src", "lhs", "target"),
    "t": ("input", "tensor", "src", "dst", "output_tensor", "output", "target"),
    "a": ("lhs", "src0", "input"),
    "b": ("rhs", "src1"),
    "v": ("rhs", "row_vec", "vec"),
    "w": ("rhs", "col_vec", "vec"),
    "lhs": ("a", "x", "input", "tensor", "tile", "src0"),
    "rhs": ("b", "y", "other", "scalar", "value", "src1"),
    "target": ("input", "tensor", "lhs", "dst"),
    "source": ("src", "tile"),
    "tile": ("x", "input", "src", "tensor"),
    "values": ("src", "input", "x"),
    "index": ("indices", "idx"),
    "idx": ("index", "indices"),
    "indices": ("index", "offset", "offsets"),
    "offset": ("offsets",),
    "offsets": ("offset",),
    "shape": ("shapes",),
    "shapes": ("shape",),
    "valid_shape": ("valid_shapes",),
    "rows": ("valid_rows", "row"),
    "cols": ("valid_cols", "col"),
    "value": ("scalar", "src"),
    "target_type": ("dtype", "out_dtype"),
    "dtype": ("target_type",),
    "tmp": ("tmp_tile",),
    "tmp_tile": ("tmp",),
    "axis": ("dim",),
    "dim": ("axis",),
    "n": ("core_num",),
}


def in_our_names(
    signature: Signature, positional: int, named: dict[str, Argument]
) -> dict[str, Argument]:
    """The named arguments under the names of the signature; those that nothing explains stay as they are.

    positional: how many parameters are taken by position, and thus mean themselves.
    """
    parameters = signature.parameters
    free = [p for p in list(parameters)[positional:] if p not in named]
    ours: dict[str, Argument] = {}
    for name, argument in named.items():
        meant = name
        if name not in parameters:
            meant = next((p for p in free if name in ALSO.get(p, ())), name)
        if meant in free:
            free.remove(meant)
        ours[meant] = argument
    return ours
