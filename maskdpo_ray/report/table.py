"""The tables of a report, as rows of text: a header, then one row per system or stage.

The console shows the scores as aligned text, the page shows all of them.
"""

import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

from maskdpo_ray.report.silence import BASE

Table = list[list[str]]
NO_INTERVAL = "n/a"  # one topic tells nothing about others


def score_rows(report: Mapping[str, Any]) -> Table:
    """What every system's answers are worth, by decoding."""
    k = _k(report)
    header = ["system", "answers", "score", "95 %", "facts only", "95 %"]
    rows = [header + ([f"F1@{k}", "95 %", f"recall@{k}", "precision"] if k else [])]
    for name, decoding, score in _scored(report):
        cells = [name, decoding, *_score(score), *_percent(score, "facts_micro", "facts_ci95")]
        if k:
            of_k = score["f1_at_k"]
            cells += _percent(of_k, "f1", "f1_ci95")
            cells += [_mean(of_k["recall"], 1), _mean(of_k["precision"], 1)]
        rows.append(cells)
    return rows


def detail_rows(report: Mapping[str, Any]) -> Table:
    """What the answers consist of: sentences by verdict, and how much one of them says."""
    verdicts = {
        "ok": "ok",
        "contradictory": "wrong",
        "unverifiable": "unverifiable",
        "no_fact": "no fact",
    }
    each = {
        "mean_tokens": "tokens each",
        "mean_sentences": "sentences each",
        "mean_correct": "correct each",
        "mean_ok": "with a fact",
    }
    header = ["system", "answers", *verdicts.values(), *each.values()]
    rows = [[*header, "responded"]]
    for name, decoding, score in _scored(report):
        rows.append(
            [
                name,
                decoding,
                *(str(score[key]) for key in verdicts),
                *(_mean(score[key], 0 if key == "mean_tokens" else 1) for key in each),
                f"{score['respond_ratio']:.0f}",
            ]
        )
    return rows


def count_rows(report: Mapping[str, Any]) -> Table:
    """The macro score, and what was counted and could not be, per system and decoding."""
    keys = ["responses", "abstained", "unscored", "correct", "incorrect", "errors"]
    names = ["responses", "abstained", "no verdict", "correct", "incorrect", "errors"]
    rows = [["system", "answers", "macro", "95 %", *names]]
    for name, decoding, score in _scored(report):
        macro = _percent(score, "macro", "macro_ci95")
        rows.append([name, decoding, *macro, *(str(score[key]) for key in keys)])
    return rows


def judge_rows(report: Mapping[str, Any]) -> Table:
    """The same answers under every further judge, and its agreement with the first examiner."""
    scores = ["greedy", "95 %", "verdicts", "sampled", "95 %", "verdicts"]
    rows = [["judge", "system", *scores, "same verdict", "95 %", "kappa", "95 %"]]
    for judge, judged in report["judges"].items():
        for name, system in judged["systems"].items():
            cells = [judge, name]
            for score in (system["greedy"], system["sampled"]):
                verdicts = str(score["correct"] + score["incorrect"]) if score else ""
                cells += [*(_score(score) if score else ["", ""]), verdicts]
            for figure in ("accuracy", "kappa"):
                cells += _figure(system["agreement"][figure])
            rows.append(cells)
    return rows


def best_of_n_rows(report: Mapping[str, Any]) -> Table:
    """Expected best of N: mean over questions, its interval, and the micro figure."""
    rows = [["system", "N", "macro", "95 %", "micro", "questions with fewer", "responses left out"]]
    for name, result in report["best_of_n_detail"].items():
        for n, macro in result["macro"].items():
            rows.append(
                [
                    name,
                    n,
                    f"{macro:.1f}",
                    _interval(result["ci95"][n]),
                    f"{result['micro'][n]:.1f}",
                    str(result["short"][n]),
                    str(result["left_out"]),
                ]
            )
    return rows


def factscore_rows(report: Mapping[str, Any]) -> Table:
    """FActScore with and without length penalty, and what it is made of."""
    header = ["system", "answers", "FActScore", "95 %", "penalised", "95 %", "responds"]
    counts = ["abstained", "unfinished_reasoning", "without_facts", "errors", "unknown_topics"]
    header += ["facts each", "supported", "not"]
    rows = [[*header, *(name.replace("_", " ") for name in counts)]]
    for name, decodings in report["factscore"].items():
        for decoding, score in decodings.items():
            if "not_scored" in score:
                rows.append([name, decoding, "none", *[""] * (len(rows[0]) - 3)])
                continue
            rows.append(
                [
                    name,
                    decoding,
                    f"{score['macro']:.1f}",
                    _interval(score["ci95"]),
                    f"{score['penalised']:.1f}",
                    _interval(score["penalised_ci95"]),
                    f"{score['respond_ratio']:.1f}",
                    f"{score['mean_supported'] + score['mean_not_supported']:.1f}",
                    f"{score['mean_supported']:.1f}",
                    f"{score['mean_not_supported']:.1f}",
                    *(str(score[key]) for key in counts),
                ]
            )
    return rows


def win_rate_rows(report: Mapping[str, Any]) -> Table:
    """The win rate against the base, over all answers and over those of similar length."""
    counts = ["wins", "losses", "ties", "disagreements", "errors"]
    header = ["system", "win rate", "95 %", "similar length", "95 %", "of", *counts, "first"]
    rows = [header]
    for name, found in report["win_rate"].items():
        rows.append(
            [
                name,
                *_percent(found, "win_rate", "ci95"),
                *_percent(found["similar"], "win_rate", "ci95"),
                str(found["similar"]["questions"]),
                *(str(found[key]) for key in counts),
                _mean(found["first_preferred"], 0),
            ]
        )
    return rows


def short_form_rows(report: Mapping[str, Any]) -> Table:
    """Short answers by their reference answers, as SimpleQA scores them."""
    scores = {"accuracy": "accuracy", "given_attempted": "given attempted", "f": "F"}
    counts = ["correct", "incorrect", "not_attempted", "errors"]
    header = ["system", "answers", *(cell for name in scores.values() for cell in (name, "95 %"))]
    rows = [[*header, *(name.replace("_", " ") for name in counts)]]
    for name, decodings in report["short_form"].items():
        for decoding, score in decodings.items():
            cells = [cell for key in scores for cell in _percent(score, key, f"{key}_ci95")]
            rows.append([name, decoding, *cells, *(str(score[key]) for key in counts)])
    return rows


def lm_eval_rows(report: Mapping[str, Any]) -> Table:
    """Tasks of lm-evaluation-harness, every system beside the base."""
    header = ["task", "metric", "better", "system", "value", "± s.e.", "against base"]
    rows = [[*header, "examples", "shots"]]
    tasks = dict.fromkeys(name for of in report["lm_eval"].values() for name in of)
    for task in tasks:
        base = report["lm_eval"].get(BASE, {}).get(task, {"metrics": {}})["metrics"]
        have = {name: of[task] for name, of in report["lm_eval"].items() if task in of}
        metrics = dict.fromkeys(key for found in have.values() for key in found["metrics"])
        for metric in metrics:
            for system, found in have.items():
                if (figure := found["metrics"].get(metric)) is None:
                    continue
                change = figure["value"] - base[metric]["value"] if metric in base else None
                better = {True: "higher", False: "lower", None: ""}[figure["higher_is_better"]]
                rows.append(
                    [
                        *(task, metric, better, system),
                        f"{figure['value']:.4f}",
                        _mean(figure["stderr"], 4),
                        "" if change is None or system == BASE else f"{change:+.4f}",
                        str(found["examples"] or ""),
                        "" if found["num_fewshot"] is None else str(found["num_fewshot"]),
                    ]
                )
    return rows


def stage_rows(report: Mapping[str, Any]) -> Table:
    """What came into every stage, went out, was rejected and why; and seconds."""
    rows = [["stage", "in", "out", "seconds", "rejected"]]
    for name, counts in report["stages"].items():
        counts = dict(counts)
        coming, going = counts.pop("in", ""), counts.pop("out", "")
        rejected = counts.pop("rejected", {})
        left_out, dropped = counts.pop("left_out", {}), counts.pop("dropped", {})
        more = [f"{value} {what}" for what, value in counts.items()]  # training counts steps
        reasons = [f"{n} {reason}" for reason, n in sorted(rejected.items())]
        reasons += [f"{n} answers: {reason}" for reason, n in sorted(left_out.items())]
        reasons += [f"{n} pairs: {reason}" for reason, n in sorted(dropped.items())]
        rows.append(
            [
                name,
                str(coming),
                ", ".join([*map(str, [going] if going != "" else []), *more]),
                f"{report['seconds'][name]:.1f}",
                ", ".join(reasons),
            ]
        )
    return rows


def system_rows(report: Mapping[str, Any]) -> Table:
    """``score_rows`` and, in the rows of sampled answers, a column for each N of best-of-N
    (macro)."""
    header, *rows = score_rows(report)
    best = report["best_of_n"]
    ns = list(dict.fromkeys(n for scores in best.values() for n in scores))
    made = [[*header, *(f"best of {n}" for n in ns)]]
    for row in rows:
        of = best.get(row[0], {}) if row[1] == "sampled" else {}
        made.append([*row, *(f"{of[n]:.1f}" if n in of else "" for n in ns)])
    return made


def systems_table(report: Mapping[str, Any]) -> str:
    """The systems as aligned text: scores, what makes them hard to believe, and details."""
    lines = [f"warning: {warning['text']}" for warning in report["warnings"]]
    return "\n".join(
        [aligned(system_rows(report), names=2), *lines, "", aligned(detail_rows(report), names=2)]
    )


def judges_table(report: Mapping[str, Any]) -> str:
    """The judges beside the first examiner as aligned text, and who they are."""
    who = [f"{name}: {_who(judge)}" for name, judge in report["judges"].items()]
    return "\n".join([aligned(judge_rows(report), names=2), *who])


def best_of_n_table(report: Mapping[str, Any]) -> str:
    """Best of N as aligned text."""
    return aligned(best_of_n_rows(report))


def factscore_table(report: Mapping[str, Any]) -> str:
    """FActScore as aligned text."""
    return aligned(factscore_rows(report))


def win_rate_table(report: Mapping[str, Any]) -> str:
    """Win rates as aligned text."""
    return "answers that a judge prefers to the base's\n" + aligned(win_rate_rows(report))


def short_form_table(report: Mapping[str, Any]) -> str:
    """Short answers as aligned text."""
    return "by reference answers\n" + aligned(short_form_rows(report), names=2)


def lm_eval_table(report: Mapping[str, Any]) -> str:
    """Tasks of lm-evaluation-harness as aligned text."""
    return "lm-evaluation-harness\n" + aligned(lm_eval_rows(report), names=4)


def labels_table(report: Mapping[str, Any]) -> str:
    """All examiners against the human labels of given answers, one table a system."""
    return "\n\n".join(
        f"{name}, as people labelled it\n{agreement_table(examiners)}"
        for name, examiners in report["human_labels"].items()
    )


def agreement_rows(examiners: Mapping[str, Mapping[str, Any]]) -> Table:
    """Annotators against human labels, of hallucinated sentences."""
    names = ["precision", "recall", "f1", "accuracy", "kappa"]
    header = ["of hallucinated sentences", *(cell for name in names for cell in (name, "95 %"))]
    return [
        header,
        *(
            [key, *(cell for name in names for cell in _figure(found[name]))]
            for key, found in examiners.items()
        ),
    ]


def agreement_table(examiners: Mapping[str, Mapping[str, Any]]) -> str:
    """``agreement_rows`` as aligned text, and how many sentences they are of."""
    lines = []
    for key, found in examiners.items():
        judged = (
            f"{key}, {_who(found)}: {found['sentences']} sentences of {found['questions']} "
            f"questions; hallucinated are {found['hallucinated_believed']} by the labels, "
            f"{found['hallucinated_examined']} by the annotator"
        )
        if "calls" in found:
            judged += f"; asked {_cost(found)}"
        if found["errors_examined"] or found["errors_believed"]:
            judged += (
                f"; left out: {found['errors_examined']} that the annotator failed on, "
                f"{found['errors_believed']} labelled error"
            )
        lines.append(judged)
    return "\n".join([aligned(agreement_rows(examiners)), *lines])


def member_tables(examiners: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Of annotators made of others: who decides what, what bands would do, which are proposed."""
    made = {key: found for key, found in examiners.items() if "members" in found}
    found: list[str] = []
    for key, examiner in made.items():
        saved = examiner.get("calls_saved")
        told = "" if saved is None else f"; {saved:.1%} of the calls of the last are saved"
        found.append(f"{key}, its members{told}\n{aligned(member_rows(examiner))}")
        if "bands" in examiner:
            found.append(f"{key}, other bands\n{aligned(band_rows(examiner), names=2)}")
            found.append(_proposal(key, examiner))
    return found


def member_rows(examiner: Mapping[str, Any]) -> Table:
    """What each member was asked, and how what it decided agrees with the labels."""
    header = ["member", "calls", "tokens", "decides", "precision", "recall", "f1"]
    rows = [[*header, "agreement", "95 %", "kappa"]]
    for key, member in examiner["members"].items():
        of = member["of_decided"]
        figures = [(_figure(of[name])[0] if of else "") for name in ("precision", "recall", "f1")]
        agreement = _figure(of["accuracy"]) if of else ["", ""]
        kappa = _figure(of["kappa"])[0] if of else ""
        tokens = "" if member["tokens"] is None else str(member["tokens"])
        decides = f"{member['share_decided']:.1%}"
        rows.append([key, str(member["calls"]), tokens, decides, *figures, *agreement, kappa])
    return rows


def band_rows(examiner: Mapping[str, Any]) -> Table:
    """What each band would decide, and what would become of the whole."""
    names = ["precision", "recall", "f1", "kappa"]
    rows = [["member", "band", "decides", "agreement", "95 %", *names, "calls saved"]]
    keys = list(examiner["members"])
    for each in examiner["bands"]:
        decided, whole = each["decided"], each["cascade"]
        rows.append(
            [
                keys[each["member"]],
                f"{each['band']:g}",
                f"{each['share_decided']:.1%}",
                *(_figure(decided["accuracy"]) if decided else ["", ""]),
                *(_figure(whole[name])[0] if whole else "" for name in names),
                f"{each['calls_saved']:.1%}",
            ]
        )
    return rows


def _proposal(key: str, examiner: Mapping[str, Any]) -> str:
    """The proposed bands as they are set, and what they do on the half that they are not from."""
    found = examiner["proposed"]
    if not found["chosen_on"]["sentences"] or not found["shown_on"]["sentences"]:
        return f"{key}: too few labelled topics to propose bands"
    keys, wanted = list(examiner["members"]), found["agreement"]
    chosen, shown = (
        "{sentences} sentences of {topics} topics".format(**found[half])
        for half in ("chosen_on", "shown_on")
    )
    lines = [f"{key}, bands for an agreement of {wanted:g}, chosen on {chosen}; on {shown}:"]
    for place, (band, of) in enumerate(zip(found["bands"], found["members"], strict=True)):
        if band is None or not of["decided"]:
            lines.append(f"  {keys[place]}: no band keeps it")
            continue
        agreement, interval = _figure(of["decided"]["accuracy"])
        lines.append(
            f"  {keys[place]}: decides {of['share_decided']:.1%}, agreement {agreement} "
            f"({interval})"
        )
    whole = found["members"][-1]
    if None not in found["bands"]:
        bands = ", ".join(
            "{" + ", ".join(f"{verdict}: {least:g}" for verdict, least in band.items()) + "}"
            for band in found["bands"]
        )
        kappa = _figure(whole["cascade"]["kappa"])[0]
        lines.append(
            f"  {key}.bands='[{bands}]': kappa of the whole {kappa}, {whole['calls_saved']:.1%} of "
            "the calls of the last saved"
        )
    return "\n".join(lines)


def _cost(found: Mapping[str, Any]) -> str:
    told = "" if found["tokens"] is None else f" ({found['tokens']} tokens)"
    return f"{found['calls']} times{told}"


def _who(examiner: Mapping[str, Any]) -> str:
    return f"{examiner['annotator']} {examiner['model'] or ''}".strip()


def _figure(found: list[float] | None) -> list[str]:
    """A share or kappa, and its interval."""
    if found is None:
        return ["undefined", ""]
    value, low, high = found
    return [f"{value:.3f}", NO_INTERVAL if low is None else f"{low:.3f}-{high:.3f}"]


def aligned(table: Table, names: int = 1) -> str:
    """A table as text; the columns of names to the left, figures to the right."""
    widths = [max(_width(row[column]) for row in table) for column in range(len(table[0]))]
    lines = []
    for row in table:
        cells = [
            _padded(cell, width, left=column < names)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _width(text: str) -> int:
    """Columns of a terminal that a text takes: Chinese characters take two."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def _padded(cell: str, width: int, left: bool) -> str:
    space = " " * (width - _width(cell))
    return cell + space if left else space + cell


def _scored(report: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """System, decoding and score; given answers may lack a decoding."""
    for name, system in report["systems"].items():
        for decoding, score in system.items():
            if score is not None:
                yield name, decoding, score


def _k(report: Mapping[str, Any]) -> int | None:
    """K of F1@K, the same for all; None where it is not known."""
    return next((of["k"] for _, _, score in _scored(report) if (of := score["f1_at_k"])), None)


def _score(score: Mapping[str, Any]) -> list[str]:
    return _percent(score, "micro", "ci95")


def _percent(score: Mapping[str, Any], figure: str, interval: str) -> list[str]:
    """A figure in percent and its interval; empty where there is none."""
    if score[figure] is None:
        return ["", ""]
    return [f"{score[figure]:.1f}", _interval(score[interval])]


def _mean(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _interval(edges: list[float] | None) -> str:
    return "{:.1f}-{:.1f}".format(*edges) if edges else NO_INTERVAL
