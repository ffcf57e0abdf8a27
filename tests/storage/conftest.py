import itertools
import os

import pyarrow.fs as pafs
import pytest
from s3_server import S3Server

# Actors import what the tests of this folder define (see ``ray_cluster``).
os.environ["PYTHONPATH"] = os.pathsep.join(
    [os.path.dirname(__file__), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
)
COUNT = itertools.count()


@pytest.fixture(scope="session")
def s3_server():
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture
def s3(s3_server, monkeypatch):
    """The server, reached from this process and from those it starts; no fault is left over."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    s3_server.forget()
    return s3_server


@pytest.fixture
def bucket(s3) -> str:
    """URL of a folder in a bucket of this test's own."""
    name = f"bucket-{os.getpid()}-{next(COUNT)}"
    pafs.S3FileSystem(
        endpoint_override=os.environ["AWS_ENDPOINT_URL"], allow_bucket_creation=True
    ).create_dir(name)
    return f"s3://{name}/runs/one"


@pytest.fixture(params=["local", "s3"])
def place(request, tmp_path) -> str:
    """A folder on a disk, and one in an object store."""
    return str(tmp_path / "run") if request.param == "local" else request.getfixturevalue("bucket")
