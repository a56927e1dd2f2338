"""The growth curves of a benchmark as SVG: the same numbers give the same bytes."""
import io
import math
import os
import re
from typing import Any, Dict, Iterator, List, Tuple

Curves = Dict[str, Dict[str, List[Tuple[float, float]]]]  # figure, label, points
FIGURES = {  # name: (title, x, y)
    "jobs": ("The cost of a listing", "jobs in the tree", "milliseconds"),
    "connections": ("GET /v1/jobs/{id}/state", "connections, kept alive", "requests per second"),
    "bytes": ("A file, sent and fetched", "MB", "seconds"),
}
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "psik", "font.size": 9, "axes.spines.top": False,
         "axes.spines.right": False}
# They name other places, and nothing is to be fetched.
TRACES = re.compile(r"<!DOCTYPE.*?>\s*|<metadata>.*?</metadata>\s*", re.DOTALL)


def draw(curves: Curves, folder: str) -> Iterator[Tuple[str, str]]:
    """Write a figure for each set of curves that there is; their files' names and titles."""
    import matplotlib
    matplotlib.use("svg")
    matplotlib.rcParams.update(STYLE)
    for name, (title, x_label, y_label) in FIGURES.items():
        if name in curves:
            with open(os.path.join(folder, name + ".svg"), "w") as file:
                file.write(TRACES.sub("", figure(curves[name], title=title, xlabel=x_label,
                                                 ylabel=y_label)))
            yield name + ".svg", title


def figure(series: Dict[str, List[Tuple[float, float]]], **labels: str) -> str:
    """One figure, as SVG; psik.py's lines are solid."""
    import matplotlib.pyplot as plt
    sheet: Any
    axes: Any
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
    text = io.StringIO()
    sheet.savefig(text, format="svg", metadata={"Date": None})
    plt.close(sheet)
    return text.getvalue()
