"""Candidates sampled by a server of the policy instead of an engine in the actor."""

from typing import Any

from maskdpo_ray.sampling.sampler import Sampler
from maskdpo_ray.sampling.seeds import question_seed


class EndpointSampler(Sampler):
    """The sampler, its engine a ``TokenEndpoint``: the same prompts, seeds and decoding."""

    def _sampled(self, question_id: str) -> dict[str, Any]:
        return {
            "n": self._decoding.candidates,
            "seed": question_seed(self._seed, question_id),
            "temperature": self._decoding.temperature,
            "top_k": self._decoding.top_k,
            "top_p": self._decoding.top_p,
            "max_tokens": self._decoding.max_tokens,
        }
