"""``maskdpo demo real`` before anything runs: its configuration, and what it writes."""

from pathlib import Path

import pytest
from places import REPOSITORY

from maskdpo_ray.cli import main
from maskdpo_ray.config import read_config
from maskdpo_ray.world.countries import demo


@pytest.fixture
def here(monkeypatch, tmp_path) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def cpu(monkeypatch, *flags: str) -> None:
    monkeypatch.setattr(demo, "cpu_flags", lambda: {"fpu", *flags})


def test_the_configuration_is_the_one_among_the_jobs():
    job = REPOSITORY / "jobs" / "configs" / "real.yaml"
    assert job.resolve() == demo.CONFIG and read_config(job) == read_config(demo.CONFIG)


def test_it_computes_in_what_the_cpu_has(monkeypatch, capsys):
    cpu(monkeypatch, "avx512_bf16")
    assert demo.real_config([]).model.dtype == "bfloat16"
    cpu(monkeypatch)
    assert demo.real_config(["seed=3"]).model.dtype == "float32"
    assert "float32" in capsys.readouterr().err
    gpu = [f"resources.{pool}.gpus=1" for pool in ("sampler", "reference", "training")]
    assert demo.real_config(gpu).model.dtype == "bfloat16"


def test_it_is_scored_on_validation_countries_unless_one_asks():
    config = demo.real_config([])
    assert config.data.test.path == "runs/countries/validation.jsonl"


def test_it_writes_what_is_missing_and_leaves_what_is_there(monkeypatch, countries, here, capsys):
    converted = here / "converted"
    converted.mkdir()
    (converted / "config.json").write_text("{}")
    asked = []
    monkeypatch.setattr(demo, "smollm2", lambda: asked.append(1) or converted)
    config = demo.real_config(["model.dtype=float32"])
    demo.prepare(config)
    for file in (config.data.train.path, config.data.test.path, config.annotation.facts):
        assert Path(file).is_file()
    assert Path(config.model.path, "config.json").is_file() and len(asked) == 1
    assert "estimated at 45 minutes" in capsys.readouterr().err
    demo.prepare(config)
    assert len(asked) == 1
    converted.rename(here / "away")  # the cache of models was emptied
    converted = here / "away"
    demo.prepare(config)
    assert len(asked) == 2 and Path(config.model.path, "config.json").is_file()


def test_another_model_is_taken_as_it_is(monkeypatch, countries, here, capsys):
    monkeypatch.setattr(demo, "smollm2", lambda: pytest.fail("nothing is converted"))
    demo.prepare(demo.real_config(["model.path=HuggingFaceTB/SmolLM2-360M-Instruct"]))
    assert "minutes" not in capsys.readouterr().err


def test_a_wrong_setting_is_refused_before_anything_is_written(here, capsys):
    assert main(["demo", "real", "sampling.candidate=3"]) == 2
    assert "candidates" in capsys.readouterr().err
    assert not any(here.iterdir())
