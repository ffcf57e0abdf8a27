"""Questions in, an aligned model and a report of what it gained out.

    ray job submit --working-dir . -- python jobs/pipeline.py \\
        jobs/configs/llama3.1-8b-anah.yaml run_dir=/shared/runs/llama3.1-8b seed=0
"""

import sys

from maskdpo_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
