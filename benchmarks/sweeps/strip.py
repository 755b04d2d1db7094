"""Groups of K that packing does for all column blocks before the next."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence

import torch
from harness import Constant, Options, Run, Subject, main

from tilewright import bound
from tilewright.bound import prepack
from tilewright.dtypes import BF16, INT8, DType


def packing(options: Options) -> Iterator[Subject]:
    """The weights of FLASH."""
    shapes = ((BF16, torch.bfloat16, (4096, 1024)), (INT8, torch.int8, (1024, 32768)))
    for dtype, kind, shape in shapes:
        matrix = torch.randint(-128, 128, shape).to(kind)

        def build(matrix: torch.Tensor = matrix, dtype: DType = dtype) -> Run:
            prepack(matrix, dtype, options.threads)  # compiles
            packers = dict(bound._prepackers)  # which the harness forgets afterwards

            def run() -> Sequence[torch.Tensor]:
                bound._prepackers.update(packers)
                panel = prepack(matrix, dtype, options.threads)
                data = (ctypes.c_uint8 * panel.nbytes).from_address(panel.address)
                data._pages = panel  # type: ignore[attr-defined]
                return [torch.frombuffer(data, dtype=torch.uint8)]

            return run

        yield Subject(f"pack {dtype.name} {shape[0]} x {shape[1]}", build)


if __name__ == "__main__":
    main(Constant("tilewright.codegen.llvm.pack", "STRIP"), (1, 2, 4, 8, 16, 32, 1 << 20), packing)
