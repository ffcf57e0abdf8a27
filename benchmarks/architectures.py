"""Every causal language model that Transformers can build, tiny and random, through the whole of
training and its export, and through vLLM.

    python benchmarks/architectures.py [--vllm] [--results FILE] [FAMILY ...]

Each family runs in processes of its own, bounded in time and memory, one after another. Results
stand in FILE (default architectures.json) as they come; families in it are not run again, so an
interrupted sweep goes on. ``--vllm`` adds the engine (some 20 s a family), ``--table`` writes
docs/models.md from FILE and runs nothing. The last line is one JSON object with the counts.
"""

import argparse
import json
import logging
import os
import subprocess
from datetime import date
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

from families.exactness import INTERNLM2, examine
from families.processes import in_process, scratch_folder
from families.serving import serve
from families.table import counts, write_page
from tiny_models import LEFT_OUT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", metavar="FAMILY")
    parser.add_argument("--vllm", action="store_true", help="the engine, of what is exact")
    parser.add_argument("--results", type=Path, default=Path("architectures.json"))
    parser.add_argument("--table", action="store_true", help="write docs/models.md, run nothing")
    given = parser.parse_args()
    results = json.loads(given.results.read_text()) if given.results.exists() else {}
    if given.table:
        write_page(results)
        return
    load_packages()
    if given.vllm:
        serve_all(given.families, results, given.results)
    else:
        examine_all(given.families, results, given.results)
    print(json.dumps({**counts(results), "date": str(date.today())}))


def load_packages() -> None:
    """Here, and not in every family's process anew."""
    import deepspeed  # noqa: F401
    import peft  # noqa: F401
    import transformers

    import maskdpo_ray.training.worker  # noqa: F401

    transformers.logging.set_verbosity_error()
    logging.disable(logging.WARNING)


def examine_all(families: list[str], results: dict, file: Path) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    every = [name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if name not in LEFT_OUT]
    code = _commit()
    for family in families or [*every, INTERNLM2]:
        if family in results and not families:
            continue
        with scratch_folder() as scratch:
            results[family] = in_process(examine, family, scratch) | {"code": code}
        print(family, json.dumps(results[family]), flush=True)
        keep(results, file)


def serve_all(families: list[str], results: dict, file: Path) -> None:
    import vllm  # noqa: F401

    for family, result in results.items():
        if result["outcome"] != "exact" or (families and family not in families):
            continue
        if "serves" in result and not families:
            continue
        result |= {"serves": serve(family), "served_code": _commit()}
        print(family, result["serves"], flush=True)
        keep(results, file)


def keep(results: dict, file: Path) -> None:
    file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def _commit() -> str:
    """Of the code that runs; with a mark where it is not as committed."""
    asked = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    here = Path(__file__).parent
    return subprocess.run(asked, cwd=here, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
