"""Matplotlib figures from arrays, and their SVG, which takes the colours of the page around it. Uses no pyplot and no global state."""
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from utils.statistics.curves import Reliability

FG, LINE = '#010203', '#a1a2a3'  # stand for the text and line colour of the page: see `to_svg`
BLUE = '#2b83ba'
# Distinct for colour-blind readers, and readable on white and on black. With more than eight lines, the dashes differ.
COLOURS = (BLUE, '#e08214', '#1b9e77', '#d6604d', '#c274b0', '#7a7a7a', '#a6761d', '#7570d3')
DASHES = ('-', '--', '-.', ':')
MOST_LINES = len(COLOURS)
HEAT = '#2b8ac7'  # light enough for text in FG; stands for the heat map colour of the page
STYLE: dict[Any, Any] = {
    'svg.fonttype': 'none', 'text.parse_math': False, 'text.usetex': False, 'font.family': 'DejaVu Sans', 'font.size': 9,
    'axes.titlesize': 9, 'axes.spines.top': False, 'axes.spines.right': False, 'axes.grid': True, 'axes.axisbelow': True,
    'grid.color': LINE, 'grid.alpha': .45, 'grid.linewidth': .6, 'text.color': FG, 'axes.edgecolor': FG, 'axes.labelcolor': FG,
    'xtick.color': FG, 'ytick.color': FG, 'legend.frameon': False, 'axes.facecolor': 'none', 'figure.facecolor': 'none',
    'savefig.facecolor': 'none', 'lines.linewidth': 1.6}
styled = matplotlib.rc_context(STYLE)  # decorator for the functions that draw; other figures keep their style


def short(name: str, most: int = 30) -> str:
    """Shorten a long name in the middle, because class names often differ only at the end."""
    return name if len(name) <= most else f'{name[:most // 2]}…{name[-(most - most // 2 - 1):]}'


def line_style(i: int) -> dict[str, Any]:
    return {'color': COLOURS[i % MOST_LINES], 'linestyle': DASHES[i // MOST_LINES % len(DASHES)]}


def to_svg(figure: Figure, name: str, alt: str) -> str:
    """The figure as an SVG element. `name` makes its ids unique on the page; `alt` is the text for screen readers."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE | {'svg.hashsalt': name}), warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)  # glyphs that are missing in this font: the browser draws the text
        figure.savefig(buffer, format='svg', metadata={'Date': None, 'Creator': None, 'Format': None, 'Type': None})
    svg = buffer.getvalue()
    svg = re.sub(r'<metadata>.*?</metadata>', '', svg[svg.index('<svg'):], flags=re.S)
    svg = re.sub(r'<g id="[^"]*"', '<g', svg)  # ids that are the same in every figure and never referenced
    width = float(re.findall(r'width="([\d.]+)pt"', svg)[0])
    head = f'<svg role="img" aria-label="{escape(alt)}" style="width: {width:.0f}pt; min-width: {.72 * width:.0f}pt"'
    svg = svg.replace('<svg', head, 1).replace(FG, 'var(--fg)').replace(LINE, 'var(--line)').replace(HEAT, 'var(--heat)')
    return re.sub(r'\n\s*', '\n', svg)


def to_pixels(figure: Figure) -> np.ndarray:
    """-> uint8 (H, W, 3), on a white background"""
    figure.set_facecolor('white')
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


@styled
def lines(curves: Mapping[str, tuple], xlabel: str, ylabel: str, marks: Sequence[tuple] = (), boundaries: Sequence[tuple] = (),
          log: bool = False, size: tuple[float, float] = (4.5, 2.9)) -> Figure:
    """Line plot. `curves`: label -> (x, y, style); `marks`: (x, y, label) of circled points; `boundaries`: (x, label) of vertical lines."""
    figure = Figure(size, layout='constrained')
    ax = figure.subplots()
    for label, (x, y, style) in curves.items():
        ax.plot(x, y, label=short(label), marker='.' if len(x) < 40 else None, **style)
    for x, y, label in marks:
        ax.plot([x], [y], 'o', mfc='none', mec=FG, ms=9, label=label)
    for x, label in boundaries:
        ax.axvline(x, color=FG, linewidth=1, linestyle=':')
        ax.annotate(label, (x, 1), xycoords=('data', 'axes fraction'), xytext=(3, 2), textcoords='offset points', fontsize=8)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if log:
        values = np.unique(np.concatenate([y for _, y, _ in curves.values()]))
        ax.set_yscale('log')
        ax.yaxis.set_major_formatter('{x:g}')
        ax.minorticks_off()
        if len(values) <= 6:
            ax.set_yticks(values)
    if len(curves) + len(marks) > 1:
        figure.legend(loc='outside lower center', ncols=1 if len(curves) > 3 else 3, fontsize=8)
    return figure


@styled
def bars(names: Sequence[str], groups: Mapping[str, Sequence], xlabel: str, labels: Sequence[Sequence[str]] | None = None,
         limit: tuple[float, float] | None = None) -> Figure:
    """Horizontal bars, the first name at the top. `groups`: label -> (values (K,), low (K,) or None, high (K,) or None), NaN
    where undefined; `labels`: text after each bar, a list (K,) for each group."""
    k, m = len(names), len(groups)
    figure = Figure((5.6, .9 + k * (.1 + (.17 if k <= 10 else .13) * m)), layout='constrained')
    ax = figure.subplots()
    height = .8 / m
    for g, (label, (values, low, high)) in enumerate(groups.items()):
        values, y = np.asarray(values, float), np.arange(k) + (g - (m - 1) / 2) * height
        ax.barh(y, np.nan_to_num(values), height * .92, color=COLOURS[g], alpha=.75, label=label)
        if low is not None:
            ax.hlines(y, low, high, color=FG, linewidth=1.2)
        for i, text in enumerate(labels[g] if labels else ()):
            ax.annotate(text, (np.nan_to_num(values[i]), y[i]), xytext=(3, 0), textcoords='offset points', va='center', fontsize=8)
    ax.set_yticks(range(k), names)
    ax.set(xlabel=xlabel, ylim=(k - .5, -.5), xlim=limit)
    ax.margins(x=.12)
    ax.grid(axis='y', visible=False)
    if m > 1:
        figure.legend(loc='outside upper center', ncols=m, fontsize=8)
    return figure


@styled
def intervals(names: Sequence[str], values: np.ndarray, low: np.ndarray, high: np.ndarray, xlabel: str, labels: Sequence[str],
              zero: bool = False) -> Figure:
    """A row for each name: a dot with its interval and its label; NaN where undefined. `zero`: draw a dotted line at 0."""
    figure = Figure((4.7, .8 + .3 * len(names)), layout='constrained')
    ax, y = figure.subplots(), np.arange(len(names))
    if zero:
        ax.axvline(0, color=FG, linestyle=':', linewidth=1)
    ax.hlines(y, low, high, color=FG, linewidth=1.4)
    ax.plot(values, y, 'o', color=BLUE, ms=6)
    for i, text in enumerate(labels):
        ax.annotate(text, (1, i), xycoords=('axes fraction', 'data'), xytext=(4, 0), textcoords='offset points', va='center', fontsize=8)
    ax.set_yticks(y, [short(name) for name in names])
    ax.set(xlabel=xlabel, ylim=(len(names) - .5, -.5))
    ax.grid(axis='y', visible=False)
    return figure


@styled
def heat_map(shares: np.ndarray, rows: Sequence[str], columns: Sequence[str], xlabel: str, ylabel: str, above: float = -1) -> Figure:
    """Heat map of `shares` (R, C) in 0..1, NaN where undefined. Cells with a share above `above` show it in percent."""
    r, c = shares.shape
    cell = .46 if c <= 10 else .3
    height = .42 if c <= 10 else .3
    figure = Figure((2.3 + cell * c, 1.9 + height * r), layout='constrained')
    ax = figure.subplots()
    colours = np.empty((r, c, 4))
    colours[..., :3], colours[..., 3] = to_rgb(HEAT), np.nan_to_num(shares)
    ax.pcolormesh(np.arange(c + 1) - .5, np.arange(r + 1) - .5, colours, edgecolors=LINE, linewidth=.3)
    for i, j in zip(*np.nonzero(np.nan_to_num(shares, nan=-1) > above), strict=True):
        ax.text(j, i, f'{100 * shares[i, j]:.0f}', ha='center', va='center', fontsize=9 if c <= 10 else 7.5, color=FG)
    ax.set_xticks(range(c), [short(name) for name in columns], rotation=90 if c > 10 else 45, ha='center' if c > 10 else 'right',
                  rotation_mode='default' if c > 10 else 'anchor')
    ax.set_yticks(range(r), [short(name) for name in rows])
    ax.set(xlabel=xlabel, ylabel=ylabel, xlim=(-.51, c - .49), ylim=(r - .49, -.51))
    ax.tick_params(length=0)
    ax.grid(visible=False)
    return figure


def _percent_axes(ax):
    ax.set(xlim=(-2, 102), ylim=(-2, 102), xticks=(0, 50, 100), yticks=(0, 50, 100))


@styled
def one_vs_rest(curves: Mapping[str, tuple[np.ndarray, np.ndarray] | None], xlabel: str, ylabel: str, diagonal: bool = False,
                steps: bool = False) -> Figure:
    """ROC or precision-recall curves. `curves`: label (two lines) -> (x, y) in 0..1, or None. Up to eight curves share one plot; more get a
    small plot each. `steps`: draw steps, where y applies from the previous point on."""
    if len(curves) <= MOST_LINES:
        figure = Figure((4.6, 3.5 + .17 * len(curves)), layout='constrained')
        ax = figure.subplots()
        shown: list[tuple] = [(ax, i, label, curve) for i, (label, curve) in enumerate(curves.items()) if curve is not None]
        ax.set(xlabel=xlabel, ylabel=ylabel)
    else:
        rows = -(-len(curves) // 4)
        figure = Figure((8.4, .5 + 1.75 * rows), layout='constrained')
        axes = figure.subplots(rows, 4, sharex=True, sharey=True).ravel()
        shown = [(ax, 0, None, curve) for ax, curve in zip(axes, curves.values(), strict=False) if curve is not None]
        for ax, label in zip(axes, curves, strict=False):
            ax.set_title('\n'.join(short(part) for part in label.split('\n')), fontsize=8)
        for ax in axes[len(curves):]:
            ax.set_visible(False)
        figure.supxlabel(xlabel, fontsize=9)
        figure.supylabel(ylabel, fontsize=9)
    for ax in {id(ax): ax for ax, *_ in shown}.values():
        _percent_axes(ax)
        if diagonal:
            ax.plot([0, 100], [0, 100], color=FG, linewidth=.8, linestyle=':')
    for ax, i, label, (x, y) in shown:
        ax.plot(100 * x, 100 * y, label=label and ', '.join(label.split('\n')),
                drawstyle='steps-pre' if steps else 'default', **line_style(i))
    if len(curves) <= MOST_LINES and shown:
        figure.legend(loc='outside lower center', fontsize=8)
    return figure


@styled
def reliability(curve: Reliability) -> Figure:
    """Reliability diagram: accuracy by confidence at the top, number of images at the bottom."""
    figure = Figure((4.6, 4.4), layout='constrained')
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    some = curve.counts > 0
    _percent_axes(top)
    top.plot([0, 100], [0, 100], color=FG, linewidth=.8, linestyle=':')
    top.plot(100 * curve.confidence[some], 100 * curve.accuracy[some], color=BLUE, linewidth=1)
    top.scatter(100 * curve.confidence[some], 100 * curve.accuracy[some], 12 + 160 * curve.counts[some] / curve.counts.max(), color=BLUE,
                clip_on=False)
    top.set_ylabel('accuracy (%)')
    bottom.stairs(curve.counts, 100 * curve.edges, fill=True, color=BLUE, alpha=.6)
    bottom.set(xlabel='confidence (%)', ylabel='images')
    bottom.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    return figure
