"""Builders of the ``sample`` stage's processors, called inside its actors."""

from typing import TYPE_CHECKING, Any

from maskdpo_ray.config import EndpointConfig, ModelConfig

if TYPE_CHECKING:
    from maskdpo_ray.sampling.chat_endpoint import ChatSampler
    from maskdpo_ray.sampling.given import GivenCandidates
    from maskdpo_ray.sampling.sampler import Decoding, Sampler


def build_sampler(
    model: ModelConfig, decoding: "Decoding", seed: int, engine: dict[str, Any]
) -> "Sampler":
    """Start an engine for the policy and sample from it.

    Args:
        seed: the run's.
        engine: arguments of vLLM's engine (``sampling.engine``).

    Raises:
        UserError: the engine does not start, or the tokenizer has no chat template.
    """
    from maskdpo_ray.engine.engine import start_engine
    from maskdpo_ray.sampling.sampler import Sampler

    started = start_engine(
        model.path,
        engine,
        dtype=model.dtype,
        seed=seed,
        trust_remote_code=model.trust_remote_code,
        revision=model.revision,
        chat_template=model.chat_template,
        template_kwargs=model.chat_template_kwargs,
        system=bool(model.system_prompt),
    )
    return Sampler(
        started,
        decoding,
        model=model.path,
        seed=seed,
        system_prompt=model.system_prompt,
        template_kwargs=model.chat_template_kwargs,
        reasoning=model.reasoning,
    )


def build_endpoint_sampler(
    model: ModelConfig, decoding: "Decoding", seed: int, endpoint: EndpointConfig
) -> "Sampler":
    """Sample from the policy behind ``endpoint``, with the policy's own prompts and token ids.

    Args:
        seed: the run's.

    Raises:
        UserError: the endpoint will not do, or the tokenizer has no chat template.
    """
    from maskdpo_ray.engine.chat import load_tokenizer
    from maskdpo_ray.engine.endpoint_tokens import open_tokens
    from maskdpo_ray.sampling.endpoint import EndpointSampler

    return EndpointSampler(
        open_tokens(endpoint, load_tokenizer(model)),
        decoding,
        model=endpoint.model,
        seed=seed,
        system_prompt=model.system_prompt,
        template_kwargs=model.chat_template_kwargs,
        reasoning=model.reasoning,
    )


def build_chat_sampler(
    endpoint: EndpointConfig,
    decoding: "Decoding",
    seed: int,
    system_prompt: str | None,
    measure: ModelConfig | None,
    template_kwargs: dict[str, Any] | None = None,
) -> "ChatSampler":
    """Ask a chat model behind ``endpoint`` for texts that are only examined.

    Args:
        seed: the run's.
        measure: the policy, whose tokens tell how long the answers are.

    Raises:
        UserError: the endpoint will not do.
    """
    from maskdpo_ray.engine.chat import load_tokenizer
    from maskdpo_ray.sampling.chat_endpoint import open_chat_sampler

    return open_chat_sampler(
        endpoint,
        decoding,
        seed=seed,
        system_prompt=system_prompt,
        template_kwargs=template_kwargs or {},
        tokenizer=load_tokenizer(measure) if measure else None,
    )


def build_given(model: ModelConfig) -> "GivenCandidates":
    """Take the candidates that the rows bring, in the policy's token ids and behind its prompts."""
    from maskdpo_ray.engine.chat import load_tokenizer
    from maskdpo_ray.sampling.given import GivenCandidates

    return GivenCandidates(
        load_tokenizer(model), model.system_prompt, model.chat_template_kwargs, model.reasoning
    )
