"""Fixtures that the whole suite shares."""

import itertools
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import settings
from places import REPOSITORY, read_jsonl

# Two test processes on two cores: threads that wait for one another in every operation would wait
# most of the time. Set before anything imports torch, for all that the tests start too.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray gives its workers a low priority (niceness 15): beside a busy test process they would starve.
os.environ.setdefault("RAY_worker_niceness", "0")

# How long an example takes says how busy the machine is.
settings.register_profile("no deadline", parent=settings(), deadline=None)
settings.load_profile("no deadline")

BUCKETS = itertools.count()
DATA = Path(os.environ.get("MASKDPO_TEST_DATA", REPOSITORY.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of human-labelled answers and real tokenizers; the tests that need it skip without it.

    ``MASKDPO_REQUIRE_DATA=1`` turns the skip into a failure, so that a continuous check cannot
    pass by skipping.
    """
    if DATA.is_dir():
        return DATA
    message = f"no real labelled data at {DATA} (set MASKDPO_TEST_DATA to its folder)"
    if os.environ.get("MASKDPO_REQUIRE_DATA") == "1":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def biographies(real_data) -> list[dict]:
    return read_jsonl(real_data / "factscore_bio.jsonl")


@pytest.fixture(scope="session")
def tofueval(real_data) -> list[dict]:
    return read_jsonl(real_data / "tofueval.jsonl")


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """Folder of a real pretrained chat model, SmolLM2-135M-Instruct (extra ``real``).

    ``MASKDPO_REQUIRE_REAL=1`` turns the skip into a failure.
    """
    from maskdpo_ray.errors import UserError
    from maskdpo_ray.world import smollm2

    try:
        return smollm2.smollm2()
    except UserError as error:
        if os.environ.get("MASKDPO_REQUIRE_REAL") == "1":
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def countries() -> dict:
    """Real facts about countries (extra ``real``), required as ``smollm2`` is."""
    from maskdpo_ray.errors import UserError
    from maskdpo_ray.world.countries.facts import world

    try:
        return world()
    except UserError as error:
        if os.environ.get("MASKDPO_REQUIRE_REAL") == "1":
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def small_world(tmp_path_factory) -> Path:
    """Folder of a finished miniature world of seed 0."""
    from maskdpo_ray.world.build import build_world

    folder = tmp_path_factory.mktemp("world")
    build_world(folder, seed=0, small=True)
    return folder


@pytest.fixture
def run_dir(small_world, tmp_path) -> Path:
    """A run directory with nothing but that world, whose making takes longer than most tests."""
    shutil.copytree(small_world, tmp_path / "run" / "world" / "small-0")
    return tmp_path / "run"


@pytest.fixture(scope="session")
def ray_cluster():
    """One Ray on this machine for the whole session; its address."""
    import ray

    from maskdpo_ray.config import ResourcesConfig
    from maskdpo_ray.stream import start_ray

    # Actors import what tests define; they know this folder by nothing else.
    here = os.path.dirname(__file__)
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [here, str(REPOSITORY), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    )
    start_ray(ResourcesConfig())
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture
def maskdpo(ray_cluster, capsys):
    """Runs the command in this process, on the session's Ray; what it printed."""
    from maskdpo_ray.cli import main

    def run(*arguments: object, code: int = 0) -> str:
        ended = main(list(map(str, arguments)))
        printed = capsys.readouterr()
        assert ended == code, printed.err
        return printed.err + printed.out

    return run


@pytest.fixture(scope="session")
def llama3_tokenizer(real_data):
    import real_tokenizers

    return real_tokenizers.llama3_tokenizer(real_data)


@pytest.fixture(scope="session")
def gpt2_tokenizer(real_data):
    import real_tokenizers

    return real_tokenizers.gpt2_tokenizer(real_data)


@pytest.fixture(scope="session")
def engine():
    """The one real vLLM engine of this test process (tests/models.py)."""
    import models

    return models.shared_engine()


@pytest.fixture(scope="session")
def sentencepiece_tokenizer():
    import real_tokenizers

    return real_tokenizers.sentencepiece_tokenizer()


@pytest.fixture(scope="session")
def s3_server():
    from s3_server import S3Server

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
    import pyarrow.fs as pafs

    name = f"bucket-{os.getpid()}-{next(BUCKETS)}"
    pafs.S3FileSystem(
        endpoint_override=os.environ["AWS_ENDPOINT_URL"], allow_bucket_creation=True
    ).create_dir(name)
    return f"s3://{name}/runs/one"
