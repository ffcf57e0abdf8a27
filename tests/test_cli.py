import subprocess
import sys

import models
import pytest

from maskdpo_ray.cli import main

HEAVY = "ray torch vllm transformers deepspeed pyarrow nltk matplotlib"
PROBE = f"""
import sys
from maskdpo_ray.cli import main
try:
    status = main(sys.argv[1:])
except SystemExit as stop:
    status = stop.code
print("heavy:", [name for name in {HEAVY.split()!r} if name in sys.modules])
sys.exit(status)
"""


def probe(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", PROBE, *arguments], capture_output=True, text=True, check=False
    )


def test_help_imports_nothing_heavy():
    done = probe("--help")
    assert done.returncode == 0
    assert "best-of-n" in done.stdout
    assert done.stdout.rstrip().endswith("heavy: []")


def test_a_configuration_error_is_one_line_and_imports_nothing_heavy(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("run_dir: x\nworld: {}\nannotation: {annotator: closed_world}\n")
    done = probe("run", str(path), "sampling.candidates=1")
    assert done.returncode == 2
    assert done.stderr.startswith(f"maskdpo: {path}: sampling.candidates: a preference pair needs")
    assert done.stderr.count("\n") == 1
    assert done.stdout.rstrip().endswith("heavy: []")


def refused(capsys, *arguments: str) -> str:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_a_missing_configuration_is_named(capsys, tmp_path):
    assert f"no configuration file at {tmp_path}/c.yaml" in refused(
        capsys, "run", f"{tmp_path}/c.yaml"
    )


def test_a_folder_that_is_no_run_directory(capsys, tmp_path):
    assert "is no run directory: it holds no config.yaml" in refused(
        capsys, "report", str(tmp_path)
    )


def given_model(tmp_path, model: str, questions: str) -> str:
    path = tmp_path / "c.yaml"
    path.write_text(
        f"run_dir: {tmp_path}/run\nmodel: {{path: {model}}}\ndata: {{train: {questions}}}\n"
        "sampling: {source: input}\nannotation: {annotator: labels}\n"
    )
    return str(path)


def test_a_run_that_would_do_nothing_is_told_so(capsys, tmp_path):
    (tmp_path / "q.jsonl").write_text('{"id": "a", "topic": "t", "question": "q"}\n')
    given = given_model(tmp_path, models.tiny_llama(), f"{tmp_path}/q.jsonl")
    capsys.readouterr()  # of what made the model
    assert "there is nothing to run: systems={} trains none" in refused(
        capsys, "run", given, "systems={}"
    )


def test_an_unreachable_model_and_a_missing_question_file(capsys, tmp_path):
    questions = tmp_path / "q.jsonl"
    questions.write_text('{"id": "a", "topic": "t", "question": "q"}\n')
    error = refused(capsys, "run", given_model(tmp_path, "/none", str(questions)))
    assert "model.path '/none' is neither a folder here nor a hub id" in error
    (tmp_path / "config.json").write_text("{}")
    config = given_model(tmp_path, str(tmp_path), f"{tmp_path}/none.jsonl")
    error = refused(capsys, "sample", config)
    assert f"{tmp_path}/none.jsonl" in error


def test_a_relative_run_dir_is_refused_inside_a_job(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert "give an absolute path or a URL" in refused(capsys, "demo", "run_dir=runs/x")


def test_settings_may_stand_before_and_after_options(capsys, tmp_path):
    for order in (["--rerun", "seed=-1"], ["seed=-1", "--rerun"], ["a.b=1", "--rerun", "seed=-1"]):
        assert "seed: Input should be greater than or equal to 0" in refused(
            capsys, "demo", f"run_dir={tmp_path}", *order
        )
    with pytest.raises(SystemExit):
        main(["demo", "--rerum", "seed=1"])
    assert "unrecognized arguments: --rerum" in capsys.readouterr().err


def test_missing_engines_are_named_with_the_extra(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in ("maskdpo_ray.pipeline", "maskdpo_ray.stream", "maskdpo_ray.stages"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert "pip install 'maskdpo-ray[gpu]'" in refused(capsys, "demo", f"run_dir={tmp_path}/run")


def test_train_and_test_questions_are_kept_apart_by_every_verb(capsys, tmp_path):
    questions = tmp_path / "q.jsonl"
    questions.write_text('{"id": "a", "topic": "t", "question": "q"}\n')
    (tmp_path / "config.json").write_text("{}")
    config = given_model(tmp_path, str(tmp_path), str(questions))
    judge = "evaluation.annotation={annotator: judge, model: m/n}"
    error = refused(capsys, "sample", config, f"data.test={questions}", judge)
    assert "data.test: 1 rows share a topic with data.train" in error


def test_an_unknown_verb_shows_the_verbs(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["trian", "c.yaml"])
    assert stop.value.code == 2
    assert "choose from" in capsys.readouterr().err


def test_a_revision_beside_a_folder_is_refused(capsys, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "q.jsonl").write_text('{"question": "q"}\n')
    path = given_model(tmp_path, str(tmp_path), str(tmp_path / "q.jsonl"))
    assert "model.revision is of a model on the hub" in refused(
        capsys, "sample", path, "model.revision=main"
    )


def test_a_database_of_pages_is_made_without_an_engine(tmp_path):
    pages = tmp_path / "pages.jsonl"
    pages.write_text('{"title": "Ada", "text": "A judge."}\n{"title": "Bo", "text": ""}\n')
    done = probe("knowledge", str(tmp_path / "k.db"), str(pages))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{tmp_path}/k.db: 1 pages; left out: 1 empty\n")
    assert done.stdout.rstrip().endswith("heavy: ['pyarrow']")  # which reads Parquet


def test_bad_pages_are_named_and_settings_are_no_pages(capsys, tmp_path):
    out = str(tmp_path / "k.db")
    (tmp_path / "p.jsonl").write_text('{"title": "Ada"}\n')
    error = refused(capsys, "knowledge", out, str(tmp_path / "p.jsonl"))
    assert "p.jsonl line 1: 'text' is missing" in error
    assert "no file of pages at seed=1" in refused(capsys, "knowledge", out, "seed=1")
    with pytest.raises(SystemExit):
        main(["knowledge", out, str(tmp_path / "p.jsonl"), "--rerun"])
    assert "unrecognized arguments: --rerun" in capsys.readouterr().err
