"""Say in plain words why this Python cannot run maskdpo-ray: ``python check_python.py``.

Also read by the interpreters that it refuses, so the syntax is that of any Python 3.
"""

import importlib.util
import platform
import sys

OLDEST, NEWEST = (3, 11), (3, 13)
MACHINES = ("x86_64",)


def problem(version, system, machine, modules):
    """The first thing that is missing and its remedy, or None."""
    have = ".".join(str(part) for part in version[:2])
    if not OLDEST <= tuple(version[:2]) <= NEWEST:
        return (
            "maskdpo-ray needs Python 3.%d to 3.%d and this is Python %s: "
            "name another one, e.g. `make demo PYTHON=python3.12`" % (OLDEST[1], NEWEST[1], have)
        )
    if system != "Linux" or machine not in MACHINES:
        return (
            "maskdpo-ray runs on Linux (%s) and this is %s on %s: vLLM has no build for it. "
            "Use a Linux machine or container" % (" or ".join(MACHINES), system, machine)
        )
    missing = [name for name in ("venv", "ensurepip") if name not in modules]
    if missing:
        return (
            "this Python cannot make virtual environments (no module %s): install your system's "
            "package for it, e.g. python%s-venv" % (" and ".join(missing), have)
        )
    return None


def main():
    modules = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name)]
    found = problem(sys.version_info, platform.system(), platform.machine(), modules)
    return "%s: %s" % (sys.executable, found) if found else 0


if __name__ == "__main__":
    sys.exit(main())
