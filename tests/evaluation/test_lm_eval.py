"""Tasks of lm-evaluation-harness: read out of what it writes, and run where it is installed."""

import asyncio
import json
import threading
from importlib.util import find_spec
from types import SimpleNamespace

import models
import pytest

from maskdpo_ray.config import build_config
from maskdpo_ray.errors import UserError
from maskdpo_ray.evaluation.lm_eval.harness import Harness
from maskdpo_ray.evaluation.lm_eval.score import task_figures
from maskdpo_ray.evaluation.lm_eval.tasks import check_tasks
from maskdpo_ray.report.table import lm_eval_rows
from maskdpo_ray.stages import Stages

FOUND = {  # as version 0.4.13 writes it
    "results": {
        "places": {
            "alias": "places",
            "acc,none": 0.25,
            "acc_stderr,none": 0.125,
            "sample_len": 8,
        },
        "born": {
            "alias": "born",
            "exact_match,strict": 0.5,
            "exact_match_stderr,strict": "N/A",
            "bleu,none": 3.5,
            "bleu_stderr,none": 0.5,
        },
    },
    "n-samples": {"places": {"original": 12, "effective": 8}},
    "n-shot": {"places": 0, "born": 5},
    "versions": {"places": 1.0},
    "higher_is_better": {"places": {"acc": True}, "born": {"exact_match": True, "bleu": None}},
}


def test_figures_are_read_with_their_errors():
    rows = [{"id": "all", "found": json.dumps(FOUND)}, {"id": "other", "found": "{}"}]
    found = task_figures(rows, ["all"])
    assert found["places"] == {
        "metrics": {"acc": {"value": 0.25, "stderr": 0.125, "higher_is_better": True}},
        "examples": 8,
        "num_fewshot": 0,
        "version": 1.0,
    }
    assert found["born"]["metrics"] == {
        "exact_match,strict": {"value": 0.5, "stderr": None, "higher_is_better": True},
        "bleu": {"value": 3.5, "stderr": 0.5, "higher_is_better": None},
    }
    assert task_figures(rows, ["none"]) == {}


def test_every_system_stands_beside_the_base():
    base = task_figures([{"id": "all", "found": json.dumps(FOUND)}], ["all"])
    ours = json.loads(json.dumps(base))
    ours["places"]["metrics"]["acc"]["value"] = 0.125
    header, *rows = lm_eval_rows({"lm_eval": {"base": base, "mask_dpo": ours}})
    found = [dict(zip(header, row, strict=True)) for row in rows]
    places = [row for row in found if row["task"] == "places"]
    assert [row["system"] for row in places] == ["base", "mask_dpo"]
    assert [row["against base"] for row in places] == ["", "-0.1250"]
    assert [row["better"] for row in places] == ["higher", "higher"]
    assert [row["± s.e."] for row in found if row["metric"] == "exact_match,strict"] == ["", ""]
    alone = lm_eval_rows({"lm_eval": {"theirs": ours}})
    assert alone[1][6] == "", "no base to compare with"


def test_a_task_is_a_row_and_all_run_in_one_thread():
    threads = set()

    def evaluate(task):
        threads.add(threading.get_ident())
        return {"results": {task: {"acc,none": 1.0}}, "config": "left out", "groups": {}}

    harness = Harness(evaluate)
    rows = asyncio.run(harness([{"id": "a"}, {"id": "b"}])) + asyncio.run(harness([{"id": "c"}]))
    assert [row["id"] for row in rows] == ["a", "b", "c"] and len(threads) == 1
    assert json.loads(rows[0]["found"]) == {"results": {"a": {"acc,none": 1.0}}}


def tree(lm_eval, **sections) -> dict:
    return {
        "run_dir": "x",
        "model": {"path": "p"},
        "data": {"test": "t"},
        "systems": {},
        "annotation": {"annotator": "judge", "model": "m"},
        "evaluation": {"lm_eval": lm_eval},
    } | sections


@pytest.mark.parametrize(
    ("lm_eval", "words"),
    [
        ({}, "evaluation.lm_eval.tasks"),
        ({"tasks": []}, "evaluation.lm_eval.tasks"),
        ({"tasks": ["a", "a"]}, "names one twice"),
        ({"tasks": ["a"], "limit": 0}, "evaluation.lm_eval.limit"),
        ({"tasks": ["a"], "engine": {"tensor_parallel_size": 2}}, "resources.lm_eval.gpus=2"),
        ({"tasks": ["a"], "engine": {"model": "m"}}, "decided by the section's model"),
    ],
)
def test_what_makes_no_sense_is_refused(lm_eval, words):
    with pytest.raises(UserError) as caught:
        build_config(tree(lm_eval))
    assert words in str(caught.value)


@pytest.mark.skipif(find_spec("lm_eval") is not None, reason="lm_eval is installed")
def test_without_the_harness_it_says_what_to_install():
    with pytest.raises(UserError, match=r"pip install 'maskdpo-ray\[lm-eval\]'"):
        check_tasks(["arc_easy"], None)


# -- with the harness -----------------------------------------------------------------------------

harness = pytest.mark.skipif(
    find_spec("lm_eval") is None, reason="lm_eval is not installed: extra lm-eval"
)


@pytest.fixture
def own_tasks(tmp_path):
    """Two tasks on data that lies beside them: choices by their likelihood, and generation."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    places = ["Selby", "Ashcombe", "York"]
    rows = [
        {"question": f"Where was person {n} born?", "choices": places, "answer": n % 3}
        for n in range(8)
    ]
    (folder / "places.jsonl").write_text("\n".join(map(json.dumps, rows)))
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "places.jsonl")}},
        "test_split": "test",
        "fewshot_split": "test",
        "doc_to_text": "Question: {{question}}\nAnswer:",
    }
    choices = common | {
        "task": "places",
        "output_type": "multiple_choice",
        "doc_to_target": "answer",
        "doc_to_choice": "choices",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    written = common | {
        "task": "born",
        "output_type": "generate_until",
        "doc_to_target": "{{choices[answer]}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    for task in (choices, written):
        (folder / f"{task['task']}.yaml").write_text(json.dumps(task))
    return folder


@harness
def test_a_task_that_the_harness_does_not_know_is_told_before_anything_starts(own_tasks, tmp_path):
    section = {"tasks": ["places", "plaices"], "include_path": str(own_tasks)}
    (tmp_path / "t.jsonl").write_text('{"question": "a?"}')
    given = tree(section, run_dir=str(tmp_path / "run"), data={"test": str(tmp_path / "t.jsonl")})
    given["model"] = {"path": models.tiny_llama(), "dtype": "float32"}
    given["evaluation"]["judges"] = {}
    with pytest.raises(UserError, match="the harness knows no 'plaices'"):
        Stages(build_config(given))
    given["evaluation"]["lm_eval"]["include_path"] = "none"
    with pytest.raises(UserError, match="no folder at none"):
        Stages(build_config(given))


@harness
def test_likelihoods_are_those_of_plain_logits(engine):
    """Of continuations, of whole texts in windows, and whether greedy decoding says the same."""
    import torch
    from transformers import AutoModelForCausalLM

    from maskdpo_ray.evaluation.lm_eval.model import EngineLM

    lm = EngineLM(engine, lambda messages: "")
    plain = AutoModelForCausalLM.from_pretrained(models.tiny_llama(), dtype=torch.float32)

    def expected(context, continuation):
        ids = torch.tensor([context + continuation])
        with torch.no_grad():
            logps = plain(ids).logits[0].log_softmax(-1)[len(context) - 1 : -1]
        said = ids[0, len(context) :]
        greedy = bool((logps.argmax(-1) == said).all())
        return float(logps.gather(1, said[:, None]).sum()), greedy

    context = [1, 5, 9, 4]
    best = []
    for _ in range(3):
        with torch.no_grad():
            best.append(int(plain(torch.tensor([context + best])).logits[0, -1].argmax()))
    asked = [(context, best), (context, [7, 3]), ([1], [9])]
    found = lm._loglikelihood_tokens([(None, *each) for each in asked])
    for (logp, greedy), each in zip(found, asked, strict=True):
        assert (pytest.approx(logp, abs=1e-3), greedy) == expected(*each)
    assert [greedy for _, greedy in found][0] is True
    # Longer than the model reads: the beginning of the context goes.
    room = engine.max_model_len - 1
    long = [4 + n % 7 for n in range(room + 5)]
    [(logp, _)] = lm._loglikelihood_tokens([(None, long, [7, 3])])
    assert logp == pytest.approx(expected(long[2 - room :], [7, 3])[0], abs=1e-3)
    text = lm.tokenizer.decode([5, 9, 4, 7])
    ids = lm.tok_encode(text, add_special_tokens=False)
    [whole] = lm.loglikelihood_rolling([SimpleNamespace(args=(text,))])
    assert whole == pytest.approx(expected([lm.prefix_token_id], ids)[0], abs=1e-3)


@harness
def test_tasks_of_ones_own_run_on_the_base_and_one_more_is_added(own_tasks, tmp_path, maskdpo):
    """The whole of it, in actors and on vLLM."""
    (tmp_path / "t.jsonl").write_text('{"question": "a?", "id": "q"}')
    (tmp_path / "a.jsonl").write_text('{"id": "q", "response": "Yes."}')
    engine = {"max_model_len": 512, "kv_cache_memory_bytes": 2**26}
    given = tree(
        {"tasks": ["places"], "include_path": str(own_tasks), "limit": 6, "num_fewshot": 1},
        run_dir=str(tmp_path / "run"),
        data={"test": str(tmp_path / "t.jsonl")},
        annotation={"annotator": "judge", "model": models.tiny_llama(), "dtype": "float32"},
    )
    judge = {"templates": "closed_book", "engine": engine}
    given["annotation"] |= judge
    given["model"] = {"path": models.tiny_llama(), "dtype": "float32"}
    given["sampling"] = {"engine": engine}
    given["evaluation"] |= {"judges": {}, "samples": 1, "best_of_n": [1], "max_tokens": 8}
    given["evaluation"]["lm_eval"]["apply_chat_template"] = True
    given["model"]["system_prompt"] = "Be brief."
    (tmp_path / "c.yaml").write_text(json.dumps(given))
    printed = maskdpo("evaluate", tmp_path / "c.yaml")
    assert "lm-evaluation-harness" in printed
    made = json.loads((tmp_path / "run" / "report.json").read_text())["lm_eval"]["base"]
    assert (made["places"]["examples"], made["places"]["num_fewshot"]) == (6, 1)
    [parts] = (tmp_path / "run").glob("lm-eval-base/*/")
    before = {path.name: path.stat().st_mtime_ns for path in parts.glob("part-*")}
    maskdpo("evaluate", tmp_path / "c.yaml", "evaluation.lm_eval.tasks=[places, born]")
    made = json.loads((tmp_path / "run" / "report.json").read_text())["lm_eval"]["base"]
    assert set(made) == {"places", "born"}
    after = {path.name: path.stat().st_mtime_ns for path in parts.glob("part-*")}
    assert before.items() < after.items(), "what was done is not done again"
