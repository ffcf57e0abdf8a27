"""The chat model that a section of the configuration names."""

from typing import TYPE_CHECKING

from maskdpo_ray.config import ChatModelConfig

if TYPE_CHECKING:
    from maskdpo_ray.engine.chat_model import ChatModel
    from maskdpo_ray.engine.endpoint_chat import ChatEndpoint


def chat_model(
    settings: ChatModelConfig, probabilities: bool = False
) -> "ChatModel | ChatEndpoint":
    """The model that a section names, in this process or behind its server.

    Args:
        probabilities: it tells how probable its replies are.

    Raises:
        UserError: the engine does not start, or the endpoint will not do.
    """
    if settings.endpoint:
        from maskdpo_ray.engine.endpoint_chat import open_chat

        constrain = settings.endpoint.constrain
        return open_chat(settings.endpoint, settings.max_tokens, constrain, probabilities)
    from maskdpo_ray.engine.chat_model import ChatModel
    from maskdpo_ray.engine.engine import start_engine

    engine = start_engine(
        settings.model,
        settings.engine,
        dtype=settings.dtype,
        revision=settings.revision,
        chat_template=settings.chat_template,
        trust_remote_code=settings.trust_remote_code,
    )
    return ChatModel(engine, settings.max_tokens, probabilities)
