"""What TensorBoard shows of a training."""

from pathlib import Path

from maskdpo_ray.storage import Folder


def events(folder: Path | Folder) -> list[tuple[int, float]]:
    """Step and loss of every event in a folder, in order, none of them left out."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), purge_orphaned_data=False).Reload().Scalars("loss")
    return sorted((event.step, event.value) for event in found)
