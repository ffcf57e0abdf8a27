"""``python -m maskdpo_ray.world.countries FOLDER``: questions, facts and pages, and no run."""

import argparse
import sys

from maskdpo_ray.errors import UserError
from maskdpo_ray.world.countries.build import build_countries

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m maskdpo_ray.world.countries")
    parser.add_argument("folder", help="where to write them")
    try:
        build_countries(parser.parse_args().folder)
    except UserError as error:
        sys.exit(str(error))
