"""Which of Ray Train's helpers a training brings along."""

from types import SimpleNamespace

import pytest
import ray

from maskdpo_ray.training.ray_trainer import Trainer


@pytest.mark.parametrize("dashboard", ["", "127.0.0.1:8265"])
def test_what_asks_the_dashboard_is_left_out_where_there_is_none(dashboard, monkeypatch):
    monkeypatch.setattr(ray, "init", lambda **_: SimpleNamespace(dashboard_url=dashboard))
    names = {type(each).__name__ for each in Trainer(print)._create_default_callbacks()}
    assert {"BackendSetupCallback", "AcceleratorSetupCallback"} <= names
    assert "DatasetsCallback" not in names
    assert ("PlacementGroupCleanerCallback" in names) == bool(dashboard)
