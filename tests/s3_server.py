"""An S3 server on loopback that speaks the real protocol, and can be told to fail.

It lives in a process of its own: vLLM, as it starts, looks at every attribute of every module that
its process has imported, and fails on those that the server's web framework makes on request.
"""

import logging
import multiprocessing
import socket
from collections.abc import Callable, Iterable
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event

Fault = Callable[[dict, Callable], Iterable[bytes]]


class S3Server:
    """Serves from a process that it starts.

    Attributes:
        faults: answers to the next requests that write, one each; ``None`` lets a request through.
        requests: (method, path, query) of every request that came.
    """

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._shared = context.Manager()
        self.faults, self.requests = self._shared.list(), self._shared.list()
        port, told = context.Pipe(duplex=False)
        self._process = context.Process(target=_serve, args=(self.faults, self.requests, told))
        self._process.start()
        told.close()  # so that a server that cannot start ends the wait below
        self._port = port.recv()

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs to reach it."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def event(self) -> Event:
        """One that the server's faults can set and wait for."""
        return self._shared.Event()

    def forget(self) -> None:
        """Clear the requests seen and the faults to come."""
        del self.faults[:], self.requests[:]

    def stop(self) -> None:
        self._process.terminate()
        self._process.join()
        self._shared.shutdown()


def _serve(faults: list[Fault | None], requests: list[tuple], told: Connection) -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    store = DomainDispatcherApplication(create_backend_app)

    def answer(environ: dict, start: Callable) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        requests.append((method, environ["PATH_INFO"], environ["QUERY_STRING"]))
        fault = faults.pop(0) if method in ("PUT", "POST") and len(faults) else None
        return fault(environ, start) if fault else store(environ, start)

    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    server = make_server("127.0.0.1", 0, answer, threaded=True)
    server.handle_error = lambda *_: None  # clients that are killed, as the tests do
    told.send(server.server_port)
    server.serve_forever()


def refuse(status: str, code: str) -> Fault:
    """Answer with an error of the protocol, e.g. ``refuse("503 Slow Down", "SlowDown")``."""
    return partial(_refuse, status, code)


def _refuse(status: str, code: str, _: dict, start: Callable) -> Iterable[bytes]:
    start(status, [("Content-Type", "application/xml")])
    return [f"<Error><Code>{code}</Code><Message>told to</Message></Error>".encode()]


def cut(environ: dict, _: Callable) -> Iterable[bytes]:
    """Read a little of the request, then break the connection."""
    environ["wsgi.input"].read(1000)
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    return []


def delay(reached: Event, go_on: Event) -> Fault:
    """Tell that the request came, and ask for it to be sent again only when told to."""
    return partial(_delay, reached, go_on)


def _delay(reached: Event, go_on: Event, environ: dict, start: Callable) -> Iterable[bytes]:
    reached.set()
    go_on.wait(60)
    return refuse("503 Slow Down", "SlowDown")(environ, start)


def hold(reached: Event) -> Fault:
    """Tell that the request came, and never answer it."""
    return partial(_hold, reached)


def _hold(reached: Event, environ: dict, _: Callable) -> Iterable[bytes]:
    environ["wsgi.input"].read(1000)
    reached.set()
    while environ["werkzeug.socket"].recv(2**16):
        pass
    return []
