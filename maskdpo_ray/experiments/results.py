"""The result of an experiment: JSON, a table in the paper's layout, a plot, and its claims."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from maskdpo_ray.report.figures import COLOURS, as_svg, legend, line_style, new_figure
from maskdpo_ray.report.table import NO_INTERVAL, aligned
from maskdpo_ray.storage import Folder


@dataclass(frozen=True)
class Bar:
    """One bar of a plot, or one point of a line: a figure and its 95 % interval."""

    name: str
    value: float
    interval: Sequence[float]


@dataclass(frozen=True)
class Result:
    """What an experiment came to.

    Attributes:
        name: of its files.
        rows: a header and rows of text, the first ``labels`` columns left-aligned.
        figures: the numbers behind it.
        claims: as ``compare.claim`` makes them.
        plot: an ``svg`` element.
        notes: what the table leaves out, a line each.
        entries: what ``NAME.json`` lists, where it is to be a list and nothing else.
    """

    name: str
    title: str
    rows: list[list[str]]
    figures: dict[str, Any]
    claims: list[dict[str, Any]]
    plot: str
    labels: int = 1
    notes: Sequence[str] = ()
    entries: Sequence[dict[str, Any]] | None = None

    def text(self) -> str:
        """For the console."""
        verdicts = [
            f"{each['verdict']}: {each['claim']}"
            + (f" ({each['reason']})" if "reason" in each else "")
            for each in self.claims
        ]
        table = aligned(self.rows, names=self.labels)
        return "\n".join([self.title, table, *self.notes, *verdicts])

    def markdown(self) -> str:
        """For a page."""
        header, *rows = self.rows
        rule = [*["---"] * self.labels, *["---:"] * (len(header) - self.labels)]
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))
        return "\n\n".join([table, *self.notes])

    def write(self, folder: Folder) -> None:
        """``NAME.json``, ``NAME.md`` and ``NAME.svg``."""
        whole = asdict(self) | {"plot": f"{self.name}.svg"}
        del whole["entries"]
        folder.write_json(f"{self.name}.json", whole if self.entries is None else self.entries)
        folder.write(f"{self.name}.md", f"# {self.title}\n\n{self.markdown()}\n".encode())
        folder.write(f"{self.name}.svg", self.plot.encode())


def decimal(value: float | None) -> str:
    """A figure as a cell, which is empty where there is none."""
    return "" if value is None else f"{value:.1f}"


def mean_count(counts: Sequence[int]) -> str:
    """The mean of one count a seed as a cell, which is empty where nothing was counted."""
    return f"{sum(counts) / len(counts):.0f}" if counts else ""


def with_interval(found: Mapping[str, Any]) -> list[str]:
    """Cells of a score or difference: mean, interval, by seed."""
    value = found.get("score", found.get("points"))
    if value is None:
        return ["", "", ""]
    edges = found["ci95"] and "{:.1f} to {:.1f}".format(*found["ci95"])
    seeds = ", ".join(f"{each:.1f}" for each in found["by_seed"])
    return [f"{value:.1f}", edges or NO_INTERVAL, seeds]


def lengths(found: Mapping[str, Any]) -> list[str]:
    """Cells beside a score: sentences an answer, and correct ones."""
    return [decimal(found.get(key)) for key in ("sentences", "correct_sentences")]


def cell(found: Mapping[str, Any]) -> str:
    """A score and its interval in one cell."""
    value, interval, _ = with_interval(found)
    return f"{value} ({interval})" if value else ""


def coverage(column: str, scores: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A note on the answers and questions that a column leaves out; none where it has them all.

    Args:
        scores: of the column, as ``compare.score`` makes them, by the name of their row.
    """
    told = {name: _left_out(of) for name, of in scores.items()}
    noted = [f"{name}: {text}" for name, text in told.items() if text]
    return [f"{column}, all seeds: {'; '.join(noted)}."] if noted else []


def _left_out(of: Mapping[str, Any]) -> str:
    if reason := of.get("not_scored"):
        return reason
    rejected = of.get("rejected") or {}
    if of.get("scored") == of.get("answers") and not rejected:
        return ""
    answers = f"{of['scored']} of {of['answers']} answers scored, {of['respond_ratio']:.1f} %"
    left = [f"{n} questions rejected ({reason})" for reason, n in rejected.items()]
    return ", ".join([f"{answers} respond", *left])


def bars(title: str, axis_title: str, given: Sequence[Bar]) -> str:
    """One bar a figure, with its interval."""
    figure, axes = new_figure(1, 1, height=0.6 + 0.42 * max(1, len(given)))
    axis = axes.flat[0]
    places = range(len(given))
    values = [bar.value for bar in given]
    below = [bar.value - bar.interval[0] for bar in given]
    above = [bar.interval[1] - bar.value for bar in given]
    axis.barh(places, values, xerr=(below, above), color=COLOURS[0], alpha=0.75, capsize=3)
    axis.set_yticks(places, [bar.name for bar in given])
    axis.invert_yaxis()
    axis.set_xlabel(axis_title)
    return as_svg(figure, "bars", title)


def scored(by_key: Mapping[Any, Mapping[str, Any]]) -> dict[Any, Mapping[str, Any]]:
    """Those of the scores or differences that have an interval, which a plot shows."""
    return {key: of for key, of in by_key.items() if of["ci95"] is not None}


def score_bars(title: str, scores: Mapping[str, Mapping[str, Any]]) -> str:
    """``bars`` of sentence scores, as ``compare.score`` makes them, by name."""
    given = [Bar(name, of["score"], of["ci95"]) for name, of in scored(scores).items()]
    return bars(title, "sentence score, %", given)


def lines(
    title: str, axis_titles: tuple[str, str], given: dict[str, dict[float, Bar]], log: bool = False
) -> str:
    """One line a system, over a quantity, with intervals."""
    figure, axes = new_figure(1, 1, height=3.6)
    axis = axes.flat[0]
    shown = {name: points for name, points in given.items() if points}
    for index, (name, points) in enumerate(shown.items()):
        style = line_style(index, list(points), marked=True)
        low, high = zip(*(bar.interval for bar in points.values()), strict=True)
        axis.plot(list(points), [bar.value for bar in points.values()], label=name, **style)
        axis.fill_between(list(points), low, high, color=style["color"], alpha=0.12, linewidth=0)
    every = sorted({at for points in given.values() for at in points})
    if log:
        axis.set_xscale("log", base=2)
    axis.set_xticks(every, [f"{at:g}" for at in every])
    axis.minorticks_off()
    axis.set_xlabel(axis_titles[0])
    axis.set_ylabel(axis_titles[1])
    if shown:
        legend(figure, axis)
    return as_svg(figure, "lines", title)
