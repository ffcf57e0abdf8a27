"""``python -m maskdpo_ray.world FOLDER --seed 0``: build a closed world and run nothing."""

import argparse

from maskdpo_ray.progress import say
from maskdpo_ray.world.build import build_world

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m maskdpo_ray.world", description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="a miniature, for tests")
    given = parser.parse_args()
    build_world(given.folder, given.seed, small=given.small, progress=say)
