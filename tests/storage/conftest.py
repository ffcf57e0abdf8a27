import os

import pytest

# Actors import what the tests of this folder define (see ``ray_cluster``).
os.environ["PYTHONPATH"] = os.pathsep.join(
    [os.path.dirname(__file__), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
)


@pytest.fixture(params=["local", "s3"])
def place(request, tmp_path) -> str:
    """A folder on a disk, and one in an object store."""
    return str(tmp_path / "run") if request.param == "local" else request.getfixturevalue("bucket")
