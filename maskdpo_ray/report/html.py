"""report.html: one self-contained page, no script, no outside asset."""

from collections.abc import Mapping, Sequence
from typing import Any

from maskdpo_ray.config import dump_yaml
from maskdpo_ray.pages import page
from maskdpo_ray.report.figures import as_svg, legend, line_style, new_figure
from maskdpo_ray.report.table import (
    agreement_rows,
    best_of_n_rows,
    count_rows,
    detail_rows,
    factscore_rows,
    judge_rows,
    lm_eval_rows,
    score_rows,
    short_form_rows,
    stage_rows,
    win_rate_rows,
)

CURVES = {
    "loss": "loss",
    "rewards/margins": "reward margin",
    "rewards/chosen": "reward of the chosen answer",
    "rewards/accuracies": "accuracy",
    "kept/chosen": "kept tokens, chosen",
    "kept/rejected": "kept tokens, rejected",
    "grad_norm": "gradient norm",
    # Of training.sample_every.
    "samples/sentences": "sentences of a sampled answer",
    "samples/score": "score of sampled answers",
}
SHARES = ("rewards/accuracies", "kept/chosen", "kept/rejected")


def render_html(
    report: Mapping[str, Any],
    training: Mapping[str, Sequence[Mapping[str, Any]]],
    examples: Sequence[Mapping[str, Any]],
) -> str:
    """The page.

    Args:
        report: as ``build_report`` makes it.
        training: lines of metrics.jsonl by system.
        examples: ``records.Pair`` dicts whose sides carry ``token_spans`` beside ``weights``, one
            ``(start, end)`` per token that was kept.
    """
    curves = {name: lines for name, lines in training.items() if lines}
    best = report["best_of_n_detail"]
    return page("maskdpo_ray.report", "report.html.j2").render(
        report=report,
        scores=score_rows(report),
        details=detail_rows(report),
        counts=count_rows(report),
        judges=judge_rows(report),
        labels={
            name: agreement_rows(examiners) for name, examiners in report["human_labels"].items()
        },
        best_of_n=best_of_n_rows(report),
        factscore=factscore_rows(report) if report["factscore"] else None,
        win_rate=win_rate_rows(report) if report["win_rate"] else None,
        short_form=short_form_rows(report) if report["short_form"] else None,
        lm_eval=lm_eval_rows(report) if report["lm_eval"] else None,
        stages=stage_rows(report),
        training_plot=_training_plot(curves) if curves else None,
        best_plot=_best_plot(best) if best else None,
        examples=[_example(pair) for pair in examples],
        config=dump_yaml(report["config"]),
    )


# -- the annotated answer ---------------------------------------------------------------------


def pieces(side: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Sentences of one side, each cut into stretches that are learnt from or not.

    A stretch begins where a token with another weight begins; a character that several tokens
    write goes with the first. Text behind the last token was cut off and has weight None.

    Returns:
        The sentences, each with ``parts`` (``text``, ``weight``) and ``tail``, the white space that
        ends it. Joining parts and tails gives the response back.
    """
    response, spans = side["response"], side["token_spans"]
    weights: list[float | None] = [None] * len(response)
    for (start, end), weight in reversed(list(zip(spans, side["weights"], strict=True))):
        for position in range(start, min(end, len(response))):
            weights[position] = weight
    sentences = []
    # Nobody cut or judged the answers of weighted pairs: each is one piece without a verdict.
    whole = [{"start": 0, "end": len(response), "verdict": "", "detail": ""}] if response else []
    for sentence in side["sentences"] or whole:
        start, end = sentence["start"], sentence["end"]
        inner = start + len(response[start:end].rstrip())
        sentences.append(
            {
                **sentence,
                "parts": _stretches(response, weights, start, inner),
                "tail": response[inner:end],
            }
        )
    return sentences


def _stretches(
    text: str, weights: Sequence[float | None], start: int, end: int
) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    for position in range(start, end):
        if not parts or parts[-1]["weight"] != weights[position]:
            parts.append({"text": "", "weight": weights[position]})
        parts[-1]["text"] += text[position]
    return parts


def _example(pair: Mapping[str, Any]) -> dict[str, Any]:
    return {**pair, "sides": [_side(name, pair[name]) for name in ("chosen", "rejected")]}


def _side(name: str, side: Mapping[str, Any]) -> dict[str, Any]:
    spans, weights = side["token_spans"], side["weights"]
    written = max((end for _, end in spans), default=0)
    return {
        "name": name,
        "reasoning": side.get("reasoning"),
        "score": side["score"],
        "tokens": len(weights),
        "learnt": sum(weight != 0 for weight in weights),
        # The end of the turn is a token without text; it can be learnt from all the same.
        "silent": sum(
            weight != 0 and start == end
            for (start, end), weight in zip(spans, weights, strict=True)
        ),
        "cut": written < len(side["response"]),
        "sentences": pieces(side),
    }


# -- plots ------------------------------------------------------------------------------------


def _training_plot(training: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    known = {key for lines in training.values() for line in lines for key in line}
    curves = {key: title for key, title in CURVES.items() if key in known}
    rows = -(-len(curves) // 3)
    figure, axes = new_figure(rows, 3, height=2.4 * rows)
    for axis in axes.flat[len(curves) :]:
        axis.remove()
    for axis, (key, title) in zip(axes.flat, curves.items(), strict=False):
        for index, (name, lines) in enumerate(training.items()):
            told = [line for line in lines if line.get(key) is not None]
            steps = [line["step"] for line in told]
            values = [line[key] for line in told]
            axis.plot(steps, values, label=name, linewidth=1.4, **line_style(index, steps))
        axis.set_title(title)
        axis.set_xlabel("step")
        axis.xaxis.get_major_locator().set_params(integer=True)
        if key in SHARES:
            axis.set_ylim(-0.03, 1.03)
    legend(figure, axes.flat[0])
    return as_svg(figure, "training", "Training metrics by step for " + ", ".join(training))


def _best_plot(best: Mapping[str, Mapping[str, Any]]) -> str:
    figure, axes = new_figure(1, 1, height=3.6)
    axis = axes.flat[0]
    for index, (name, result) in enumerate(best.items()):
        ns = [int(n) for n in result["macro"]]
        style = line_style(index, ns, marked=True)
        axis.plot(ns, result["macro"].values(), label=name, **style)
        if all(result["ci95"].values()):  # of one topic there is none
            low, high = zip(*result["ci95"].values(), strict=True)
            axis.fill_between(ns, low, high, color=style["color"], alpha=0.12, linewidth=0)
    axis.set_xscale("log", base=2)
    every = sorted({int(n) for result in best.values() for n in result["macro"]})
    axis.set_xticks(every, [str(n) for n in every])
    axis.minorticks_off()
    axis.set_xlabel("N")
    axis.set_ylabel("sentence score, %")
    legend(figure, axis)
    return as_svg(figure, "best", "Expected sentence score of the best of N for " + ", ".join(best))
