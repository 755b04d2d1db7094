"""Share of the roofline against tokens, for us and every peer: an HTML page of its own, or a PNG.

The page is drawn here and needs nothing; a PNG needs matplotlib.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from math import log2
from pathlib import Path

from tilewright.bench.results import Report, Row
from tilewright.errors import ArgumentValueError

OURS = "tilewright"
# Colours that stay apart for eyes that see fewer of them (Okabe and Ito); ours is the darkest.
COLOURS = ("#0072B2", "#E69F00", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#999999")
WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 60, 190, 34, 50  # margins; names of the lines stand on the right
LABEL_GAP = 15  # pixels between two names


@dataclass(frozen=True)
class Line:
    """One way's shares: (tokens, share of the roofline), by tokens."""

    name: str
    points: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Chart:
    """Rows that differ in their tokens only."""

    title: str
    lines: tuple[Line, ...]


def charts(report: Report) -> list[Chart]:
    """One chart a kernel, preset, thread count and kind of call."""
    groups: dict[tuple[str, str, int, bool], list[Row]] = {}
    for row in report.rows:
        groups.setdefault((row.kernel, row.preset, row.threads, row.cold), []).append(row)
    found = []
    for (kernel, preset, threads, cold), rows in groups.items():
        shares: dict[str, dict[int, float]] = {}
        for row in sorted(rows, key=lambda r: r.tokens):
            name = OURS if row.bound else f"{OURS} unbound"
            shares.setdefault(name, {})[row.tokens] = row.share
            for peer in row.peers:
                ratio = row.versus(peer)
                if ratio is not None:
                    shares.setdefault(peer, {})[row.tokens] = row.share / ratio
        title = f"{kernel}, {preset}, {threads} threads, {'cold' if cold else 'warm'} weights"
        lines = tuple(Line(name, tuple(points.items())) for name, points in shares.items())
        found.append(Chart(title, lines))
    return found


def check(path: Path) -> None:
    """Raise ArgumentValueError for a file that is neither .html nor .png, and for a PNG without
    matplotlib.
    """
    kind = path.suffix.lower()
    if kind not in (".html", ".png"):
        raise ArgumentValueError(
            f"cannot plot to {path.name!r}", help="name a file that ends in .html or .png"
        )
    if kind == ".png":
        try:
            import matplotlib  # noqa: F401
        except ImportError as error:
            raise ArgumentValueError(
                f"a PNG needs matplotlib: {error}",
                help="install matplotlib, or name an .html file, which needs nothing",
            ) from error


def write(report: Report, path: Path) -> None:
    """Write the plot; raises what `check` raises."""
    check(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".html":
        path.write_text(page(report), encoding="utf-8")
    else:
        _write_png(report, path)


# -- HTML ------------------------------------------------------------------------------------------


def page(report: Report) -> str:
    """The whole page, styles and pictures inside."""
    machine = report.machine
    peaks = "".join(
        f"<li>{p['threads']} threads: INT8 {p['gops']['INT8']:.0f} GOP/s, BF16"
        f" {p['gops']['BF16']:.0f} GFLOP/s, memory {p['memory_gbs']:.1f} GB/s</li>"
        for p in machine["peaks"]
    )
    figures = "".join(
        f"<figure><figcaption>{html.escape(chart.title)}</figcaption>{svg(chart)}</figure>"
        for chart in charts(report)
    )
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Share of the roofline</title>"
        "<style>body{font:15px system-ui,sans-serif;max-width:800px;margin:2em auto;color:#222}"
        "figure{margin:2em 0}figcaption{font-weight:600}svg{width:100%;height:auto}"
        "svg text{font:12px system-ui,sans-serif;fill:#444}</style>"
        "<h1>Share of the roofline</h1>"
        f"<p>{html.escape(str(machine['cpu']))} ({html.escape(str(machine['name']))}). 1 is what"
        " the machine's measured peaks allow.</p>"
        f"<ul>{peaks}</ul>{figures}</html>\n"
    )


def svg(chart: Chart) -> str:
    """One chart: tokens on a logarithmic axis, shares from 0 to 1 or the largest."""
    tokens = sorted({t for line in chart.lines for t, _ in line.points})
    top = max([1.0, *(share for line in chart.lines for _, share in line.points)])
    low, span = log2(tokens[0]), max(1.0, log2(tokens[-1] / tokens[0]))

    def x(t: int) -> float:
        return LEFT + (log2(t) - low) / span * (WIDTH - LEFT - RIGHT)

    def y(share: float) -> float:
        return HEIGHT - BOTTOM - share / top * (HEIGHT - TOP - BOTTOM)

    parts = [f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img'>"]
    end = WIDTH - RIGHT
    for tick in range(int(top / 0.2 + 1e-9) + 1):
        share = tick / 5
        ink = "#444" if share == 1 else "#ddd"
        parts.append(f"<path d='M{LEFT} {y(share):.1f}H{end}' stroke='{ink}'/>")
        parts.append(_text(LEFT - 8, y(share) + 4, f"{share:.0%}", "end"))
    for t in tokens:
        parts.append(f"<path d='M{x(t):.1f} {HEIGHT - BOTTOM}v5' stroke='#444'/>")
        parts.append(_text(x(t), HEIGHT - BOTTOM + 19, str(t), "middle"))
    parts.append(_text((LEFT + end) / 2, HEIGHT - 10, "tokens", "middle"))
    parts.append(_text(LEFT, TOP - 14, "share of the roofline", "start"))
    heights = label_heights([y(line.points[-1][1]) for line in chart.lines])
    for line, colour, height in zip(chart.lines, colours(chart.lines), heights, strict=True):
        places = [(x(t), y(share)) for t, share in line.points]
        path = "L".join(f"{a:.1f} {b:.1f}" for a, b in places)
        width = 3 if line.name == OURS else 1.5
        parts.append(f"<path d='M{path}' fill='none' stroke='{colour}' stroke-width='{width}'/>")
        for (a, b), (t, share) in zip(places, line.points, strict=True):
            hint = html.escape(f"{line.name}, {t} tokens: {share:.1%}")
            parts.append(
                f"<circle cx='{a:.1f}' cy='{b:.1f}' r='4' fill='{colour}'>"
                f"<title>{hint}</title></circle>"
            )
        label = f"{line.name} {line.points[-1][1]:.0%}"
        parts.append(_text(end + 14, height + 4, label, "start", colour))
    return "".join([*parts, "</svg>"])


def colours(lines: Sequence[Line]) -> list[str]:
    """A colour for each line, round and round."""
    return [COLOURS[i % len(COLOURS)] for i in range(len(lines))]


def label_heights(wanted: Sequence[float]) -> list[float]:
    """Heights as wanted, moved down as far as needed to be LABEL_GAP apart."""
    placed = [0.0] * len(wanted)
    last = float("-inf")
    for i in sorted(range(len(wanted)), key=lambda i: wanted[i]):
        last = placed[i] = max(wanted[i], last + LABEL_GAP)
    return placed


def _text(x: float, y: float, text: str, anchor: str, colour: str = "") -> str:
    style = f" style='fill:{colour}'" if colour else ""
    return f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}'{style}>{html.escape(text)}</text>"


# -- PNG -------------------------------------------------------------------------------------------


def _write_png(report: Report, path: Path) -> None:
    from matplotlib.figure import Figure

    drawn = charts(report)
    figure = Figure(figsize=(8, 4.2 * len(drawn)), layout="constrained")
    for axes, chart in zip(figure.subplots(len(drawn), squeeze=False)[:, 0], drawn, strict=True):
        for line, colour in zip(chart.lines, colours(chart.lines), strict=True):
            tokens, shares = zip(*line.points, strict=True)
            width = 2.5 if line.name == OURS else 1.2
            axes.plot(tokens, shares, marker="o", label=line.name, color=colour, linewidth=width)
        every = sorted({t for line in chart.lines for t, _ in line.points})
        axes.set_xscale("log", base=2)
        axes.set_xticks(every, [str(t) for t in every])
        axes.axhline(1.0, color="#444", linewidth=0.8)
        axes.set_ylim(bottom=0)
        axes.set(title=chart.title, xlabel="tokens", ylabel="share of the roofline")
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)
