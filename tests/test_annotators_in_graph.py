"""Model annotators inside the graph: a tiny random model samples, judges, and runs the protocol.

What it says is nonsense; that every sentence gets a verdict or an `error`, that every row is
accounted for, and that another annotator samples nothing again, is not.
"""

import asyncio
import json

import models
import pytest

from maskdpo_ray.annotation.annotate import Annotate
from maskdpo_ray.config import AnnotationConfig, build_config
from maskdpo_ray.errors import RowRejected
from maskdpo_ray.records import INCORRECT_VERDICTS
from maskdpo_ray.stages import Stages

QUESTIONS = 5


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Makes the configuration with one annotator; questions and run directory are shared."""
    folder = tmp_path_factory.mktemp("graph")
    lines = [
        {
            "id": f"q{n}",
            "topic": f"t{n}",
            "question": f"Where was person {n} born?",
            "document": None if n == 4 else "She was born in 1901.",
        }
        for n in range(QUESTIONS)
    ]
    (folder / "q.jsonl").write_text("\n".join(map(json.dumps, lines)))
    engine = {"max_model_len": 512, "kv_cache_memory_bytes": 2**26}

    def make(annotator: str) -> tuple[dict, str]:
        tree = {
            "run_dir": str(folder / "run"),
            "model": {"path": models.tiny_llama(), "dtype": "float32"},
            "data": {"train": str(folder / "q.jsonl")},
            "sampling": {"candidates": 3, "max_tokens": 24, "engine": engine},
            "annotation": {
                "annotator": annotator,
                "model": models.tiny_llama(),
                "dtype": "float32",
                "max_tokens": 16,
                "engine": engine,
            },
            "preference": {"max_length": 512},
            "resources": {"questions_per_block": 2, "annotator": {"actors": [1, 2]}},
        }
        path = folder / f"{annotator}.yaml"
        path.write_text(json.dumps(tree))
        return tree, str(path)

    return make


def verdicts(tree: dict) -> tuple[list[str], dict, set]:
    stages = Stages(build_config(tree))
    rows = list(stages.annotate().store.rows())
    found = [s["verdict"] for r in rows for c in r["candidates"] for s in c["sentences"]]
    sampled = stages.sample().store
    parts = {(p, (sampled.folder / p).uri) for p in sampled.parts()}
    return found, stages.annotate().store.manifest()["counts"], parts


def test_judge_then_anah_on_the_same_samples(made, maskdpo):
    tree, path = made("judge")
    maskdpo("sample", path)
    maskdpo("annotate", path)
    found, counts, sampled = verdicts(tree)
    assert counts == {"in": 5, "out": 4, "rejected": {"document_missing": 1}}
    assert found and set(found) <= {"ok", "nofact", *INCORRECT_VERDICTS, "error"}
    assert set(found) != {"error"}, "constrained decoding always gives a verdict"

    tree, path = made("anah")
    maskdpo("annotate", path, "--rerun")
    found, counts, same = verdicts(tree)
    assert counts["in"] == counts["out"] + sum(counts["rejected"].values()) == QUESTIONS
    assert "error" in found
    assert same == sampled, "another annotator samples nothing again"


def test_judges_are_checked_against_labels(made, maskdpo, tmp_path):
    text = "She was born in 1901. She was a judge. She moved."
    cuts = [(0, 21, "ok"), (22, 38, "contradictory"), (39, 49, "nofact")]
    sentences = [{"start": a, "end": b, "label": label} for a, b, label in cuts]
    lines = [
        {
            "question": f"Where was person {n} born?",
            "document": "She was born in 1901.",
            "candidates": [{"response": text, "sentences": sentences if n else []}],
        }
        for n in range(4)
    ]
    (tmp_path / "labelled.jsonl").write_text("\n".join(map(json.dumps, lines)))
    tree, path = made("judge")
    judges = {"same": tree["annotation"], "other": {**tree["annotation"], "max_tokens": 24}}
    data = [
        f"data.train={tmp_path / 'labelled.jsonl'}",
        f"data.test={tree['data']['train']}",
        f"run_dir={tmp_path / 'run'}",
    ]
    both = [*data, f"evaluation.judges={json.dumps(judges)}"]
    table = maskdpo("judge-check", path, *both)
    found = json.loads((tmp_path / "run" / "judge-check.json").read_text())
    assert list(found["examiners"]) == ["annotation", "evaluation.judges.other"]
    for examiner in found["examiners"].values():
        assert (examiner["annotator"], examiner["model"]) == ("judge", models.tiny_llama())
        assert (examiner["sentences"], examiner["questions"]) == (9, 3)
        assert examiner["hallucinated_believed"] == 3
    assert "kappa" in table and "9 sentences of 3 questions" in table
    assert table.count("1 rejected (labels_missing)") == 2

    assert maskdpo("judge-check", path, *both).splitlines()[-6:] == table.splitlines()[-6:]
    refused = ["annotation={annotator: labels}", "sampling={source: input}", "--rerun"]
    refused += ["data.test=null"]
    assert "no judgement to check" in maskdpo("judge-check", path, *data, *refused, code=2)


NLI = {0: "entailment", 1: "neutral", 2: "contradiction"}


def median_confidence(annotation: dict, rows) -> float:
    """Of an annotator's verdicts on these answers."""
    settings = AnnotationConfig.of(**annotation)
    judged = asyncio.run(Annotate(settings.kind.build(settings, None))(list(rows)))
    kept = [row for row in judged if not isinstance(row, RowRejected)]
    sentences = [s for row in kept for c in row["candidates"] for s in c["sentences"]]
    found = sorted(s["confidence"] for s in sentences if s["confidence"] is not None)
    return found[len(found) // 2]


def test_an_encoder_and_a_judge_in_one_cascade_annotate_and_are_checked(made, maskdpo, tmp_path):
    """In the annotator's actor the encoder stands beside the judge's engine; for the check each
    judges alone, and what the cascade says follows from that."""
    tree, path = made("judge")
    encoder = models.classifier(tmp_path, "BertForSequenceClassification", NLI)
    members = [{"annotator": "encoder", "model": encoder}, {**tree["annotation"], "max_tokens": 24}]
    maskdpo("sample", path, "--rerun")
    band = median_confidence(members[0], Stages(build_config(tree)).sample().store.rows())
    given = {"cascade": members, "bands": [band], "prune": True}
    cascade = f"annotation={json.dumps(given)}"
    maskdpo("annotate", path, cascade, "--rerun")
    stages = Stages(build_config({**tree, "annotation": given}))
    rows = list(stages.annotate().store.rows())
    said = [json.loads(s["detail"]) for r in rows for c in r["candidates"] for s in c["sentences"]
            if s["verdict"] not in ("skipped", "error")]  # fmt: skip
    assert {each["decided_by"] for each in said} == {"encoder", "judge"}
    assert all(each["tokens"] > 0 for each in said)
    for each in said:
        assert (len(each["said"]) == 1) == (each["said"][0]["confidence"] >= band)

    lines = []
    for n, row in enumerate(rows):
        [first, *_] = row["candidates"]
        labels = ["ok", "unverifiable"]
        cut = [{**{k: s[k] for k in ("start", "end")}, "label": labels[(n + place) % 2]}
               for place, s in enumerate(first["sentences"])]  # fmt: skip
        lines.append({key: row[key] for key in ("id", "topic", "question", "document")})
        lines[-1]["candidates"] = [{"response": first["response"], "sentences": cut}]
    (tmp_path / "labelled.jsonl").write_text("\n".join(map(json.dumps, lines)))
    data = [f"data.train={tmp_path / 'labelled.jsonl'}", f"run_dir={tmp_path / 'run'}"]
    printed = maskdpo("judge-check", path, cascade, *data)
    found = json.loads((tmp_path / "run" / "judge-check.json").read_text())["examiners"]
    keys = ["annotation", "annotation.cascade.0", "annotation.cascade.1"]
    assert list(found) == keys
    first, last = found["annotation"]["members"].values()
    assert first["calls"] == found[keys[1]]["calls"] == found[keys[2]]["calls"]
    assert last["calls"] < first["calls"] and first["tokens"] > 0 and last["tokens"] > 0
    saved = 1 - last["calls"] / first["calls"]
    assert found["annotation"]["calls_saved"] == pytest.approx(saved)
    assert f"{saved:.1%} of the calls of the last are saved" in printed
    # What it says of the sentences that it annotated in the graph, it says of them here.
    again = {}
    for row in stages.annotate().store.rows():
        for sentence in row["candidates"][0]["sentences"]:
            if sentence["verdict"] not in ("skipped", "error"):
                again[sentence["verdict"]] = again.get(sentence["verdict"], 0) + 1
    by_check = {
        verdict: sum(of.values()) for verdict, of in found["annotation"]["verdicts"].items()
    }
    assert all(count <= by_check[verdict] for verdict, count in again.items())

    stores = set((tmp_path / "run" / "judge-check").iterdir())
    assert len(stores) == 2
    wider = f"annotation={json.dumps({**given, 'bands': [0.0]})}"
    maskdpo("judge-check", path, wider, *data)
    assert set((tmp_path / "run" / "judge-check").iterdir()) == stores, "nobody is asked again"
    found = json.loads((tmp_path / "run" / "judge-check.json").read_text())["examiners"]
    assert found["annotation"]["members"][keys[2]]["calls"] == 0


@pytest.fixture(scope="module")
def reader(tmp_path_factory) -> str:
    """A tiny model whose context holds the whole wording of a judge, deep enough to reply now so
    and now so."""
    return models.build_tiny_llama(tmp_path_factory.mktemp("reader"), context=2048, layers=4)


@pytest.mark.parametrize("name", ["factscore_bio", "tofueval"])
def test_a_judge_without_documents_is_checked_against_real_labels(
    real_data, reader, maskdpo, tmp_path, name
):
    """Neither file has documents: the wording that needs one says which to take."""
    tree = {
        "run_dir": str(tmp_path / "run"),
        "model": {"path": reader},
        "data": {"train": str(real_data / f"{name}.jsonl"), "limit": 4},
        "annotation": {"annotator": "judge", "model": reader, "dtype": "float32", "max_tokens": 16},
    }
    tree["annotation"]["engine"] = {"max_model_len": 2048, "kv_cache_memory_bytes": 2**26}
    (tmp_path / "c.yaml").write_text(json.dumps(tree))
    if name == "tofueval":  # once is enough
        printed = maskdpo("judge-check", tmp_path / "c.yaml", code=2)
        assert "4 rejected (document_missing), first: question 'tofu-000' has no docu" in printed
        assert "`templates: closed_book`" in printed
    closed = ["annotation.templates=closed_book", "--rerun"]
    table = maskdpo("judge-check", tmp_path / "c.yaml", *closed)
    [found] = json.loads((tmp_path / "run" / "judge-check.json").read_text())["examiners"].values()
    assert found["questions"] == 4 and found["errors_examined"] == 0
    assert found["sentences"] == sum(sum(of.values()) for of in found["verdicts"].values()) > 20
    [row] = [line.split() for line in table.splitlines() if line.startswith("annotation ")]
    for figure in ("precision", "recall", "f1", "accuracy", "kappa"):
        value, low, high = found[figure]
        assert f"{value:.3f}" in row
        if low is None:  # of one document alone
            assert high is None and "n/a" in row
        else:
            assert low <= value <= high


def test_the_policy_judges_by_default_what_another_model_has_judged(reader, maskdpo, tmp_path):
    other = models.build_tiny_llama(tmp_path / "other", context=2048, layers=4, seed=1)
    engine = {"max_model_len": 2048, "kv_cache_memory_bytes": 2**26}
    questions = [{"topic": f"t{n}", "question": f"Where was person {n} born?"} for n in range(4)]
    questions = [{**each, "id": each["topic"], "answers": ["Selby"]} for each in questions]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, questions)))
    given = [{"id": f"t{n}", "response": "In Selby, in 1890."} for n in range(4)]
    (tmp_path / "given.jsonl").write_text("\n".join(map(json.dumps, given)))
    judge = {"model": other, "dtype": "float32", "engine": engine}
    tree = {
        "run_dir": str(tmp_path / "run"),
        "systems": {},
        "model": {"path": reader, "dtype": "float32"},
        "data": {"test": str(tmp_path / "test.jsonl")},
        "sampling": {"engine": engine},
        "annotation": {
            "annotator": "judge",
            "model": other,
            "dtype": "float32",
            "templates": "closed_book",
            "engine": engine,
        },
        "evaluation": {
            "samples": 2,
            "best_of_n": [1],
            "max_tokens": 24,
            "models": {"given": {"responses": str(tmp_path / "given.jsonl")}},
            "win_rate": judge,
            "short_form": {"judge": judge},
        },
    }
    (tmp_path / "c.yaml").write_text(json.dumps(tree))
    printed = maskdpo("evaluate", tmp_path / "c.yaml")
    made = json.loads((tmp_path / "run" / "report.json").read_text())
    assert made["config"]["evaluation"]["judges"]["policy"]["model"] == reader
    [judge] = made["judges"].values()
    assert (judge["annotator"], judge["model"]) == ("judge", reader)
    assert judge["systems"]["base"]["sampled"]["errors"] == 0
    assert judge["systems"]["base"]["agreement"]["sentences"] >= 12
    assert f"policy: judge {reader}" in printed and "only one examiner" not in printed
    # An untrained judge prefers at random, but says one of the words, in both orders.
    won = made["win_rate"]["given"]
    assert (won["questions"], won["errors"], set(made["win_rate"])) == (4, 0, {"given"})
    assert won["wins"] + won["losses"] + won["ties"] == 4
    graded = made["short_form"]
    assert graded["given"]["greedy"]["answers"] == graded["base"]["greedy"]["answers"] == 4
    assert "answers that a judge prefers to the base's" in printed
    assert "by reference answers" in printed
