"""Endpoints that misbehave: a local server follows a script of failures that cannot be ordered."""

import asyncio
import json
import logging
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import models
import pytest
import yaml
from pydantic import ValidationError

from maskdpo_ray.config import EndpointConfig, build_config
from maskdpo_ray.engine.chat import open_tokenizer
from maskdpo_ray.engine.endpoint import Endpoint, read_key
from maskdpo_ray.engine.endpoint_chat import ChatEndpoint, open_chat
from maskdpo_ray.engine.endpoint_tokens import TokenEndpoint, open_tokens
from maskdpo_ray.engine.refusal import RequestRefused
from maskdpo_ray.errors import RowRejected, UserError
from maskdpo_ray.pipeline import evaluate_and_report, stream
from maskdpo_ray.sampling.chat_endpoint import open_chat_sampler
from maskdpo_ray.sampling.sampler import Decoding
from maskdpo_ray.stages import Stages

KEY = "sk-a-secret-that-must-not-leak"
IDENTIFIER_KEY = "gsk_abcDEF123"  # letters, digits and underscores, as in a name
NOW = {"retry-after-ms": "1"}
ASK = [{"role": "user", "content": "?"}]


def said(text, finish="stop", **message):
    message = {"role": "assistant", "content": text, **message}
    return 200, {}, {"choices": [{"index": 0, "message": message, "finish_reason": finish}]}


def failed(status, message="no", **headers):
    return status, {**NOW, **headers}, {"error": {"message": message}}


def raw(text):
    """An answer that says that it is JSON."""
    return 200, {"content-type": "application/json"}, text


DROPPED = None  # the connection is closed without an answer
YES = said("yes")


class Scripted:
    """Answers POST requests from ``script``, the last entry for ever; lists the model ``m``.
    An entry may be a function of the request's body.

    Before it lists any it answers GET requests from ``listing``.
    """

    def __init__(
        self,
        *script,
        models=({"id": "m", "max_model_len": 64},),
        listing=(),
        delay=0.0,
        port=0,
    ):
        self.script, self.delay = list(script), delay
        self.listing = [*listing, (200, {}, {"object": "list", "data": models})]
        self.asked, self.keys, self.now, self.most, self.listed = [], [], 0, 0, 0
        self._lock = threading.Lock()
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                scripted.listed += 1
                self._give(scripted.listing.pop(0) if scripted.listing[1:] else scripted.listing[0])

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                self._give(scripted.next(body, self.headers["authorization"]))

            def _give(self, answer):
                if answer is DROPPED:
                    self.close_connection = True
                else:
                    self._answer(*answer)

            def _answer(self, status, headers, body):
                html = isinstance(body, str)
                data = (body if html else json.dumps(body)).encode()
                self.send_response(status)
                kind = "text/html" if html else "application/json"
                for name, value in {"content-type": kind, **headers}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

    def next(self, body, key):
        with self._lock:
            self.asked.append(body)
            self.keys.append(key)
            self.now += 1
            self.most = max(self.most, self.now)
            answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        time.sleep(self.delay)
        with self._lock:
            self.now -= 1
        return answer(body) if callable(answer) else answer


@pytest.fixture
def serve():
    made = []

    def start(*script, **settings):
        made.append(Scripted(*script, **settings))
        return made[-1]

    yield start
    for scripted in made:
        scripted.stop()


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def settings(scripted, **changes):
    return EndpointConfig(base_url=scripted.url, model="m", **{"max_retries": 4, **changes})


def replies(
    scripted,
    count=1,
    choices=None,
    constrain=None,
    messages=ASK,
    probabilities=False,
    template_kwargs=None,
    **changes,
):
    async def ask():
        async with Endpoint(settings(scripted, **changes)) as endpoint:
            chat = ChatEndpoint(endpoint, 8, constrain, probabilities, template_kwargs or {})
            return await asyncio.gather(*(chat.reply(messages, choices) for _ in range(count)))

    return asyncio.run(ask())


def trouble(scripted, kind=UserError, **changes) -> str:
    with pytest.raises(kind) as caught:
        replies(scripted, **changes)
    assert "\n" not in str(caught.value)
    assert KEY not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


# -- trying again ---------------------------------------------------------------------------------


def test_what_passes_is_tried_again_until_it_has_passed(serve):
    scripted = serve(failed(429), failed(503), DROPPED, failed(500), YES)
    [reply] = replies(scripted)
    assert reply.text == "yes" and reply.complete
    assert len(scripted.asked) == 5 and all(body == scripted.asked[0] for body in scripted.asked)
    assert scripted.asked[0]["messages"] == ASK and scripted.asked[0]["temperature"] == 0
    assert scripted.asked[0]["max_completion_tokens"] == 8
    assert set(scripted.keys) == {f"Bearer {KEY}"}


def test_retry_after_is_waited_for(serve):
    wait = 1
    refused = (429, {"retry-after": str(wait)}, {})
    scripted = serve(refused, YES)
    began = time.monotonic()
    replies(scripted)
    # Without the header the first pause is at most half a second.
    assert time.monotonic() - began >= wait


def test_a_wait_of_hours_ends_the_run_instead(serve):
    scripted = serve((429, {"retry-after": "3600"}, {"error": {"message": "daily limit"}}))
    message = trouble(scripted)
    assert "HTTP 429: daily limit (asks to wait 3600 s)" in message
    assert len(scripted.asked) == 1


@pytest.mark.parametrize("status", [429, 502, 503])
def test_a_server_that_stays_away_ends_the_run_with_the_reason(serve, status):
    scripted = serve(failed(status, "overloaded"), listing=9 * [failed(status)])
    message = trouble(scripted)
    assert f"HTTP {status}: overloaded" in message and "up to 4 times" in message
    assert scripted.url in message and "run the same command" in message
    assert len(scripted.asked) == 5


def test_a_request_that_takes_too_long_is_given_up(serve):
    scripted = serve(YES, delay=1.0)
    message = trouble(scripted, RequestRefused, timeout=0.1, max_retries=1)
    assert "timed out" in message and "raise max_retries or timeout" in message
    assert len(scripted.asked) == 2


def test_the_longest_wait_for_one_request_is_a_setting(serve):
    scripted = serve(YES, delay=0.5)
    message = trouble(scripted, RequestRefused, patience=0.2)
    assert "no answer within 0.2 s (patience), every time, while the server answers" in message


@pytest.mark.parametrize("status", [403, 408, 409, 451, 500, 502, 503, 504, 524, 529])
def test_what_a_living_server_never_answers_concerns_one_request(serve, status):
    scripted = serve(failed(status, "not that"))
    assert f"HTTP {status}: not that" in trouble(scripted, RequestRefused, max_retries=0)


def test_a_server_that_lives_and_answers_nobody_ends_the_run(serve):
    scripted = serve(*[failed(500)] * 15, YES, failed(500))

    async def asked() -> list[type]:
        async with Endpoint(settings(scripted, max_retries=0)) as endpoint:
            chat = ChatEndpoint(endpoint, 8, None)
            kinds = []
            for _ in range(15 + 1 + 16):
                try:
                    kinds.append(type(await chat.reply(ASK)))
                except (RequestRefused, UserError) as error:
                    kinds.append(type(error))
                    last = str(error)
            assert "so with the last 16 requests" in last
            return kinds

    kinds = asyncio.run(asked())
    assert [kind.__name__ for kind in kinds] == [
        *["RequestRefused"] * 15, "Reply", *["RequestRefused"] * 15, "UserError"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "finish", "text", "complete"),
    [
        ([{"type": "text", "text": "y"}, {"type": "text", "text": "es"}], "stop", "yes", True),
        ([{"type": "thinking", "text": "hm"}, {"text": "yes"}], "stop", "yes", True),
        (
            [{"type": "text", "text": {"value": "yes"}}, "", None, {"type": "image"}],
            "stop",
            "yes",
            True,
        ),
        ({"text": "yes"}, "stop", "yes", True),
        ("yes", "eos", "yes", True),
        ("yes", "end_turn", "yes", True),
        ("yes", None, "yes", True),
        ("ye", "max_tokens", "ye", False),
        ("ye", "model_length", "ye", False),
    ],
)
def test_a_server_may_have_its_own_words(serve, content, finish, text, complete):
    reply = replied(serve(said(content, finish)))
    assert (reply.text, reply.complete) == (text, complete)


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"total_tokens": 7}, 7),
        (None, None),
        ({}, None),
        ("many", None),
        ({"total_tokens": "7"}, None),
    ],
)
def test_tokens_are_counted_where_a_server_tells_them(serve, usage, tokens):
    status, headers, body = said("yes")
    assert replied(serve((status, headers, {**body, "usage": usage}))).tokens == tokens


def replied(scripted, **changes):
    async def ask():
        async with Endpoint(settings(scripted, **changes)) as endpoint:
            return await ChatEndpoint(endpoint, 8, None).reply(ASK)

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (said("a\ud800b"), "it holds a lone surrogate"),
        (raw('{"choices": [{"mess'), "cannot be read: Unterminated string"),
        (raw(""), "cannot be read: Expecting value"),
        (raw("[" * 100_000), "cannot be read: maximum recursion depth"),
        (raw(f'{{"created": {"9" * 5000}}}'), "cannot be read: Exceeds the limit"),
        (raw('{"id": "x"}'), "it has no choices; does the server speak the OpenAI protocol?"),
        (raw('{"choices": null}'), "it has no choices"),
        (raw("[]"), "it has no choices"),
        (raw("null"), "it has no choices"),
        (raw(f'{{"error": {{"message": "busy {KEY}"}}}}'), "an error: {'message': 'busy ***'}"),
        (raw('{"choices": ["yes"]}'), "its choice has no message"),
        (raw('{"choices": [{"index": 0, "message": null}]}'), "its choice has no message"),
        (raw('{"choices": [{"index": 0, "text": "yes"}]}'), "its choice has no message"),
        (said(5), "its text is none"),
        ((200, {}, "<html>log in</html>"), "does the server speak the OpenAI protocol?"),
        ((302, {"location": "/login"}, ""), "it has no choices"),
        ((204, {}, ""), "it has no choices"),
    ],
)
def test_an_answer_that_cannot_be_read_concerns_one_request_and_is_asked_for_again(
    serve, monkeypatch, answer, words
):
    monkeypatch.setattr("maskdpo_ray.engine.endpoint.WAITS", (0.0, 0.0))
    scripted = serve(answer)
    assert words in trouble(scripted, RequestRefused, max_retries=0)
    assert len(scripted.asked) == 3 and scripted.asked[0] == scripted.asked[2]
    assert replied(serve(answer, answer, YES), max_retries=0).text == "yes"


def test_parameters_go_under_the_names_that_a_server_has(serve):
    scripted = serve(YES)
    names = {"max_completion_tokens": "max_tokens", "temperature": None}
    assert replied(scripted, parameters=names).text == "yes"
    assert replied(scripted, parameters={"max_completion_tokens": "limit"}).text == "yes"
    first, second = scripted.asked
    assert (first["max_tokens"], "temperature" in first) == (8, False)
    assert (second["limit"], second["temperature"]) == (8, 0)
    assert "max_completion_tokens" not in first | second


@pytest.mark.parametrize(
    "answer",
    [
        DROPPED,
        (200, {"content-encoding": "gzip"}, "no gzip"),
        (200, {"content-length": "99"}, "{}"),
    ],
)
def test_a_request_that_breaks_its_connection_every_time_is_refused(serve, answer):
    message = trouble(serve(answer), RequestRefused, max_retries=1, timeout=2)
    assert "every time, while the server answers others" in message


@pytest.mark.parametrize("answer", [DROPPED, failed(502), failed(503)])
def test_a_server_that_is_back_when_a_request_gives_up_is_asked_once_more(serve, answer):
    scripted = serve(*2 * [answer], YES)
    [reply] = replies(scripted, max_retries=1)
    assert reply.text == "yes" and len(scripted.asked) == 3


def test_nobody_there(serve):
    scripted = serve(YES)
    scripted.stop()
    assert "cannot be reached" in trouble(scripted, max_retries=0)


# -- one request, or all of them ------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_request_is_that_requests_trouble_and_is_asked_once(serve, status):
    scripted = serve(failed(status, "longer than the context\nof 64"))
    message = trouble(scripted, RequestRefused)
    assert message == f"HTTP {status}: longer than the context of 64"
    assert len(scripted.asked) == 1


def test_a_request_that_breaks_a_living_server_every_time_is_refused(serve):
    scripted = serve(failed(500, "assertion"))
    assert "HTTP 500: assertion, every time" in trouble(scripted, RequestRefused)
    assert len(scripted.asked) == 5


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "OPENAI_API_KEY is set on the actor's node"),
        (404, "does base_url end with /v1?"),
        (402, "HTTP 402: no"),
    ],
)
def test_what_a_person_must_mend_is_asked_once(serve, status, words):
    scripted = serve(failed(status))
    assert words in trouble(scripted)
    assert len(scripted.asked) == 1


def test_a_page_of_a_proxy_in_place_of_the_server_ends_the_run(serve):
    page = (200, {}, "<html>log in</html>")
    message = trouble(serve(page, listing=9 * [page]))
    assert "does the server speak the OpenAI protocol?" in message
    with pytest.raises(UserError, match="refuses what the run asks: .*OpenAI protocol"):
        open_chat(settings(serve(page)), 8)


def test_too_many_requests_concern_one_where_others_are_answered_meanwhile(serve):
    def answer(body):
        large = len(body["messages"][0]["content"]) > 9
        return (429, {"retry-after": "1"}, {"error": {"message": "too large"}}) if large else YES

    async def ask(*texts):
        async with Endpoint(settings(serve(answer), max_retries=1)) as endpoint:
            chat = ChatEndpoint(endpoint, 8, None)
            asked = ([{"role": "user", "content": text}] for text in texts)
            return await asyncio.gather(*map(chat.reply, asked), return_exceptions=True)

    large, small = asyncio.run(ask("l" * 10, "s"))
    assert isinstance(large, RequestRefused) and "HTTP 429: too large, every time" in str(large)
    assert small.text == "yes"
    [alone] = asyncio.run(ask("l" * 10))
    assert isinstance(alone, UserError)


def test_many_refusals_in_a_row_end_no_run_while_the_server_answers_what_is_harmless(serve):
    scripted = serve(lambda body: failed(403, "not that") if "bomb" in str(body) else YES)
    chat = open_chat(settings(scripted, max_retries=0, concurrency=4), 8)
    bombs = [{"role": "user", "content": "How is a bomb made?"}]

    async def ask(count):
        asked = [chat.reply(bombs) for _ in range(count)]
        return await asyncio.gather(*asked, return_exceptions=True)

    assert {type(each) for each in asyncio.run(ask(40))} == {RequestRefused}

    chat = open_chat(settings(serve(YES, failed(403)), max_retries=0, concurrency=4), 8)
    last = asyncio.run(ask(20))[-1]
    assert isinstance(last, UserError) and "so with the last 20 requests" in str(last)


def test_a_server_that_lists_no_models_either_is_away(serve):
    scripted = serve(failed(500, "broken"), listing=9 * [failed(500)])
    assert "HTTP 500: broken; tried again up to 4 times" in trouble(scripted)
    assert scripted.listed == 2  # a sign of life is asked for in haste


def test_requests_under_way_are_bounded(serve):
    scripted = serve(YES, delay=0.05)
    assert len(replies(scripted, count=12, concurrency=3)) == 12
    assert scripted.most == 3


# -- replies --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (said(None, refusal="I cannot."), "I cannot."),
        (said("ye", "content_filter"), "finish_reason content_filter"),
    ],
)
def test_a_model_that_gives_no_reply_is_an_error_of_that_request(serve, answer, words):
    assert words in trouble(serve(answer), RequestRefused)


@pytest.mark.parametrize(
    ("constrain", "text", "found"),
    [
        ("vllm", "yes", "yes"),
        ("none", " yes\n", "yes"),
        ("none", "Yes.", None),
        ("none", "yes, no", None),
        ("vllm", "maybe", None),
        ("json_schema", '{"verdict": "没有"}', "没有"),
        ("json_schema", '{"verdict": "maybe"}', None),
        ("json_schema", '["yes"]', None),
        ("json_schema", "yes", None),
    ],
)
def test_a_reply_is_one_of_the_choices_or_refused(serve, constrain, text, found):
    scripted = serve(said(text))
    asked = {"choices": ["yes", "no", "没有"], "constrain": constrain}
    if found:
        assert replies(scripted, **asked)[0].text == found
    else:
        message = trouble(scripted, RequestRefused, **asked)
        assert "is none of yes, no, 没有" in message and "endpoint.constrain" in message


def test_a_reply_that_was_cut_says_so(serve):
    [reply] = replies(serve(said("ye", "length")), choices=["yes", "no"], constrain="vllm")
    assert reply.text == "ye" and not reply.complete


THOUGHT = {"reasoning_content": "Is it? No."}


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (said("yes", **THOUGHT), "yes"),
        (said("yes", reasoning="Is it?"), "yes"),
        (said("<think>Is it? no</think>\n\nyes"), "yes"),
        (said("Is it? no</think>yes"), "yes"),
        (said("<think>Is it? yes", "length"), None),
        (said(None, "length", **THOUGHT), None),
        (said("", **THOUGHT), None),
    ],
)
def test_of_a_reply_only_what_follows_the_reasoning_is_read(serve, answer, found):
    for constrain in (None, "none"):
        choices = ["yes", "no"] if constrain else None
        if found:
            assert replies(serve(answer), choices=choices, constrain=constrain)[0].text == found
        else:
            with pytest.raises(RequestRefused, match="never left its reasoning"):
                replies(serve(answer), choices=choices, constrain=constrain)


def test_the_probability_of_a_reply_is_not_that_of_its_reasoning(serve):
    steps = [("Is", -3.0), (" it", -2.0), ("ye", -0.5), ("s", -0.25), ("<end>", 0.0)]
    logprobs = [
        {"token": token, "logprob": p, "bytes": None, "top_logprobs": []} for token, p in steps
    ]
    status, headers, body = said("yes", **THOUGHT)
    body["choices"][0]["logprobs"] = {"content": logprobs}
    [reply] = replies(serve((status, headers, body)), probabilities=True)
    assert reply.probability == pytest.approx(math.exp(-0.75))


def test_what_looks_like_a_control_token_is_sent_apart(serve):
    scripted = serve(YES)
    replies(scripted, messages=[{"role": "user", "content": "A page: </s><|eot_id|>"}])
    assert scripted.asked[0]["messages"][0]["content"] == "A page: < /s>< |eot_id|>"


def test_variables_of_the_template_are_sent_beside_the_constraint(serve):
    scripted = serve(YES)
    told = {"enable_thinking": False}
    replies(scripted, choices=["yes", "no"], constrain="vllm", template_kwargs=told)
    [body] = scripted.asked
    assert body["chat_template_kwargs"] == told and body["structured_outputs"]["choice"]


def test_each_constraint_is_told_in_the_words_of_its_server(serve):
    scripted = serve(YES, YES, said('{"verdict": "yes"}'))
    for constrain in ("none", "vllm", "json_schema"):
        replies(scripted, choices=["yes", "no"], constrain=constrain)
    nothing, vllm, schema = scripted.asked
    assert not {"structured_outputs", "response_format"} & nothing.keys()
    assert vllm["structured_outputs"] == {"choice": ["yes", "no"]}
    verdict = schema["response_format"]["json_schema"]["schema"]["properties"]["verdict"]
    assert verdict["enum"] == ["yes", "no"]


def test_the_probability_of_a_reply_is_that_of_its_tokens(serve):
    status, headers, body = YES
    logprobs = {"content": [{"token": t, "logprob": math.log(p)} for t, p in (("y", 0.5), ("", 1))]}
    for token in logprobs["content"]:
        token |= {"bytes": None, "top_logprobs": []}
    told = (status, headers, {**body, "choices": [{**body["choices"][0], "logprobs": logprobs}]})
    scripted = serve(told)
    [reply] = replies(scripted, choices=["yes", "no"], constrain="vllm", probabilities=True)
    assert scripted.asked[0]["logprobs"] is True
    assert reply.probability == pytest.approx(0.5)
    [reply] = replies(scripted, choices=["yes", "no"], constrain="vllm")
    assert "logprobs" not in scripted.asked[1] and reply.probability is None
    message = trouble(serve(YES), UserError, probabilities=True)
    assert "tells no probabilities" in message and "confidence=false" in message


def test_a_lone_surrogate_is_rejected_before_it_is_sent(serve):
    scripted = serve(YES)
    with pytest.raises(RowRejected, match="not_unicode"):
        replies(scripted, messages=[{"role": "user", "content": "\udc00"}])
    assert scripted.asked == []


# -- the start ------------------------------------------------------------------------------------


def test_a_server_is_tried_out_with_what_the_run_asks(serve):
    scripted = serve(YES)
    open_chat(settings(scripted), 8, "vllm")
    assert scripted.asked[0]["structured_outputs"] == {"choice": ["yes", "no"]}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (failed(400, "Unknown parameter: structured_outputs"), "refuses what the run asks: HTTP"),
        (failed(400, "Unsupported parameter: temperature"), "calls otherwise: endpoint.parameters"),
        (said("I think that it is."), "is none of yes, no"),
        (failed(401, f"bad key {KEY}"), "HTTP 401: bad key ***"),
        (failed(404, "The model `m` does not exist"), "`m` does not exist; is model right"),
    ],
)
def test_a_server_that_will_not_do_ends_the_start_at_once(serve, answer, words):
    scripted = serve(answer)
    with pytest.raises(UserError) as caught:
        open_chat(settings(scripted), 8, "vllm")
    assert words in str(caught.value) and KEY not in str(caught.value)
    assert (scripted.listed, len(scripted.asked)) == (1, 1)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_path_ends_the_start_at_once(serve, status):
    scripted = serve(YES, listing=9 * [failed(status)])
    with pytest.raises(UserError, match=f"HTTP {status}"):
        open_chat(settings(scripted), 8)
    assert (scripted.listed, scripted.asked) == (1, [])


def test_a_server_that_is_no_such_server_ends_the_start(serve):
    scripted = serve(YES, models="not a list")
    with pytest.raises(UserError, match="lists no models: does base_url end with /v1"):
        open_chat(settings(scripted), 8)
    for page in (raw("{"), raw(""), raw("[" * 100_000)):
        with pytest.raises(UserError, match="model 'm': the answer cannot be read"):
            open_chat(settings(serve(YES, listing=9 * [page])), 8)
    assert "HTTP 500: no" in trouble(serve(failed(500), listing=9 * [raw("{")]), max_retries=0)


def test_the_start_waits_for_a_server_that_is_away(serve):
    scripted = serve(failed(503), YES, listing=(failed(502), DROPPED, failed(429), failed(500)))
    open_chat(settings(scripted), 8)
    assert (scripted.listed, len(scripted.asked)) == (5, 2)


def test_the_start_waits_while_nobody_listens(serve):
    gone = serve(YES)
    gone.stop()
    back = threading.Timer(1.0, serve, [YES], {"port": gone.port})
    back.start()
    open_chat(settings(gone), 8)
    back.join()


def test_a_server_that_stays_away_ends_the_start(serve, monkeypatch):
    gone = serve(YES)
    gone.stop()
    with pytest.raises(UserError, match="cannot be reached .*tried again up to 2 times"):
        open_chat(settings(gone, max_retries=2), 8)
    monkeypatch.setattr("maskdpo_ray.engine.endpoint.REACH_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", gone.port)):  # takes connections, answers none
        with pytest.raises(UserError, match="timed out; tried again up to 2 times"):
            open_chat(settings(gone, max_retries=2), 8)


@pytest.fixture(scope="module")
def tokenizer():
    return open_tokenizer(models.tiny_llama())


def completed(**choice):
    return 200, {}, {"choices": [{"index": 0, "text": "a", "finish_reason": "length", **choice}]}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (completed(), "returns no token ids: .*vllm serve"),
        (completed(prompt_token_ids=[1, 2], token_ids=[3]), "has another tokenizer"),
        (failed(400, "Unknown parameter"), "refuses what the run asks: .*vllm serve"),
    ],
)
def test_a_server_that_cannot_sample_token_ids_ends_the_start(serve, tokenizer, answer, words):
    with pytest.raises(UserError, match=words):
        open_tokens(settings(serve(answer)), tokenizer)


def test_all_that_decides_a_token_is_sent_and_no_more_than_the_context_holds(serve, tokenizer):
    scripted = serve(completed(token_ids=[5]))
    params = {"n": 1, "seed": 7, "temperature": 0.8, "top_k": 40, "top_p": 1.0, "max_tokens": 16}
    params["stop_token_ids"] = [2]

    async def ask():
        async with Endpoint(settings(scripted)) as endpoint:
            return await TokenEndpoint(endpoint, tokenizer, 64).generate([3] * 60, params)

    [output] = asyncio.run(ask())
    assert (output.token_ids, output.finish_reason) == ([5], "length")
    [body] = scripted.asked
    assert body["prompt"] == [3] * 60
    assert body.items() >= (params | {"max_tokens": 4}).items()
    assert body.items() >= {"min_p": 0, "repetition_penalty": 1, "presence_penalty": 0}.items()


def completions(script, tokenizer, n, seed=7):
    """Token ids of ``n`` completions, or what was raised, and the requests for them."""
    params = {"n": n, "seed": seed, "temperature": 0.8, "top_k": 40, "top_p": 1.0}

    async def ask():
        async with Endpoint(settings(script)) as endpoint:
            tokens = TokenEndpoint(endpoint, tokenizer, 64)
            return await tokens.generate([3], params | {"max_tokens": 4})

    found = asyncio.run(ask())
    assert [output.index for output in found] == list(range(n))
    return [output.token_ids for output in found]


def counted(given):
    """A server whose completion ``k`` of ``n`` is its seed, and which gives what ``given``, a
    function of ``n``, says: (index, k)."""

    def answer(body):
        choices = [
            {"index": index, "text": "", "finish_reason": "stop", "token_ids": [body["seed"] + k]}
            for index, k in given(body["n"])
        ]
        return 200, {}, {"choices": choices}

    return answer


@pytest.mark.parametrize(
    ("given", "requests"),
    [
        (lambda n: [(k, k) for k in range(n)], 1),
        (lambda n: [(k, k) for k in range(n)][::-1], 1),
        (lambda n: [(k, k) for k in range(max(n - 2, 1))], 3),
        (lambda n: [(k, k) for k in range(n) if k % 2 == 0 or n == 1], 3),  # holes
        (lambda n: [(0, 0)], 4),  # one, whatever is asked for
        (lambda n: [(0, k) for k in range(n)], 5),  # all under one index
        (lambda n: [] if n > 1 else [(0, 0)], 5),
        (lambda n: [(k, k) for k in range(n + 3)], 1),
        (lambda n: [(None, 0)], 5),
    ],
)
def test_completions_that_are_missing_are_asked_for_alone_with_their_own_seeds(
    serve, tokenizer, given, requests
):
    scripted = serve(counted(given))
    assert completions(scripted, tokenizer, 4) == [[7], [8], [9], [10]]
    assert len(scripted.asked) == requests
    assert all(body["n"] == 1 for body in scripted.asked[1:])
    assert len({body["seed"] for body in scripted.asked[1:]}) == requests - 1


def test_completions_that_never_come_refuse_the_question_within_bounds(
    serve, tokenizer, monkeypatch
):
    monkeypatch.setattr("maskdpo_ray.engine.endpoint.WAITS", (0.0, 0.0))
    scripted = serve(counted(lambda n: [(0, 0)] if n > 1 else []))
    with pytest.raises(RequestRefused, match="it has no choices"):
        completions(scripted, tokenizer, 4)
    assert len(scripted.asked) <= 1 + 3 * 3
    without_ids = (200, {}, {"choices": [{"index": 0, "text": "a", "finish_reason": "stop"}]})
    with pytest.raises(RequestRefused, match="no token ids"):
        completions(serve(without_ids), tokenizer, 1)


# -- the run --------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    """The settings of a run of 8 questions of two sentences, judged by a server."""
    lines = [
        {
            "id": f"q{n}",
            "topic": "t",
            "question": "?",
            "document": "d",
            "candidates": [{"response": "She was."}, {"response": "She was not."}],
        }
        for n in range(8)
    ]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, lines)))

    def given(scripted, **changes):
        endpoint = {"base_url": scripted.url, "model": "m", "constrain": "vllm", **changes}
        small = {"cpus": 0.5, "blocks_in_flight": 1}
        return tree(endpoint, {"source": "input"}) | {
            "run_dir": str(tmp_path / "run"),
            "model": {"path": models.tiny_llama()},
            "data": {"train": str(tmp_path / "q.jsonl")},
            "resources": {"questions_per_block": 2, "annotator": small, "sampler": small},
        }

    return given


def test_an_endpoint_that_fails_later_ends_the_run_and_keeps_what_is_finished(
    serve, run, tmp_path, ray_cluster
):
    (tmp_path / "key").write_text(KEY)

    def stages_of(scripted):
        return Stages(build_config(run(scripted, api_key_file=str(tmp_path / "key"))))

    def go(stages):
        stream(stages, stages.questions("train"), stages.sample(), stages.annotate())

    supported = said("Supported")
    failing = serve(YES, *8 * [supported], failed(401, f"revoked {KEY}"))
    with pytest.raises(UserError, match="stage annotate cannot go on: .*HTTP 401: revoked") as e:
        go(stages_of(failing))
    assert KEY not in str(e.value)
    store = stages_of(failing).annotate().store
    kept = store.finished()[0]
    assert 0 < len(kept) <= 4 and not store.rejected_rows()
    mended = serve(YES, supported)
    go(stages_of(mended))
    assert store.manifest()["counts"] == {"in": 8, "out": 8, "rejected": {}}
    # One probe, and two sentences of every question that was not finished.
    assert len(mended.asked) == 1 + 2 * (8 - len(kept))


# -- answers that are only examined ---------------------------------------------------------------

DECODING = Decoding(2, temperature=0.7, top_k=5, top_p=0.9, max_tokens=6, greedy=True)


def answers(scripted, row, decoding=DECODING, **more):
    sampler = open_chat_sampler(settings(scripted, concurrency=1), decoding, seed=3, **more)
    return asyncio.run(sampler([row]))[0]


def test_each_answer_is_a_request_with_its_own_seed(serve, tokenizer):
    refused = said(None, refusal="I cannot help.")
    scripted = serve(YES, said("A.", finish="length"), refused, said(None, "content_filter"))
    row = {"id": "q", "question": "Who?", "candidates": []}
    out = answers(scripted, row, system_prompt="Be brief.", tokenizer=tokenizer)
    given = [(c["response"], c["finish_reason"], c["decoding"]) for c in out["candidates"]]
    assert given == [
        ("A.", "length", "greedy"),
        ("I cannot help.", "stop", "sampled"),
        ("", "stop", "sampled"),
    ]
    assert [c["index"] for c in out["candidates"]] == [0, 1, 2]
    assert out["candidates"][0]["token_ids"][:-1] == tokenizer.encode("A.")
    _, greedy, *sampled = scripted.asked
    roles = [message["role"] for message in greedy["messages"]]
    assert roles == ["system", "user"] and greedy["max_completion_tokens"] == 6
    assert greedy["temperature"] == 0 and "seed" not in greedy and "top_k" not in greedy
    for body in sampled:
        assert (body["temperature"], body["top_p"], body["top_k"]) == (0.7, 0.9, 5)
    assert [body["seed"] for body in sampled] == [c["seed"] for c in out["candidates"][1:]]
    assert sampled[1]["seed"] == sampled[0]["seed"] + 1


def test_the_reasoning_of_a_served_answer_is_kept_beside_it(serve):
    row = {"id": "q0", "question": "?"}
    apart, within = said("A.", reasoning_content="Hm."), said("<think>Hm.</think>B.")
    scripted = serve(YES, apart, within, said(None, reasoning="Hm."))
    candidates = answers(scripted, row, template_kwargs={"enable_thinking": True})["candidates"]
    found = sorted((c["response"], c["reasoning"]) for c in candidates)
    assert found == [("", "Hm."), ("A.", "Hm."), ("B.", "<think>Hm.</think>")]
    assert scripted.asked[0]["chat_template_kwargs"] == {"enable_thinking": True}


def test_a_server_that_does_not_know_top_k_ends_the_start_with_the_remedy(serve):
    with pytest.raises(UserError, match="unknown: top_k; .*evaluation.top_k=0 leaves it out"):
        open_chat_sampler(settings(serve(failed(400, "unknown: top_k"))), DECODING, seed=0)
    scripted = serve(YES)
    open_chat_sampler(settings(scripted), replace(DECODING, top_k=0), seed=0)
    assert "top_k" not in scripted.asked[0]


def test_a_question_that_the_server_refuses_is_rejected_and_has_no_tokens_without_a_policy(serve):
    row = {"id": "q", "question": "Who?", "candidates": []}
    out = answers(serve(YES, failed(400, "too long")), row)
    assert isinstance(out, RowRejected) and out.reason == "refused_by_engine"
    out = answers(serve(YES), row)
    assert [c["token_ids"] for c in out["candidates"]] == [[], [], []]


def test_a_served_model_and_given_answers_under_two_judges_without_a_policy(
    serve, tmp_path, ray_cluster, capsys
):
    """The whole of an evaluation without training; all models are this one server."""
    scripted = serve(said("Supported"))
    row = {"document": "d", "topic": "t"}
    questions = [{**row, "id": f"q{n}", "question": f"Who was {n}?"} for n in range(3)]
    given = [{"id": f"q{n}", "response": "She ran. He swam."} for n in range(2)]
    for name, rows in (("t.jsonl", questions), ("a.jsonl", given)):
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
    endpoint = {**JUDGE, "base_url": scripted.url, "constrain": "none"}
    judge = {"annotator": "judge", "endpoint": endpoint}
    other = {**judge, "max_tokens": 9}
    served = {"endpoint": {"base_url": scripted.url, "model": "m"}}
    small = {"cpus": 0.5}
    config = build_config(
        {
            "run_dir": str(tmp_path / "run"),
            "data": {"test": str(tmp_path / "t.jsonl")},
            "systems": {},
            "annotation": judge,
            "evaluation": {
                "models": {"given": {"responses": str(tmp_path / "a.jsonl")}, "served": served},
                "judges": {"same": judge, "other": other},
                "samples": 2,
                "best_of_n": [1, 2],
            },
            "resources": {"annotator": small, "sampler": small},
        }
    )
    evaluate_and_report(Stages(config))
    made = json.loads((tmp_path / "run" / "report.json").read_text())
    assert set(made["systems"]) == {"given", "served"}
    assert made["systems"]["given"]["greedy"]["correct"] == 4
    assert made["systems"]["given"]["sampled"] is None
    assert made["systems"]["served"]["sampled"]["responses"] == 6
    assert list(made["best_of_n"]) == ["served"]
    assert set(made["judges"]) == {"same", "other"}
    agreement = made["judges"]["other"]["systems"]["given"]["agreement"]
    assert agreement["accuracy"] == [1.0, None, None], "all of one topic"
    folders = {path.name for path in (tmp_path / "run").iterdir()}
    assert "evaluate-given-by-other" in folders and "evaluate-given-by-same" not in folders
    assert made["stages"]["answer-given"]["rejected"] == {"response_missing": 1}
    asked = len(scripted.asked)
    evaluate_and_report(Stages(config))
    assert len(scripted.asked) == asked, "nothing is asked again"
    printed = capsys.readouterr().out
    assert "other" in printed and "served" in printed


# -- the key --------------------------------------------------------------------------------------


def test_the_key_is_in_no_log_and_no_error(serve, caplog):
    caplog.set_level(logging.DEBUG)
    trouble(serve(failed(503), failed(401, f"Incorrect API key provided: {KEY}")))
    assert caplog.records and KEY not in caplog.text


DRIVER = """
import sys
from maskdpo_ray.config import read_config
from maskdpo_ray.pipeline import stream
from maskdpo_ray.stages import Stages
stages = Stages(read_config(sys.argv[1]))
stream(stages, stages.questions("train"), stages.sample(), stages.annotate())
"""


@pytest.fixture
def ray_folder():
    """Where a Ray puts its session; short, since sockets lie in it."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    yield folder
    shutil.rmtree(folder)


def test_the_key_is_in_no_log_of_ray_nor_of_the_actors(serve, run, tmp_path, ray_folder):
    scripted = serve(YES, failed(503, KEY), said("Supported"), failed(401, f"revoked {KEY}"))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run(scripted)))
    own = {"RAY_TMPDIR": str(ray_folder), "OPENAI_LOG": "debug", "OMP_NUM_THREADS": "1"}
    driver = subprocess.run(
        [sys.executable, "-c", DRIVER, tmp_path / "run.yaml"],
        env={k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | own,
        capture_output=True,
        text=True,
        timeout=240,
    )
    printed = driver.stdout + driver.stderr
    assert "HTTP 401: revoked ***" in printed and scripted.keys[-1] == f"Bearer {KEY}"
    logs = {f.name: f.read_bytes() for f in ray_folder.rglob("*") if f.is_file()}
    client = [name for name, log in logs.items() if b"openai._base_client" in log]
    assert any(name.startswith("worker-") for name in client)
    assert any(name.startswith("python-core-worker-") for name in logs)
    logs |= {f.name: f.read_bytes() for f in (tmp_path / "run").rglob("*") if f.is_file()}
    assert KEY not in printed and not [n for n, log in logs.items() if KEY.encode() in log]


def test_the_key_comes_from_the_file_where_one_is_named(tmp_path, monkeypatch):
    file = tmp_path / "key"
    given = {"base_url": "http://a/v1", "model": "m"}
    in_file = EndpointConfig(**given, api_key_file=str(file))
    with pytest.raises(UserError, match="cannot read api_key_file .*No such file"):
        read_key(in_file)
    file.write_text("\n")
    with pytest.raises(UserError, match="is empty"):
        read_key(in_file)
    file.write_text("two words\n")
    with pytest.raises(UserError) as caught:
        read_key(in_file)
    assert "holds no key" in str(caught.value) and "two words" not in str(caught.value)
    file.write_text("from-file\n")
    assert read_key(in_file) == "from-file"
    assert read_key(EndpointConfig(**given)) == KEY
    monkeypatch.delenv("OPENAI_API_KEY")
    assert read_key(EndpointConfig(**given)) is None


def test_no_document_hands_a_secret_to_ray():
    """Ray keeps a job's environment in plain text and shows it in the dashboard."""
    folder = Path(__file__).parents[2]
    for document in (folder / "README.md", *folder.glob("docs/*.md"), *folder.glob("jobs/**/*.*")):
        assert not re.search(r"env_vars.*(TOKEN|KEY)", document.read_text()), document


def test_a_server_without_keys_needs_none(serve, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    scripted = serve(YES, failed(401))
    assert replies(scripted)[0].text == "yes"
    assert "OPENAI_API_KEY is not set on the actor's node" in trouble(scripted)


# -- the configuration ----------------------------------------------------------------------------

URL = "http://host:8000/v1"
JUDGE = {"base_url": URL, "model": "m", "constrain": "vllm"}


HELD = (KEY, IDENTIFIER_KEY, f"hf_{IDENTIFIER_KEY}", [IDENTIFIER_KEY], "", None, 7)


def tree(endpoint=JUDGE, sampling=None, **annotation):
    return {
        "run_dir": "x",
        "model": {"path": "p"},
        "data": {"train": "q"},
        "sampling": sampling or {},
        "annotation": {"annotator": "judge", "endpoint": endpoint, **annotation},
    }


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (tree({**JUDGE, "api_key": KEY}), "did you mean 'api_key_env'"),
        *[(tree({**JUDGE, "api_key_env": held}), "names an environment var") for held in HELD],
        (tree({**JUDGE, "api_key_file": [KEY]}), "is the path of a file"),
        (tree({**JUDGE, "base_url": f"http://me:{KEY}@host/v1"}), "is saved with the run"),
        (tree({**JUDGE, "base_url": f"http://host/v1?key={KEY}"}), "is saved with the run"),
        (tree({**JUDGE, "base_url": "host:8000"}), "must begin with http"),
        (tree({**JUDGE, "base_url": "http://[/v1"}), "is no URL"),
        (tree({**JUDGE, "api_key_env": "A", "api_key_file": "b"}), "remove one of them"),
        (tree({"base_url": URL, "model": "m"}), "endpoint.constrain is missing"),
        (tree(annotator="anah"), "'anah' replies freely"),
        (
            tree(annotator="labels", sampling={"source": "input"}),
            "it is of annotator anah and judge",
        ),
        (tree(model="m"), "the server of endpoint decides model"),
        (
            tree(
                sampling={"endpoint": {"base_url": URL, "model": "m", "parameters": {"seed": None}}}
            ),
            "takes all",
        ),
        (tree(engine={"max_model_len": 8}, dtype="float16"), "decides dtype, engine"),
        (tree(None), "annotation: model or endpoint is missing"),
        (tree(sampling={"endpoint": {"base_url": URL, "model": "m"}, "source": "input"}), "remove"),
        (tree(sampling={"endpoint": {"base_url": URL, "model": "m"}, "engine": {"a": 1}}), "start"),
        (tree(sampling={"endpoint": JUDGE}), "unknown key 'sampling.endpoint.constrain'"),
    ],
)
def test_what_would_be_ignored_or_leak_is_refused(settings, words):
    with pytest.raises(UserError) as caught:
        build_config(settings)
    said = str(caught.value)
    assert words in said and KEY not in said and IDENTIFIER_KEY not in said


@pytest.mark.parametrize("name", ["api_key_env", "api_key_file", "base_url"])
def test_an_error_of_the_section_alone_shows_no_value(name):
    held = f"http://me:{KEY}@host" if name == "base_url" else [KEY]
    with pytest.raises(ValidationError) as caught:
        EndpointConfig(**{"base_url": URL, "model": "m", name: held})
    assert KEY not in str(caught.value)


def test_a_saved_configuration_is_read_back():
    sampling = {"endpoint": {"base_url": URL, "model": "m"}}
    for given in (
        tree(sampling=sampling),
        tree({"base_url": URL, "model": "m", "api_key_file": "k"}, annotator="anah"),
    ):
        config = build_config(given)
        assert build_config(config.model_dump(mode="json")) == config


def test_the_model_makes_the_result_and_the_address_does_not(tmp_path):
    (tmp_path / "q.jsonl").write_text('{"id": "a", "topic": "t", "question": "?"}')

    def keys(**changes):
        endpoint = {"base_url": URL, "model": "m", **changes}
        given = tree({**endpoint, "constrain": "vllm"}, {"endpoint": endpoint})
        given |= {"run_dir": str(tmp_path / "run"), "model": {"path": models.tiny_llama()}}
        given |= {"data": {"train": str(tmp_path / "q.jsonl")}}
        stages = Stages(build_config(given))
        stages.sample().store.begin({})
        return stages.sample().store.key, stages.annotate().store.key

    first = keys()
    elsewhere = keys(base_url="http://other/v1", concurrency=2, timeout=9, max_retries=1)
    assert elsewhere == keys(api_key_file="k") == first
    with pytest.raises(UserError, match="annotation.endpoint.model, sampling.endpoint.model"):
        keys(model="another")
