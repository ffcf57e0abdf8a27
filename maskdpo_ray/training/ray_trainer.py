"""Ray Train's trainer, without the processes that serve none of our trainings."""

from typing import Any

import ray
from ray.train.torch import TorchTrainer


class Trainer(TorchTrainer):
    """A ``TorchTrainer`` whose workers read their rows themselves.

    Ray Train would start a process that hands out data sets, of which there are none, and one that
    frees what a dead controller held. The latter asks the dashboard whether the controller lives.
    In a Ray without one, as a run starts it for itself, it waits in vain, and the end of a short
    training up to twelve seconds for it; or it asks another Ray of this machine, which knows of no
    such controller. What a run's own Ray holds ends with the run.
    """

    def _create_default_callbacks(self) -> list[Any]:
        useless = {"DatasetsCallback"}
        if not ray.init(ignore_reinit_error=True).dashboard_url:
            useless.add("PlacementGroupCleanerCallback")
        return [
            callback
            for callback in super()._create_default_callbacks()
            if type(callback).__name__ not in useless
        ]
