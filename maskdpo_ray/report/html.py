"""report.html: one self-contained page, no script, no outside asset."""

import io
from typing import Any

from maskdpo_ray.report.table import header, systems_rows

CURVES = {
    "loss": "loss",
    "rewards/margins": "reward margin",
    "rewards/accuracies": "accuracy",
    "kept/chosen": "kept tokens, chosen",
    "kept/rejected": "kept tokens, rejected",
    "grad_norm": "gradient norm",
}
# Told apart by shape as well as by colour (Okabe and Ito's palette).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")
MARKERS = ("o", "s", "^", "D", "v")


def render_html(
    report: dict[str, Any],
    training: dict[str, list[dict[str, Any]]],
    examples: list[dict[str, Any]],
) -> str:
    """The page.

    Args:
        report: as ``build_report`` makes it.
        training: lines of metrics.jsonl by system.
        examples: preference pairs whose sides carry ``token_spans``, one ``(start, end)`` per
            token, beside ``weights``.
    """
    import jinja2
    import yaml

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("maskdpo_ray.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    curves = {name: lines for name, lines in training.items() if lines}
    return environment.get_template("report.html.j2").render(
        report=report,
        header=header(report),
        rows=systems_rows(report),
        training_plot=_training_plot(curves) if curves else None,
        best_plot=_best_plot(report["best_of_n_detail"]) if report["best_of_n"] else None,
        examples=[_example(pair) for pair in examples],
        config=yaml.safe_dump(report["config"], sort_keys=False, allow_unicode=True),
    )


def pieces(side: dict[str, Any]) -> list[dict[str, Any]]:
    """Sentences of one side, each cut into stretches that are learnt from or not.

    Joining the texts gives the response back. A stretch begins where a token with another weight
    begins; a character that several tokens write goes with the first.
    """
    response, learnt = side["response"], [0.0] * len(side["response"])
    for (start, end), weight in reversed(
        list(zip(side["token_spans"], side["weights"], strict=False))
    ):
        learnt[start:end] = [weight] * (end - start)
    sentences = []
    for sentence in side["sentences"]:
        parts: list[dict[str, Any]] = []
        for position in range(sentence["start"], sentence["end"]):
            if not parts or parts[-1]["weight"] != learnt[position]:
                parts.append({"text": "", "weight": learnt[position]})
            parts[-1]["text"] += response[position]
        sentences.append({**sentence, "parts": parts})
    return sentences


def _example(pair: dict[str, Any]) -> dict[str, Any]:
    return pair | {name: pair[name] | {"pieces": pieces(pair[name])} for name in ("chosen", "rejected")}


def _training_plot(training: dict[str, list[dict[str, Any]]]) -> str:
    figure, axes = _figure(2, 3, height=4.6)
    for axis, (key, title) in zip(axes.flat, CURVES.items(), strict=True):
        for colour, (name, lines) in zip(COLOURS, training.items(), strict=False):
            steps = [line["step"] for line in lines]
            axis.plot(steps, [line[key] for line in lines], color=colour, label=name, linewidth=1.4)
        axis.set_title(title)
        axis.set_xlabel("step")
    axes.flat[0].legend(frameon=False)
    return _svg(figure)


def _best_plot(best: dict[str, dict[str, Any]]) -> str:
    figure, axes = _figure(1, 1, height=3.4)
    axis = axes.flat[0]
    for colour, marker, (name, result) in zip(COLOURS, MARKERS, best.items(), strict=False):
        ns = [int(n) for n in result["macro"]]
        low, high = zip(*result["ci95"].values(), strict=True)
        axis.plot(ns, result["macro"].values(), color=colour, marker=marker, label=name)
        axis.fill_between(ns, low, high, color=colour, alpha=0.12, linewidth=0)
    axis.set_xscale("log", base=2)
    axis.set_xticks(ns, [str(n) for n in ns])
    axis.minorticks_off()
    axis.set_xlabel("N")
    axis.set_ylabel("sentence score, %")
    axis.legend(frameon=False)
    return _svg(figure)


def _figure(rows: int, columns: int, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    figure = Figure(figsize=(9.6, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
        axis.title.set_fontsize(10)
    return figure, axes


def _svg(figure: Any) -> str:
    from matplotlib import rc_context

    target = io.StringIO()
    # A fixed salt and no date: the same run gives the same page.
    with rc_context({"svg.hashsalt": "maskdpo", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(target, format="svg", transparent=True, metadata={"Date": None})
    return "<svg" + target.getvalue().partition("<svg")[2]  # without the XML prologue
