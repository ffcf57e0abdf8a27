"""Sampling asks for no annotator, and what another program says of its answers comes back to the
same pairs as an annotator inside makes."""

import json
import shutil
from pathlib import Path

from maskdpo_ray.config import read_config
from maskdpo_ray.stages import Stages
from maskdpo_ray.world.annotator import closed_world_verdict

SMOKE = Path(__file__).parents[1] / "jobs" / "configs" / "smoke.yaml"
SHORT = ["sampling.max_tokens=12", "data.limit=12"]  # most answers are cut


def pairs(run_dir: Path, *settings: str) -> list[dict]:
    store = Stages(read_config(SMOKE, [f"run_dir={run_dir}", *settings])).pair().store
    sides = ("chosen", "rejected")
    return sorted(
        [pair["id"], pair["prompt_ids"], *(
            (pair[side]["token_ids"], pair[side]["weights"]) for side in sides
        )]
        for pair in store.rows()
    )  # fmt: skip


def test_labels_of_another_program_make_the_pairs_of_an_annotator_inside(
    maskdpo, run_dir, tmp_path
):
    nobody, inside = "annotation=null", "annotation={annotator: closed_world}"
    printed = maskdpo("sample", SMOKE, f"run_dir={run_dir}", *SHORT, nobody)
    [exported] = run_dir.glob("sample/*/candidates.jsonl")
    assert str(exported) in printed
    sampled = exported.stat().st_mtime_ns
    for verb in ("annotate", "pair"):  # of nobody before: nothing finished is redone
        maskdpo(verb, SMOKE, f"run_dir={run_dir}", *SHORT, inside)
    assert exported.stat().st_mtime_ns == sampled

    [facts] = run_dir.glob("world/*/facts.json")
    known = json.loads(facts.read_text())
    lines = [json.loads(line) for line in exported.read_text().splitlines()]
    reasons = [each["finish_reason"] for line in lines for each in line["candidates"]]
    assert len(lines) == 12 and "length" in reasons
    for line in lines:
        for candidate in line["candidates"]:
            for sentence in candidate["sentences"]:
                said, _ = closed_world_verdict(known, line["topic"], sentence["text"])
                sentence["label"] = said
    (tmp_path / "labelled.jsonl").write_text("\n".join(map(json.dumps, lines)))
    back = [
        f"data.train={tmp_path / 'labelled.jsonl'}", "sampling={source: input}",
        "annotation={annotator: labels}", "evaluation={}",
    ]  # fmt: skip
    other = tmp_path / "other"
    shutil.copytree(run_dir / "world", other / "world")
    for verb in ("sample", "annotate", "pair"):
        maskdpo(verb, SMOKE, f"run_dir={other}", *back)
    assert pairs(other, *back) == pairs(run_dir, *SHORT, inside) != []
    refused = maskdpo("run", SMOKE, f"run_dir={other}", *back, code=2)
    assert "annotator 'labels' cannot judge new answers: set evaluation.annotation" in refused
