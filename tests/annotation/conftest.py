import models
import pytest


@pytest.fixture(scope="session")
def engine():
    """The one real engine of this test process (tests/models.py)."""
    return models.shared_engine()
