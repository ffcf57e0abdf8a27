"""Sentence score on held-out topics, for the base and every trained system.

    ray job submit --working-dir . -- python jobs/evaluate.py \\
        jobs/configs/llama3.1-8b-anah.yaml run_dir=/shared/runs/llama3.1-8b seed=0
"""

import sys

from maskdpo_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
