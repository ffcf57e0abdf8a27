"""What TensorBoard shows of a training."""

from pathlib import Path

from maskdpo_ray.storage import Folder


def events(folder: Path | Folder, tag: str = "loss") -> list[tuple[int, float]]:
    """Step and loss, or another number, of every event in a folder, in order, none left out."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), purge_orphaned_data=False).Reload().Scalars(tag)
    return sorted((event.step, event.value) for event in found)
