"""The chat model that a section of the configuration names."""

from typing import TYPE_CHECKING

from maskdpo_ray.config import ChatModelConfig

if TYPE_CHECKING:
    from maskdpo_ray.engine.chat_model import ChatModel
    from maskdpo_ray.engine.endpoint_chat import ChatEndpoint


def chat_model(
    settings: ChatModelConfig, probabilities: bool = False, turns: bool = False
) -> "ChatModel | ChatEndpoint":
    """The model that a section names, in this process or behind its server.

    Args:
        probabilities: it tells how probable its replies are.
        turns: it is asked in conversations of several turns.

    Raises:
        UserError: the engine does not start, or the endpoint will not do.
    """
    template_kwargs = settings.chat_template_kwargs
    if settings.endpoint:
        from maskdpo_ray.engine.endpoint_chat import open_chat

        how = (settings.endpoint.constrain, probabilities, template_kwargs)
        return open_chat(settings.endpoint, settings.max_tokens, *how)
    from maskdpo_ray.engine.chat_model import ChatModel
    from maskdpo_ray.engine.engine import start_engine

    engine = start_engine(
        settings.model,
        settings.engine,
        dtype=settings.dtype,
        revision=settings.revision,
        chat_template=settings.chat_template,
        template_kwargs=template_kwargs,
        turns=turns,
        trust_remote_code=settings.trust_remote_code,
    )
    return ChatModel(
        engine, settings.max_tokens, probabilities, template_kwargs, settings.reasoning
    )
