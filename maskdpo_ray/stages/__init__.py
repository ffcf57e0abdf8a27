"""What each stage depends on, where its results lie, and what runs in it.

A stage's settings, listed here, are what its fingerprint covers. What a stage does not list it
must not read, or a changed setting would meet old results.
"""

from maskdpo_ray.stages.policy import Policy
from maskdpo_ray.stages.run import Stages

__all__ = ["Policy", "Stages"]
