"""The table of a benchmark: rows with a goal, as text for a terminal and as Markdown."""
import operator
from typing import Any, Callable, Dict, NamedTuple, Optional, Sequence, Tuple

HEAD = ("what", "psik.py", "beside", "its", "ratio", "goal", "met")
TO_THE_RIGHT = (1, 3, 4)
COMPARE: Dict[str, Callable[[Any, Any], bool]] = {"<=": operator.le, ">=": operator.ge}


class Row(NamedTuple):
    """One comparison.  A goal is `<= 1 x` for the ratio, ours / theirs, or in the row's unit."""
    what: str
    unit: str
    ours: Optional[float]
    peer: str = ""
    theirs: Optional[float] = None
    goal: str = ""

    def ratio(self) -> Optional[float]:
        """Ours / theirs, where both were measured."""
        return self.ours / self.theirs if self.ours is not None and self.theirs else None

    def met(self) -> str:
        """`yes` or `NO`; `?` where it was not measured; '' where there is no goal."""
        if not self.goal:
            return ""
        sign, number, unit = self.goal.split()
        value = self.ratio() if unit == "x" else self.ours
        return "?" if value is None else "yes" if COMPARE[sign](value, float(number)) else "NO"

    def cells(self) -> Tuple[str, ...]:
        """The texts of HEAD's columns."""
        theirs = short(self.theirs, self.unit) if self.peer else ""
        ratio = short(self.ratio(), "x") if self.ratio() is not None else ""
        return (self.what, short(self.ours, self.unit), self.peer, theirs, ratio,
                self.goal, self.met())


def short(value: Optional[float], unit: str) -> str:
    """A number with about three digits, and its unit."""
    if value is None:
        return "-"
    form = next((form for form, least in ((",.0f", 100), (".1f", 10), (".2f", 0.1))
                 if value >= least), ".2g")
    form = ",d" if isinstance(value, int) else form
    return "{} {}".format(format(value, form), unit).rstrip()


def as_text(rows: Sequence[Row]) -> str:
    """The rows for a terminal."""
    table = [HEAD] + [row.cells() for row in rows]
    widths = [max(len(line[column]) for line in table) for column in range(len(HEAD))]
    def padded(column: int, cell: str) -> str:
        width = widths[column]
        return cell.rjust(width) if column in TO_THE_RIGHT else cell.ljust(width)

    return "\n".join("  ".join(padded(column, cell) for column, cell in enumerate(line)).rstrip()
                     for line in table)


def as_markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    rule = ["--:" if column in TO_THE_RIGHT else "---" for column in range(len(HEAD))]
    return "\n".join("| %s |" % " | ".join(line)
                     for line in [HEAD, rule] + [row.cells() for row in rows])
