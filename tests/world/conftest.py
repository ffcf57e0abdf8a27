import pytest

from maskdpo_ray.world.build import build_world


@pytest.fixture(scope="session")
def small_world(tmp_path_factory):
    """Folder of a finished miniature world."""
    folder = tmp_path_factory.mktemp("world")
    build_world(folder, seed=0, small=True)
    return folder
