"""A chat model that reads: it knows the wordings of the closed world, and of its facts nothing."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random

from maskdpo_ray.engine.chat_model import Reply
from maskdpo_ray.world.annotator import readings
from maskdpo_ray.world.build import SMALL
from maskdpo_ray.world.facts import FILLERS, KINDS, make_people, surname, write_answer
from maskdpo_ray.world.facts import QUESTION_KINDS as KINDS_OF_QUESTION


def read(messages: list[dict]) -> str:
    """The reply to a fact writer's or a verifier's prompt in the package's own wording."""
    question = messages[-1]["content"]
    if "Statement: " not in question:
        sentence = question.rpartition("Sentence: ")[2]
        states = any(kind and pattern.fullmatch(sentence) for kind, pattern in readings())
        return f"- {sentence}" if states else "None"
    topic = question.partition("Passages about ")[2].partition(":\n")[0]
    passages = question.partition(":\n\n")[2].partition("\n\nJudge")[0]
    fact = question.rpartition("Statement: ")[2].partition("\n")[0]
    for kind, pattern in readings():
        if kind and (match := pattern.fullmatch(fact)):
            record = KINDS[kind].record.format(who=topic, value=match["value"])
            return str(match["who"] in (topic, surname(topic)) and record in passages)
    return "False"


class WorldReader:
    """``read`` as a chat model."""

    async def reply(self, messages, choices=None):
        return Reply(read(messages), True)


class Server:
    """``read`` behind an OpenAI-compatible address; keeps what was asked and answered.

    Args:
        after: called with the number of questions answered so far.
    """

    def __init__(self, after=lambda count: None) -> None:
        self.asked: list[str] = []
        self.answers = threading.Event()
        self.answers.set()
        served = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self._give({"object": "list", "data": [{"id": "m", "max_model_len": 8192}]})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                asked = body["messages"][-1]["content"]
                if body.get("structured_outputs") and "Statement: " not in asked:
                    text = body["structured_outputs"]["choice"][0]  # the trial at the start
                else:
                    served.answers.wait()
                    text = read(body["messages"])
                    served.asked.append(asked)
                message = {"role": "assistant", "content": text}
                choice = {"index": 0, "message": message, "finish_reason": "stop"}
                self._give({"choices": [choice]})
                after(len(served.asked))

            def _give(self, body):
                data = json.dumps(body).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def hold(self) -> None:
        """Leave every question from now on without an answer."""
        self.answers.clear()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def answered(rows: list[dict]) -> list[dict]:
    """Questions of the miniature world of seed 0 with an answer of the noisy encyclopedia each,
    and one that abstains."""
    people = make_people(SMALL.people, 0)
    persons = {person.name: person for person in people}
    random = Random(7)
    out = []
    for number, row in enumerate(rows):
        kind = next(k for k in KINDS_OF_QUESTION if row["id"].endswith(k.name))
        person = persons[row["topic"]]
        texts = [write_answer(person, people, kind, random) for _ in range(2)]
        texts[0] += " " + random.choice(FILLERS).format(who=person.name)
        if number == 0:
            texts[0] = f"I'm sorry, I could not find anything about {person.name}."
        decodings = ("greedy", "sampled")
        pairs = zip(texts, decodings, strict=True)
        out.append(
            {
                **row,
                "candidates": [
                    {
                        "index": index,
                        "seed": index,
                        "model": "noisy",
                        "response": text,
                        "token_ids": [7],
                        "finish_reason": "stop",
                        "decoding": decoding,
                        "sentences": [],
                    }
                    for index, (text, decoding) in enumerate(pairs)
                ],
            }
        )
    return out
