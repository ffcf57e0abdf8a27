"""Imports that the garbage collector is kept away from."""

import gc
import subprocess
import sys

import pytest

from maskdpo_ray.imports import lasting_imports


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module that nobody has imported yet."""
    (tmp_path / "never_imported_before.py").write_text("collected = __import__('gc').isenabled()")
    monkeypatch.syspath_prepend(tmp_path)
    yield "never_imported_before"
    sys.modules.pop("never_imported_before", None)
    gc.unfreeze()


def test_what_is_imported_is_left_alone(module):
    before = gc.get_freeze_count()
    with lasting_imports():
        assert not __import__(module).collected
    assert gc.isenabled() and gc.get_freeze_count() > before


def test_where_nothing_is_imported_nothing_is_kept():
    before = gc.get_freeze_count()
    with pytest.raises(ImportError), lasting_imports():
        import no_such_package  # noqa: F401
    assert gc.isenabled() and gc.get_freeze_count() == before


def test_a_collector_that_is_off_stays_off(module):
    gc.disable()
    try:
        with lasting_imports():
            __import__(module)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_nothing_is_told_of_leaks_when_the_process_ends():
    script = """
import gc
from maskdpo_ray.imports import lasting_imports
with lasting_imports():
    import triton._C.libtriton
assert gc.get_freeze_count() > 0
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
