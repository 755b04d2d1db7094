"""The golden harness: run a kernel on generated inputs and judge every output against a reference.

Open `spec` for what an input is, `run` for the stages, `policies` and `comparators` for how an
output is judged, `report` for what a judgement says, `replay` for frozen inputs, `guards` for
poisoned outputs, `drafts` for how older scripts call all this.
"""

from __future__ import annotations

from tilewright.golden.comparators import (
    error_distribution,
    ratio_allclose,
    ratio_reldiff,
    topk_pair_compare,
)
from tilewright.golden.drafts import RunConfig
from tilewright.golden.policies import Case, Policy, close, codes_within
from tilewright.golden.pools import mapped_pool_ratio_allclose
from tilewright.golden.report import OutputReport, Worst
from tilewright.golden.run import RunResult, run, run_jit
from tilewright.golden.spec import ScalarSpec, Spec, TensorSpec
from tilewright.golden.validate import validate_golden

__all__ = [
    "Case",
    "OutputReport",
    "Policy",
    "RunConfig",
    "RunResult",
    "ScalarSpec",
    "Spec",
    "TensorSpec",
    "Worst",
    "close",
    "codes_within",
    "error_distribution",
    "mapped_pool_ratio_allclose",
    "ratio_allclose",
    "ratio_reldiff",
    "run",
    "run_jit",
    "topk_pair_compare",
    "validate_golden",
]
