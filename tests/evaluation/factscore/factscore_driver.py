"""Examines the answers in a run directory with models behind a server, as a driver of its own."""

import sys

from maskdpo_ray.config import Config, build_config
from maskdpo_ray.pipeline import finished, stream
from maskdpo_ray.stages import Stages


def config_of(run_dir: str, url: str) -> Config:
    endpoint = {"base_url": url, "model": "m", "constrain": "vllm", "max_retries": 2}
    return build_config(
        {
            "run_dir": run_dir,
            "world": {"small": True},
            "model": {"dtype": "float32"},
            "annotation": {"annotator": "closed_world"},
            "evaluation": {"factscore": {"writer": {"endpoint": {**endpoint, "concurrency": 2}}}},
            "resources": {"questions_per_block": 3, "factscore": {"blocks_in_flight": 1}},
        }
    )


def examine(stages: Stages) -> None:
    base = stages.base
    stream(stages, finished(stages.answer(base).store), stages.factscore(base))


if __name__ == "__main__":
    examine(Stages(config_of(*sys.argv[1:])))
