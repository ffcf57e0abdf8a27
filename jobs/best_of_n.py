"""Best-of-N on held-out topics, for the base and every trained system, from one set of samples.

    ray job submit --working-dir . -- python jobs/best_of_n.py \\
        jobs/configs/llama3.1-8b-anah.yaml run_dir=/shared/runs/llama3.1-8b seed=0
"""

import sys

from maskdpo_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["best-of-n", *sys.argv[1:]]))
