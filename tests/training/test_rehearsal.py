"""What cannot be trained, or could not be saved, is said before anything is sampled."""

import shutil

import pytest
from job_head import REPOSITORY
from safetensors.torch import load_file, save_file

from maskdpo_ray.config import LoraConfig, ModelConfig, PoolConfig, TrainingConfig
from maskdpo_ray.errors import UserError
from maskdpo_ray.training.rehearsal import rehearse_training

SMOKE = REPOSITORY / "jobs" / "configs" / "smoke.yaml"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def without_a_weight(model, folder):
    shutil.copytree(model, folder)
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_run_ends_before_its_first_question_is_sampled(small_world, run_dir, tmp_path, maskdpo):
    (policy,) = small_world.glob("**/policy")
    broken = without_a_weight(policy, tmp_path / "broken")
    said = maskdpo("run", SMOKE, f"run_dir={run_dir}", f"model.path={broken}", code=2)
    assert "1 weights are not in its files" in said and "Traceback" not in said
    assert not list(run_dir.glob("sample/*/part-*"))


def test_what_went_well_once_is_remembered_by_what_it_depends_on(
    ray_cluster, tiny_llama, tmp_path, monkeypatch
):
    model = ModelConfig(path=str(tiny_llama), dtype="float32")
    here, plain = PoolConfig(cpus=0.1), TrainingConfig()
    rehearse_training(model, "one", [plain, TrainingConfig(beta=0.2)], here, {})
    broken = without_a_weight(tiny_llama, tmp_path / "broken")
    model = model.model_copy(update={"path": str(broken)})
    rehearse_training(model, "one", [plain], here, {})
    for identity, system, versions in (
        ("two", plain, {}),
        ("one", TrainingConfig(lora=LoraConfig()), {}),
        ("one", plain, {"transformers": "6"}),
    ):
        with pytest.raises(UserError, match="1 weights are not in its files"):
            rehearse_training(model, identity, [system], here, versions)


def test_without_room_for_it_nothing_is_tried(ray_cluster, tmp_path):
    nowhere = ModelConfig(path=str(tmp_path), dtype="float32")
    rehearse_training(nowhere, "one", [TrainingConfig()], PoolConfig(gpus=64), {})
