"""An S3 server on loopback that speaks the real protocol, and can be told to fail."""

import logging
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

Fault = Callable[[dict, Callable], Iterable[bytes]]


class S3Server:
    """Serves from a thread of this process.

    Attributes:
        faults: answers to the next requests that write, one each; ``None`` lets a request through.
        requests: (method, path, query) of every request that came.
    """

    def __init__(self) -> None:
        self.faults: deque[Fault | None] = deque()
        self.requests: list[tuple[str, str, str]] = []
        self._store = DomainDispatcherApplication(create_backend_app)
        logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs to reach it."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._server.server_port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()

    def _answer(self, environ: dict, start: Callable) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        self.requests.append((method, environ["PATH_INFO"], environ["QUERY_STRING"]))
        fault = self.faults.popleft() if method in ("PUT", "POST") and self.faults else None
        return fault(environ, start) if fault else self._store(environ, start)


def refuse(status: str, code: str) -> Fault:
    """Answer with an error of the protocol, e.g. ``refuse("503 Slow Down", "SlowDown")``."""

    def answer(_: dict, start: Callable) -> Iterable[bytes]:
        start(status, [("Content-Type", "application/xml")])
        return [f"<Error><Code>{code}</Code><Message>told to</Message></Error>".encode()]

    return answer


def cut(environ: dict, _: Callable) -> Iterable[bytes]:
    """Read a little of the request, then break the connection."""
    environ["wsgi.input"].read(1000)
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    return []


def delay(reached: threading.Event, go_on: threading.Event) -> Fault:
    """Tell that the request came, and ask for it to be sent again only when told to."""

    def answer(environ: dict, start: Callable) -> Iterable[bytes]:
        reached.set()
        go_on.wait(60)
        return refuse("503 Slow Down", "SlowDown")(environ, start)

    return answer


def hold(reached: threading.Event) -> Fault:
    """Tell that the request came, and never answer it."""

    def answer(environ: dict, _: Callable) -> Iterable[bytes]:
        environ["wsgi.input"].read(1000)
        reached.set()
        while environ["werkzeug.socket"].recv(2**16):
            pass
        return []

    return answer
