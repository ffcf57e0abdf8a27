"""A proxy in front of a real server that answers some requests as bad servers do.

A request is spoilt in the manner whose name stands in its prompt: ``[s-name]`` spoils completions
of token ids, ``[name]`` chats. All others go through as they are.
"""

import json
import re
import threading
import urllib.error
import urllib.request
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MANNER = re.compile(r"\[([a-z0-9-]+)\]")
JSON = "application/json"


class FaultProxy:
    """Refuses ``temperature`` and ``max_completion_tokens`` in chats, as OpenAI's thinking models
    do; it decodes greedily there.

    Attributes:
        asked: how many requests came, by manner.
        faulty: off, everything goes through.
    """

    def __init__(self, url: str, tokenizer) -> None:
        self._url, self._tokenizer = url, tokenizer
        self.asked: Counter[str] = Counter()
        self.faulty = True
        self._over = threading.Event()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self.give(*proxy.forward(self, None))

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                self.give(*proxy.answer(self, body))

            def give(self, status, headers, data):
                self.send_response(status)
                for name, value in {"content-type": JSON, **headers}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 256

            def handle_error(self, *_):  # of clients that went away
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()

    def forward(self, handler, body) -> tuple[int, dict, bytes]:
        request = urllib.request.Request(
            self._url.removesuffix("/v1") + handler.path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"content-type": JSON, "authorization": handler.headers["authorization"]},
        )
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                return 200, {}, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, {}, error.read()

    def answer(self, handler, body) -> tuple[int, dict, bytes]:
        chat = handler.path.endswith("/chat/completions")
        prompt = json.dumps(body["messages"]) if chat else body["prompt"]
        if not isinstance(prompt, str):
            prompt = self._tokenizer.decode(prompt)
        if chat:
            for name in ("temperature", "max_completion_tokens"):
                if name in body:
                    return failed(400, f"Unsupported parameter: {name}")
            body["temperature"] = (
                body["temperature_of_ours"] if "temperature_of_ours" in body else 0
            )
            body.pop("temperature_of_ours", None)
        found = MANNER.search(prompt) if self.faulty else None
        manner = found[1] if found else ""
        if manner.startswith("s-") == chat:  # of the other stage
            manner = ""
        manner = manner.removeprefix("s-")
        self.asked[manner] += 1
        match manner:
            case "403":
                return failed(403, "content policy")
            case "502":
                return 502, {"content-type": "text/html"}, b"<html>Bad Gateway</html>"
            case "429" if self.asked[manner] <= 2:
                return 429, {"retry-after": "1"}, b"{}"
            case "hang":
                self._over.wait(120)
                return failed(500, "over")
            case "empty":
                return 200, {}, b""
            case "html":
                return 200, {"content-type": "text/html"}, b"<html>log in</html>"
            case "one" if body["n"] > 1:
                body["n"] = 1
            case "none" if body["n"] > 1:
                return 200, {}, b'{"choices": []}'
        status, headers, data = self.forward(handler, body)
        return status, headers, spoilt(manner, data) if status == 200 else data


def spoilt(manner: str, data: bytes) -> bytes:
    """A good answer in a bad server's manner."""
    if manner == "cut":
        return data[: len(data) // 2]
    answer = json.loads(data)
    choice = answer["choices"][0]
    match manner:
        case "fewer":
            del answer["choices"][1:-1]
        case "nochoices":
            del answer["choices"]
        case "nomessage":
            choice["message"] = None
        case "parts":
            text = choice["message"]["content"]
            parts = [{"type": "thinking", "text": "Hm."}, {"type": "text", "text": text[:1]}]
            choice["message"]["content"] = [*parts, {"type": "text", "text": text[1:]}]
        case "finish":
            words = {"stop": "eos", "length": "max_tokens"}
            choice["finish_reason"] = words[choice["finish_reason"]]
        case "reasoning":
            choice["message"]["reasoning_content"] = "Is it?"
        case "nousage":
            answer.pop("usage", None)
        case "surrogate":
            choice["message"]["content"] = "\ud800"
    return json.dumps(answer).encode()


def failed(status: int, message: str) -> tuple[int, dict, bytes]:
    return status, {}, json.dumps({"error": {"message": message}}).encode()
