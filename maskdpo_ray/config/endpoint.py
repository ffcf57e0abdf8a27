"""Models behind OpenAI-compatible servers."""

import re
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, model_validator

from maskdpo_ray.config.section import How, Section, Where

# In capitals: many keys (`gsk_...`, `hf_...`) would be names otherwise.
VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")


class EndpointConfig(Section):
    """A model behind an OpenAI-compatible server, in place of an engine in the actor."""

    model_config = ConfigDict(hide_input_in_errors=True)

    base_url: Where[str]
    """Address of the API, e.g. `http://host:8000/v1`."""
    model: str
    """Name by which the server knows the model; it stands for the weights in fingerprints."""
    api_key_env: Where[str] = "OPENAI_API_KEY"
    """Variable that holds the key in the environment of the nodes; a server may need none."""
    api_key_file: Where[str | None] = None
    """File on the nodes that holds the key, instead of the variable."""
    concurrency: How[int] = Field(default=64, ge=1, le=1000)
    """Requests that one actor has under way."""
    timeout: How[float] = Field(default=600, gt=0)
    """Seconds until a request is given up and tried again."""
    max_retries: How[int] = Field(default=30, ge=0)
    """Tries after the first; 30 last for about three minutes of a server that is away."""

    patience: How[float] = Field(default=3600, gt=0)
    """Longest wait for one request in seconds, all its tries together; then its sentence or row is
    an error, where the server answers others."""
    parameters: dict[str, str | None] = {}
    """Parameters that the server calls otherwise, or, with null, refuses:
    `{max_completion_tokens: max_tokens, temperature: null}`."""

    # Validators of the whole section: the error of a single field, that of its type included,
    # would show its value, and a wrong one may be the key itself.
    @model_validator(mode="before")
    @classmethod
    def _names_of_the_key(cls, given: Any) -> Any:
        named = given if isinstance(given, dict) else {}
        variable = named.get("api_key_env", "OPENAI_API_KEY")
        if not (isinstance(variable, str) and VARIABLE.fullmatch(variable)):
            raise ValueError(
                "api_key_env names an environment variable, in capitals (OPENAI_API_KEY); it does "
                "not hold the key"
            )
        if not isinstance(named.get("api_key_file"), str | None):
            raise ValueError("api_key_file is the path of a file; it does not hold the key")
        return given

    @model_validator(mode="after")
    def _no_secret(self) -> "EndpointConfig":
        try:
            url = urlsplit(self.base_url)
        except ValueError:
            raise ValueError("base_url is no URL: http://host:8000/v1") from None
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError("base_url must begin with http:// or https:// and name a host")
        if url.username or url.password or url.query or url.fragment:
            raise ValueError(
                "base_url is saved with the run: remove user, password and what follows ? or #; "
                "a key is read from api_key_env or api_key_file"
            )
        if self.api_key_file and self.changed("api_key_env"):
            raise ValueError("api_key_file is read instead of api_key_env: remove one of them")
        return self


Constrain = Literal["vllm", "json_schema", "none"]


class AnnotatorEndpointConfig(EndpointConfig):
    """An annotating model behind an OpenAI-compatible server."""

    constrain: Constrain | None = None
    """What keeps replies to the verdicts (`judge`): vLLM's `structured_outputs`, OpenAI's
    `response_format`, or nothing."""
