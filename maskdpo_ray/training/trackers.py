"""Where a person watches training: TensorBoard, Weights & Biases, MLflow.

``metrics.jsonl`` is the record; trackers show it while it grows. A resumed run begins with the
history of its checkpoint, and a tracker that holds other steps after that loses or overwrites
them: every step stands once.
"""

import logging
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from maskdpo_ray.config import TrackingConfig
from maskdpo_ray.errors import UserError
from maskdpo_ray.storage import Folder

log = logging.getLogger(__name__)

Metrics = dict[str, Any]  # a line of metrics.jsonl: `step` and numbers
NOTHING = -1  # the last step that a tracker knows where it knows none: step 0 may have samples
_KEY = "tracking.json"  # in the training's folder


class Tracker(Protocol):
    """Takes the metrics of each step, in order."""

    def add(self, line: Metrics) -> None: ...

    def flush(self) -> None:
        """Make visible what was added: at checkpoints and at the end."""
        ...

    def close(self, failed: bool) -> None:
        """No steps follow; ``failed``: because training stopped with an error."""
        ...


def open_trackers(
    tracking: TrackingConfig,
    output: Folder,
    name: str,
    identity: str,
    settings: dict[str, Any],
    history: Iterable[Metrics],
) -> "Trackers":
    """The trackers that the configuration names, brought to where the run stands.

    Args:
        output: of the training; TensorBoard's files go to ``tensorboard/`` inside.
        name: what the run is called where people look.
        identity: of what is learnt, the same whenever the training goes on.
        settings: shown beside the run.
        history: the steps that are done.

    Raises:
        UserError: a tracker's package is missing, or it does not start.
    """
    make: dict[str, Callable[[], Tracker]] = {
        "tensorboard": lambda: TensorBoard(output / "tensorboard"),
        "wandb": lambda: WeightsAndBiases(tracking.project, name, _key(output, identity), settings),
        "mlflow": lambda: MLflow(tracking.project, name, _key(output, identity), settings),
    }
    opened: dict[str, Tracker] = {}
    for kind in tracking.report_to:
        try:
            opened[kind] = make[kind]()
        except ModuleNotFoundError as error:
            raise UserError(
                f"tracking.report_to={kind} needs the package {error.name}: "
                f"pip install 'maskdpo-ray[{kind}]', or leave it out"
            ) from None
        except Exception as error:  # each has many of its own: no key, no server, no project
            reason = " ".join(str(error).split())
            raise UserError(f"tracking.report_to={kind} does not start: {reason}") from error
    trackers = Trackers(opened)
    for line in history:
        trackers.add(line)
    trackers.flush()
    return trackers


def _key(output: Folder, identity: str) -> str:
    """Names this training where others are shown too: drawn when it first starts, and kept in its
    folder. A training begun anew, or of something else, gets a key of its own."""
    kept = output.read_json(_KEY) if output.exists(_KEY) else {}
    if kept.get("identity") != identity:
        kept = {"key": uuid.uuid4().hex, "identity": identity}
        output.write_json(_KEY, kept)
    return kept["key"]


class Trackers:
    """All trackers as one. One that fails on the way is left out with a warning: training is
    worth more than its display."""

    def __init__(self, trackers: dict[str, Tracker]) -> None:
        self._trackers = trackers

    def add(self, line: Metrics) -> None:
        self._each(lambda tracker: tracker.add(line))

    def flush(self) -> None:
        self._each(lambda tracker: tracker.flush())

    def close(self, failed: bool = False) -> None:
        self._each(lambda tracker: tracker.close(failed))

    def _each(self, act: Callable[[Tracker], None]) -> None:
        for kind, tracker in list(self._trackers.items()):
            try:
                act(tracker)
            except Exception as error:
                log.warning("%s failed and is left out from here: %s", kind, error)
                del self._trackers[kind]


class TensorBoard:
    """Event files. They are written anew from the history, as they cannot be shortened."""

    def __init__(self, folder: Folder) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder = folder
        self._scratch = None if folder.is_local else tempfile.mkdtemp(prefix="maskdpo-events-")
        for name in folder.names():
            folder.remove(name)
        self._writer = SummaryWriter(self._scratch or folder.uri)

    def add(self, line: Metrics) -> None:
        for tag, value in _numbers(line).items():
            self._writer.add_scalar(tag, value, line["step"])

    def flush(self) -> None:
        self._writer.flush()
        if self._scratch:  # an object store cannot append
            for file in Path(self._scratch).iterdir():
                self._folder.write(file.name, file.read_bytes())

    def close(self, failed: bool) -> None:
        self.flush()
        self._writer.close()
        if self._scratch:
            shutil.rmtree(self._scratch)


class WeightsAndBiases:
    """One W&B run per training, resumed under its key; WANDB_* variables apply."""

    def __init__(self, project: str, name: str, key: str, settings: dict[str, Any]) -> None:
        import wandb

        self._run = wandb.init(
            project=project,
            name=name,
            id=key,
            resume="allow",
            config=settings,
            dir=os.environ.get("WANDB_DIR") or tempfile.gettempdir(),
            settings=wandb.Settings(silent=True),
        )
        self._done = self._run.step  # W&B keeps the first value of a step; ours are the same

    def add(self, line: Metrics) -> None:
        if line["step"] >= self._done:
            self._run.log(_numbers(line), step=line["step"])

    def flush(self) -> None:
        pass  # it sends by itself

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class MLflow:
    """One MLflow run per training, found again by its key; MLFLOW_* variables apply."""

    def __init__(self, project: str, name: str, key: str, settings: dict[str, Any]) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param, RunTag

        self._client, self._metric = MlflowClient(), Metric
        found = self._client.get_experiment_by_name(project)
        experiment = found.experiment_id if found else self._client.create_experiment(project)
        runs = self._client.search_runs([experiment], f"tags.maskdpo_key = '{key}'")
        if runs:
            self._run = runs[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")  # it may have failed
            history = self._client.get_metric_history(self._run, "loss")
            self._done = max((metric.step for metric in history), default=NOTHING)
            return
        tags = {"maskdpo_key": key}
        self._run = self._client.create_run(experiment, run_name=name, tags=tags).info.run_id
        self._done = NOTHING
        params = [Param(k, str(v)[:500]) for k, v in settings.items()]
        self._client.log_batch(self._run, params=params, tags=[RunTag("source", "maskdpo-ray")])

    def add(self, line: Metrics) -> None:
        if line["step"] > self._done:
            now, step = int(1000 * time.time()), line["step"]
            metrics = [self._metric(k, v, now, step) for k, v in _numbers(line).items()]
            self._client.log_batch(self._run, metrics=metrics)

    def flush(self) -> None:
        pass  # written as it is added

    def close(self, failed: bool) -> None:
        self._client.set_terminated(self._run, "FAILED" if failed else "FINISHED")


def _numbers(line: Metrics) -> dict[str, float]:
    return {k: float(v) for k, v in line.items() if k != "step" and isinstance(v, int | float)}
