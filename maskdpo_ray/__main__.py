"""``python -m maskdpo_ray``."""

import sys

from maskdpo_ray.cli import main

sys.exit(main())
