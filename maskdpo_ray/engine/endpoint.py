"""An OpenAI-compatible server in place of an engine: connected, tried, and asked with patience.

The ``openai`` client waits and tries again by itself: after timeouts, broken connections and
HTTP 408, 409, 429 and 5xx, for as long as ``Retry-After`` says (up to two minutes), else for 0.5 s
doubling up to 8 s, less a quarter at random. What is left after that is sorted here into what
concerns one request (``RequestRefused``) and what a person must mend (``UserError``).
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from openai import (
    APIConnectionError,
    APIResponseValidationError,
    APIStatusError,
    APITimeoutError,
    AsyncOpenAI,
    OpenAIError,
)

from maskdpo_ray.config import EndpointConfig
from maskdpo_ray.engine.refusal import RequestRefused
from maskdpo_ray.engine.server_words import (
    choices_of,
    named_parameters,
    read_choice,
    tokens_of,
)
from maskdpo_ray.errors import UserError, first_line

NO_KEY = "EMPTY"  # what servers without keys are sent: the client insists on one
REACH_SECONDS = 10.0  # a server that lives lists its models sooner, however busy it is
SIGN_OF_LIFE_RETRIES = 1
REASON_LENGTH = 500  # characters
OF_ONE_REQUEST = (400, 413, 422)  # too long, or otherwise not to this server's liking
OF_THE_KEY = (401, 403)
# Any other may be of one request, where the server lives: it fails, hangs, or will not say such a
# thing (403, 451).
OF_ALL = (401, 402, 404)
AWAY = (502, 503)  # what a gateway says, too, while the server behind it starts
TOO_MANY = 429  # of one request, too large for the limit, where others are answered meanwhile
HOPELESS = 16  # failures in a row, and no answer between them: does the server answer anybody?
UNREADABLE = (APIResponseValidationError, ValueError, RecursionError)  # no JSON, no choices, ...
WAITS = (0.2, 1.0)  # seconds until what cannot be read is asked for again

OF_PARAMETERS = "Parameters that it refuses or calls otherwise: endpoint.parameters"

Request = Callable[[AsyncOpenAI], Awaitable[Any]]
Probe = Callable[["Endpoint", list[Any]], Awaitable[Any]]
Reader = Callable[[Any], Any]  # of an answer; raises ``ValueError`` where it cannot be read


class Endpoint:
    """A client of one model behind ``settings.base_url``.

    At most ``settings.concurrency`` requests are under way; one that waits to be tried again
    counts, so a server in trouble is not pressed harder. Belongs to the event loop it is first
    used on.

    Args:
        probe: what the server was tried out with (``try_out``): after many failures in a row it
            tells whether they are those requests' (moderation refuses all about a question).

    Raises:
        UserError: ``api_key_file`` cannot be read.
    """

    def __init__(self, settings: EndpointConfig, probe: Probe | None = None) -> None:
        self.model = settings.model
        self._settings = settings
        self._probe = probe
        self._key = read_key(settings)
        self._answered = 0  # requests
        self._unanswered = 0  # since the last answer
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._client = AsyncOpenAI(
            base_url=settings.base_url,
            api_key=self._key or NO_KEY,
            timeout=settings.timeout,
            max_retries=settings.max_retries,
        )

    async def __aenter__(self) -> "Endpoint":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def ask(self, request: Request, read: Reader) -> Any:
        """One request, e.g. ``lambda client: client.chat.completions.create(...)``.

        An answer that cannot be read is asked for again, a few times.

        Returns:
            what ``read`` makes of its answer.

        Raises:
            RequestRefused: the server will not take this request, or fails on it every time.
            UserError: wrong key, model or address, or a server that stays away.
        """

        async def asked() -> Any:
            for wait in WAITS:
                try:
                    return read(await self._patiently(request))
                except UNREADABLE:
                    await asyncio.sleep(wait)
            return read(await self._patiently(request))

        async with self._slots:
            answer = await self._sorted(asked())
        self._answered += 1
        self._unanswered = 0
        return answer

    async def _patiently(self, request: Request) -> Any:
        """An answer, after the client's own tries. A server that was away all that time and is back
        by now is asked once more: whose fault it was is not known before."""
        try:
            return await request(self._client)
        except (APIConnectionError, APIStatusError) as error:
            away = getattr(error, "status_code", AWAY[0]) in AWAY
            if isinstance(error, APITimeoutError) or not away or not await self._lives():
                raise
        return await request(self._client.with_options(max_retries=SIGN_OF_LIFE_RETRIES))

    async def chat(self, **parameters: Any) -> tuple[Any, int | None]:
        """``ask`` for a chat completion, under the names that the server has for parameters.

        Returns:
            its first choice in one form: content is a text, ``finish_reason`` one of ours; and
            the tokens read and written for it, where the server tells.

        Raises:
            RequestRefused, UserError: as ``ask``; also a reply that is no Unicode text.
        """
        named = named_parameters(parameters, self._settings.parameters)
        return await self.ask(
            lambda client: client.chat.completions.create(model=self.model, **named),
            lambda answer: (read_choice(choices_of(answer)[0]), tokens_of(answer)),
        )

    async def reach(self) -> list[Any]:
        """The models that the server lists, asked for with the patience of any request.

        Raises:
            UserError: wrong address or key, or a server that stays away.
        """
        page = await self._sorted(self._listing(self._settings.max_retries), of_all=True)
        if not _lists_models(page):
            raise self.trouble("lists no models: does base_url end with /v1?")
        return page.data

    async def _listing(self, retries: int) -> Any:
        client = self._client.with_options(timeout=REACH_SECONDS, max_retries=retries)
        try:
            return await client.models.list()
        except AttributeError:  # what the client says of a text, as a page in HTML
            return None

    async def _sorted(self, answer: Awaitable[Any], of_all: bool = False) -> Any:
        """The answer; or what its failure concerns, with ``of_all`` never the request alone."""
        before = self._answered
        try:
            return await asyncio.wait_for(answer, None if of_all else self._settings.patience)
        except TimeoutError:
            raise await self._perhaps_of_one(
                f"no answer within {self._settings.patience:g} s (patience)"
            ) from None
        except UNREADABLE as error:
            reason = f"the answer cannot be read: {self._without_key(first_line(error))}"
            reason = reason[:REASON_LENGTH]
            raise (self.trouble(reason) if of_all else await self._perhaps_of_one(reason)) from None
        except APIStatusError as error:
            others = self._answered > before
            raise await self._status(error, of_all, others) from None
        except APIConnectionError as error:
            reason = f"cannot be reached ({_cause(error)})"
            reason = "timed out" if isinstance(error, APITimeoutError) else reason
            reason = f"{reason}; {self._patience}"
            raise (self.trouble(reason) if of_all else await self._perhaps_of_one(reason)) from None

    async def _status(
        self, error: APIStatusError, of_all: bool, others: bool
    ) -> RequestRefused | UserError:
        """What an HTTP error concerns. ``others``: requests that were answered meanwhile."""
        status, said = error.status_code, f"HTTP {error.status_code}: {self._words(error)}"
        if status in OF_ONE_REQUEST:
            return RequestRefused(said)
        for_sure = of_all or status in OF_ALL or (status == TOO_MANY and not others)
        if not for_sure and await self._lives():
            remedy = f"; {self._key_remedy}" if status in OF_THE_KEY else ""
            return await self._of_one(f"{said}{remedy}")
        if status in OF_THE_KEY:
            return self.trouble(f"{said}; {self._key_remedy}")
        if status == 404:
            return self.trouble(f"{said}; is model right, and does base_url end with /v1?")
        wait = error.response.headers.get("retry-after")
        asks = f" (asks to wait {wait} s)" if wait else ""
        return self.trouble(f"{said}{asks}; {self._patience}")

    async def _perhaps_of_one(self, reason: str) -> RequestRefused | UserError:
        return await self._of_one(reason) if await self._lives() else self.trouble(reason)

    async def _of_one(self, reason: str) -> RequestRefused | UserError:
        """What a server that lives does not answer, unless it answers nobody any more."""
        self._unanswered += 1
        if self._unanswered >= HOPELESS:
            if not await self._answers_others():
                return self.trouble(f"{reason}; so with the last {self._unanswered} requests")
            self._unanswered = 0
        return RequestRefused(f"{reason}, every time, while the server answers others")

    async def _answers_others(self) -> bool:
        """Whether the server still answers what it was tried out with."""
        if self._probe is None:
            return False
        hasty = self._settings.model_copy(update={"max_retries": SIGN_OF_LIFE_RETRIES})
        async with Endpoint(hasty) as endpoint:
            try:
                await self._probe(endpoint, await endpoint.reach())
            except (RequestRefused, UserError):
                return False
        return True

    async def _lives(self) -> bool:
        try:
            return _lists_models(await self._listing(SIGN_OF_LIFE_RETRIES))
        except (OpenAIError, *UNREADABLE):
            return False

    def trouble(self, reason: str) -> UserError:
        """What a person must mend about this endpoint."""
        where = f"endpoint {self._settings.base_url}, model {self.model!r}"
        return UserError(self._without_key(f"{where}: {reason}"))

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text

    def _words(self, error: APIStatusError) -> str:
        """What the server said, on one line. Some repeat the key that they refuse."""
        body = error.body
        said = body.get("message", body) if isinstance(body, dict) else body or "no reason given"
        return self._without_key(" ".join(str(said).split()))[:REASON_LENGTH]

    @property
    def _patience(self) -> str:
        return (
            f"tried again up to {self._settings.max_retries} times. What is finished is kept: run "
            "the same command when it answers, or raise max_retries or timeout"
        )

    @property
    def _key_remedy(self) -> str:
        file, variable = self._settings.api_key_file, self._settings.api_key_env
        if file:
            return f"the key is the content of {file} on the actor's node"
        state = "set" if self._key else "not set"
        return f"{variable} is {state} on the actor's node: set it there, or give api_key_file"


def read_key(settings: EndpointConfig) -> str | None:
    """The key on this node: from the file if one is named, else from the environment.

    Raises:
        UserError: the file is missing, unreadable or empty, or the key is none.
    """
    if settings.api_key_file is None:
        name = f"environment variable {settings.api_key_env}"
        key = os.environ.get(settings.api_key_env, "").strip()
        return _checked(key, name) if key else None
    try:
        key = Path(settings.api_key_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise UserError(f"cannot read api_key_file {settings.api_key_file}: {reason}") from None
    if not key:
        raise UserError(f"api_key_file {settings.api_key_file} is empty")
    return _checked(key, f"api_key_file {settings.api_key_file}")


def try_out(settings: EndpointConfig, probe: Probe, needs: str) -> Any:
    """Reach the server, then let ``probe`` ask it for what the run will ask.

    Called at the start of an actor, before its event loop, so that what only a person can mend (a
    wrong key, path or model) fails the run in seconds instead of every row. A server that is away
    is waited for as later: actors also start, or start again, while it is restarted.

    Args:
        probe: takes the endpoint and the models it lists; what it returns is returned.
        needs: what the run needs of a server, for one that refuses the probe.

    Raises:
        UserError: it stays away, or will not do what the run needs.
    """

    async def attempt() -> Any:
        async with Endpoint(settings) as endpoint:
            try:
                return await probe(endpoint, await endpoint.reach())
            except RequestRefused as error:
                raise endpoint.trouble(f"refuses what the run asks: {error}; {needs}") from None

    return asyncio.run(attempt())


def _lists_models(page: Any) -> bool:
    return isinstance(getattr(page, "data", None), list)


def _checked(key: str, place: str) -> str:
    """``key``, if it can stand in a header; libraries would put one that cannot into an error."""
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise UserError(f"{place} holds no key: white space or letters that no key has")
    return key


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split()) or type(error).__name__
