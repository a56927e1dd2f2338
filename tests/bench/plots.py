"""The growth curves of a benchmark as SVG: the same numbers give the same bytes."""
import io
import math
import os
import re
from typing import Any, Dict, Iterator, List, Sequence, Tuple

Curves = Dict[str, Dict[str, List[Tuple[float, float]]]]  # figure, label, points
FIGURES = {  # name: (title, x, y)
    "jobs": ("The cost of a listing", "jobs in the tree", "milliseconds"),
    "connections": ("GET /v1/jobs/{id}/state", "connections, kept alive", "requests per second"),
    "bytes": ("A file, sent and fetched", "MB", "seconds"),
}
PANELS: Dict[Tuple[str, ...], Dict[str, str]] = {   # of the picture of samples: {name: label}
    tuple(panel): panel for panel in (
        {"rss_mb": "memory of a server, MB"},
        {"threads": "its threads", "descriptors": "its descriptors"},
        {"files": "files of the tree"}, {"open": "open stories"}, {"done": "stories that ended"})}
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "psik", "font.size": 9, "axes.spines.top": False,
         "axes.spines.right": False}
# They name other places, and nothing is to be fetched.
TRACES = re.compile(r"<!DOCTYPE.*?>\s*|<metadata>.*?</metadata>\s*", re.DOTALL)


def pyplot() -> Any:
    """matplotlib.pyplot, which draws SVG in our style."""
    import matplotlib.pyplot
    matplotlib.use("svg")
    matplotlib.rcParams.update(STYLE)
    return matplotlib.pyplot


def draw(curves: Curves, folder: str) -> Iterator[Tuple[str, str]]:
    """Write a figure for each set of curves that there is; their files' names and titles."""
    for name, (title, x_label, y_label) in FIGURES.items():
        if name in curves:
            with open(os.path.join(folder, name + ".svg"), "w") as file:
                file.write(figure(curves[name], title=title, xlabel=x_label, ylabel=y_label))
            yield name + ".svg", title


def figure(series: Dict[str, List[Tuple[float, float]]], **labels: str) -> str:
    """One figure, as SVG; psik.py's lines are solid."""
    plt = pyplot()
    sheet, axes = plt.subplots(figsize=(7.5, 3.6))
    for label, points in sorted(series.items()):
        axes.plot(*zip(*sorted(points)), marker="o", markersize=3,
                  linestyle="-" if label.startswith("psik.py") else "--", label=label)
    axes.set(xscale="log", yscale="log", **labels)
    places = sorted({x for points in series.values() for x, _ in points})
    axes.set_xticks(places)
    axes.set_xticklabels(["{:,}".format(x) for x in places])
    axes.minorticks_off()
    decades = [math.log10(y) for points in series.values() for _, y in points]
    axes.set_ylim(10 ** math.floor(min(decades)), 10 ** math.ceil(max(decades)))
    axes.yaxis.set_major_formatter(lambda y, place: "{:,g}".format(y))
    axes.grid(True, which="major", linewidth=0.3)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    sheet.tight_layout()
    return as_svg(sheet)


def as_svg(sheet: Any) -> str:
    """A sheet as text; it is closed."""
    text = io.StringIO()
    sheet.savefig(text, format="svg", metadata={"Date": None})
    pyplot().close(sheet)
    return TRACES.sub("", text.getvalue())


def draw_samples(samples: Sequence[Any], marks: Sequence[float], path: str) -> None:
    """Write a picture of what was held over time; marks are seconds, as samples have minutes."""
    plt = pyplot()
    minutes = [each.minute for each in samples]
    sheet, panels = plt.subplots(len(PANELS), figsize=(7.5, 7), sharex=True)
    for axes, names in zip(panels, PANELS):
        for name, style in zip(names, ("-", "--")):
            axes.plot(minutes, [getattr(each, name) for each in samples], style,
                      label=PANELS[names][name], linewidth=1)
        axes.set_ylim(bottom=0)
        for mark in marks:
            axes.axvline(mark / 60, color="0.85", linewidth=0.8, zorder=0)
        axes.grid(True, which="major", linewidth=0.3)
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    panels[-1].set_xlabel("minutes; a vertical line: the other server was ended")
    sheet.tight_layout()
    with open(path, "w") as file:
        file.write(as_svg(sheet))
