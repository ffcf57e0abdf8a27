"""Candidates sampled by a server of the policy instead of an engine in the actor."""

from typing import Any

from maskdpo_ray.sampling.sampler import Sampler


class EndpointSampler(Sampler):
    """The sampler, its engine a ``TokenEndpoint``: the same prompts, seeds and decoding."""

    def _request(self, decoding: dict[str, Any]) -> dict[str, Any]:
        return decoding
