"""`for` in all its kinds, and `while`: bounds, names, unrolling. What they carry is found in `carrying`."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from typing import NoReturn

from tilewright.dtypes import INDEX
from tilewright.errors import (
    InvalidOperationError,
    ParserSyntaxError,
    ParserTypeError,
    UnsupportedFeatureError,
)
from tilewright.frontend.branches import when
from tilewright.frontend.calls import LOOP_WORDS, bind, callee
from tilewright.frontend.carrying import TensorsSwapped, run_loop
from tilewright.frontend.complaints import Complains
from tilewright.frontend.expressions import evaluate
from tilewright.frontend.jumps import refuse_jumps, without_jumps
from tilewright.frontend.merging import is_carriable, require_same_type
from tilewright.frontend.operands import Call
from tilewright.frontend.options import check_options, name_hint
from tilewright.frontend.tracer import Tracer
from tilewright.frontend.turns import Bounds, Loop
from tilewright.frontend.values import (
    Array,
    Constant,
    Items,
    Named,
    Number,
    Tensor,
    Token,
    describe,
    same,
)
from tilewright.ir.nodes import Const
from tilewright.language.loops import SplitMode
from tilewright.language.operator import Operator, operator_of

RunBody = Callable[[Tracer, Sequence[ast.stmt]], None]
MOST_COPIES = 4096  # of a body, by pl.unroll
LANES = 2  # vector lanes of a core
MOST_TURNS = 64  # of a loop that is written out because it swaps tensors
INDEPENDENT = "its turns run in any order: put the rest of the body under an if"


def for_statement(t: Tracer, node: ast.For, run_body: RunBody) -> None:
    """`for v in pl.range(…)` and its siblings."""
    word = _word(t, node)
    check_loop(t, node)
    assert isinstance(node.iter, ast.Call)
    with t.at(node.iter):
        call = bind(t, node.iter, word, evaluate)
        initial = _init_values(t, call)
    match word.name:
        case "while_":
            _while_with_names(t, node, initial, run_body)
        case "split_aiv":
            split_lanes(t, node, call, run_body)
        case "unroll":
            bounds = _bounds(t, call, word.name)
            _unroll(t, node, bounds, _targets(t, node, 0)[0], run_body)
        case "spmd":
            variable, _ = _targets(t, node, 0)
            launch(t, node, call, variable, run_body)
        case kind:
            if kind == "pipeline":
                _check_stage(t, call)
            bounds = _bounds(t, call, kind)
            variable, names = _targets(t, node, len(initial))
            explicit = dict(zip(names, initial, strict=True))
            _counted(t, node, kind, bounds, variable, explicit, run_body)


def while_statement(t: Tracer, node: ast.While, run_body: RunBody) -> None:
    """`while condition:`; what the body rebinds is carried."""
    check_loop(t, node)
    straight = without_jumps(node, node.body)
    loop = Loop(node, "while", straight.body, again=node.test, broke=straight.broke)
    run_loop(t, loop, run_body)


def _while_with_names(
    t: Tracer, node: ast.For, initial: Sequence[Named], run_body: RunBody
) -> None:
    """`for (x,) in pl.while_(init_values=(a,)):` with `pl.cond(…)` first and `pl.yield_` last."""
    target = node.target
    if not isinstance(target, ast.Tuple) or len(target.elts) != len(initial) or not initial:
        t.fail(
            ParserSyntaxError,
            f"pl.while_ needs a tuple of names, one for each of {len(initial)} init_values",
            target,
            help="write for (x,) in pl.while_(init_values=(start,)):",
        )
    names = [name.id for name in target.elts if isinstance(name, ast.Name)]
    if len(names) != len(initial):
        t.fail(
            ParserSyntaxError,
            f"cannot carry {ast.unparse(target)}: names only",
            target,
            help="write for (x,) in pl.while_(init_values=(start,)):",
        )
    _refuse_jumps_of_names(t, node.body)
    first = node.body[0]
    asked = first.value if isinstance(first, ast.Expr) else None
    word = operator_of(callee(t, asked, evaluate)) if isinstance(asked, ast.Call) else None
    if word is None or word.name != "cond" or not isinstance(asked, ast.Call):
        t.fail(
            ParserSyntaxError,
            "the body of pl.while_ begins with pl.cond(…)",
            first,
            help="write pl.cond(x < limit) before anything else",
        )
    if len(asked.args) != 1 or asked.keywords:
        t.fail(
            ParserSyntaxError,
            "pl.cond takes one condition",
            asked,
            help="write pl.cond(x < limit); join two conditions with `and`",
        )
    explicit = dict(zip(names, initial, strict=True))
    loop = Loop(node, "while", node.body[1:], explicit=explicit, again=asked.args[0])
    run_loop(t, loop, run_body)


def _refuse_jumps_of_names(t: Tracer, body: Sequence[ast.stmt]) -> None:
    refuse_jumps(
        t,
        body,
        "in a loop with init_values: what it would carry on is not said",
        "rebind a name from before the loop instead of init_values and pl.yield_",
    )


def _counted(
    t: Tracer,
    node: ast.For,
    kind: str,
    bounds: Bounds,
    variable: str,
    explicit: dict[str, Named],
    run_body: RunBody,
) -> None:
    body, broke = list(node.body), None
    if kind == "parallel":
        refuse_jumps(t, body, "in a pl.parallel loop", INDEPENDENT)
    elif explicit:
        _refuse_jumps_of_names(t, body)
    else:
        straight = without_jumps(node, body)
        body, broke = list(straight.body), straight.broke
    if broke is not None:
        kind = "range"
    loop = Loop(node, kind, body, bounds, variable, explicit=explicit, broke=broke)
    here = t.snapshot()
    try:
        with t.builder.block() as ops:
            run_loop(t, loop, run_body)
    except TensorsSwapped:
        if broke is not None or explicit or not _is_short(bounds):
            raise
        t.restore(here)
        _unroll(t, node, bounds, variable, run_body)
    else:
        t.flush(ops)


def _is_short(bounds: Bounds) -> bool:
    """Whether a loop has few enough turns, known by now, to be written out."""
    if not all(isinstance(bound, Const) for bound in bounds):
        return False
    start, stop, step = (int(bound.value) for bound in bounds if isinstance(bound, Const))
    return len(range(start, stop, step)) <= MOST_TURNS


def launch(
    t: Tracer, node: ast.For | ast.With, call: Call, variable: str | None, run_body: RunBody
) -> None:
    """The blocks of `pl.spmd`, as a loop or as a scope."""
    refuse_jumps(t, node.body, "in a pl.spmd body", INDEPENDENT)
    check_options(t, call)
    bounds = (
        Const(0, INDEX),
        t.index(call["n"], call.at("n"), "the number of blocks"),
        Const(1, INDEX),
    )
    loop = Loop(node, "spmd", node.body, bounds, variable, name=name_hint(t, call))
    looks, calls = t.block_looks, t.calls
    when(t, node, call, lambda: run_loop(t, loop, run_body))
    if variable is None and (looks, calls) == (t.block_looks, t.calls):
        t.fail(
            InvalidOperationError,
            "every block of this launch does the same",
            loop.head,
            help="read pl.tile.get_block_idx(), or call a kernel that does",
        )


def split_lanes(t: Tracer, node: ast.For, call: Call, run_body: RunBody) -> None:
    """`for lane in pl.split_aiv(2, mode=…)`: the body once for each lane of a core."""
    refuse_jumps(t, node.body, "in a pl.split_aiv loop", INDEPENDENT)
    count = t.constant(call["count"], call.at("count"), "the number of lanes")
    mode = t.constant(call["mode"], call.at("mode"), "mode")
    if count != LANES or isinstance(count, bool):
        t.fail(
            InvalidOperationError,
            f"a core has {LANES} lanes, got {count!r}",
            call.at("count"),
            help=f"write pl.split_aiv({LANES}, mode=…)",
        )
    if not isinstance(mode, SplitMode):
        t.fail(
            InvalidOperationError,
            f"mode must be a pl.SplitMode, got {mode!r}",
            call.at("mode"),
            help="pl.SplitMode.NONE, .UP_DOWN or .LEFT_RIGHT",
        )
    if t.lane is not None:
        t.fail(
            InvalidOperationError,
            "pl.split_aiv inside pl.split_aiv",
            node.iter,
            help="use one, and loop with pl.range inside",
        )
    variable, _ = _targets(t, node, 0)
    bounds = (Const(0, INDEX), Const(LANES, INDEX), Const(1, INDEX))

    def body(t: Tracer, statements: Sequence[ast.stmt]) -> None:
        here = t.frame.names[variable].value
        assert isinstance(here, Number)
        t.lane = (here.operand, mode)
        try:
            run_body(t, statements)
        finally:
            t.lane = None

    loop = Loop(node, "range", node.body, bounds, variable, lanes=True)
    name = f"{t.frame.kernel.__name__}_{node.lineno}"
    t.region(name, node.iter, lambda: run_loop(t, loop, body))


def _word(t: Tracer, node: ast.For) -> Operator:
    """The word behind `in`."""
    word = None
    if isinstance(node.iter, ast.Call):
        with t.at(node.iter):
            found = evaluate(t, node.iter.func)
            thing = getattr(found, "value", None)
            word = operator_of(thing)
            if word is None and getattr(thing, "__module__", "") != "builtins":
                callee(t, node.iter, evaluate)
    if word is None or word.name not in LOOP_WORDS:
        refuse_loop(t, node)
    return word


def _check_stage(t: Tracer, call: Call) -> None:
    stage = t.constant(call["stage"], call.at("stage"), "stage")
    if isinstance(stage, bool) or not isinstance(stage, int) or stage < 1:
        t.fail(
            InvalidOperationError,
            f"stage must be a positive constant, got {stage!r}",
            call.at("stage"),
            help="write stage=2",
        )


def refuse_loop(t: Complains, node: ast.For) -> NoReturn:
    """A loop over something else than the language's own ranges."""
    over = ast.unparse(node.iter)
    t.fail(
        ParserSyntaxError,
        f"a loop must use pl.range, pl.parallel, pl.pipeline, pl.unroll or pl.spmd, got {over}",
        node.iter,
        help=f"write pl.{over}"
        if over.startswith("range(")
        else "write for i in pl.range(n): and take item i inside",
    )


def check_loop(t: Complains, node: ast.For | ast.While) -> None:
    if node.orelse:
        t.fail(
            UnsupportedFeatureError,
            "else after a loop has no place in a kernel",
            node.orelse[0],
            help="write what follows the loop after it; a flag says whether it broke off",
        )


def _targets(t: Tracer, node: ast.For, count: int) -> tuple[str, list[str]]:
    """The loop variable, and the names of `init_values`."""
    target = node.target
    if isinstance(target, ast.Name):
        if count:
            t.fail(
                ParserSyntaxError,
                "init_values need names: for i, (x,) in …",
                target,
                help="write for i, (x,) in pl.range(n, init_values=(start,)):",
            )
        return target.id, []
    if (
        isinstance(target, ast.Tuple)
        and len(target.elts) == 2
        and isinstance(target.elts[0], ast.Name)
        and isinstance(target.elts[1], ast.Tuple)
        and all(isinstance(name, ast.Name) for name in target.elts[1].elts)
    ):
        names = [name.id for name in target.elts[1].elts if isinstance(name, ast.Name)]
        if len(names) != count:
            t.fail(
                ParserSyntaxError,
                f"{len(names)} names for {count} init_values",
                target,
                help="give each value one name: for i, (x, y) in pl.range(n, init_values=(a, b)):",
            )
        return target.elts[0].id, names
    t.fail(
        ParserSyntaxError,
        f"a loop variable must be a name, got {ast.unparse(target)}",
        target,
        help="write for i in pl.range(n):",
    )


def _init_values(t: Tracer, call: Call) -> list[Named]:
    """Blocks and scalars to carry; tensors, arrays and task ids, which stay what they are."""
    given = call.values.get("init_values", Items(()))
    values = given.values if isinstance(given, Items) else (given,)
    for value in values:
        if not is_carriable(value) and not isinstance(value, (Tensor, Array, Token)):
            t.fail(
                ParserTypeError,
                f"init_values take blocks, scalars and tensors, got {describe(value)}",
                call.at("init_values"),
                help="carry a block, a tensor or a number; the rest needs no carrying",
            )
        if call.name == "parallel" and is_carriable(value):
            t.fail(
                ParserTypeError,
                f"a pl.parallel loop carries no value, got {describe(value)}",
                call.at("init_values"),
                help="loop with pl.range",
            )
    return list(values)


def _bounds(t: Tracer, call: Call, word: str) -> Bounds:
    given = call["bounds"]
    assert isinstance(given, Items)
    if not 1 <= len(given.values) <= 3:
        t.fail(
            InvalidOperationError,
            f"pl.{word} takes stop, or start and stop, or start, stop and step",
            call.node,
            help=f"write pl.{word}(stop), pl.{word}(start, stop) or pl.{word}(start, stop, step)",
        )
    nodes = call.node.args
    operands = [
        t.index(v, n, f"a bound of pl.{word}") for v, n in zip(given.values, nodes, strict=True)
    ]
    if len(operands) == 1:
        operands = [Const(0, INDEX), operands[0]]
    if len(operands) == 2:
        operands.append(Const(1, INDEX))
    step = operands[2]
    if isinstance(step, Const) and step.value == 0:
        t.fail(
            InvalidOperationError,
            "a loop with step 0 never ends",
            nodes[2],
            help="use a positive step",
        )
    if word == "pipeline" and not isinstance(step, Const):
        t.constant(Number(step), nodes[2], "the step of pl.pipeline")
    return operands[0], operands[1], step


def _unroll(t: Tracer, node: ast.For, bounds: Bounds, variable: str, run_body: RunBody) -> None:
    """The body once per value, the variable a constant."""
    assert isinstance(node.iter, ast.Call)
    refuse_jumps(
        t, node.body, "in a pl.unroll loop", "loop with pl.range, or put the rest under an if"
    )
    fixed = [t.constant(Number(b), node.iter, "a bound of pl.unroll") for b in bounds]
    start, stop, step = fixed
    copies = t.unrolled * max(1, -((start - stop) // step))
    if copies > MOST_COPIES:
        t.fail(
            InvalidOperationError,
            f"pl.unroll would write its body out {copies} times, more than {MOST_COPIES}",
            node.iter,
            help="loop with pl.range",
        )
    outside, t.unrolled = t.unrolled, copies
    try:
        _copies(t, node, range(*fixed), variable, run_body)
    finally:
        t.unrolled = outside


def _copies(t: Tracer, node: ast.For, values: range, variable: str, run_body: RunBody) -> None:
    before = dict(t.frame.names)
    for value in values:
        t.bind(variable, Constant(value), node)
        start = dict(t.frame.names)
        with t.within("unroll"):
            run_body(t, node.body)
        for key in list(t.frame.names):
            binding = t.frame.names[key]
            if key not in before and key != variable:
                t.drop(
                    key,
                    f"was bound inside the loop on line {node.lineno} and is not visible after it",
                )
            elif key in start and not same(start[key].value, binding.value):
                require_same_type(t, node, key, start[key], binding)
    t.drop(
        variable, f"is the variable of the loop on line {node.lineno} and is not visible after it"
    )
