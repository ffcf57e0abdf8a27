"""What models replied, written down as it comes, so that a kill takes only what is under way.

A block of answers takes hundreds of replies and is durable only as a whole. Until its stage is
complete, each reply lies beside it under a digest of what was asked.
"""

import asyncio
import dataclasses
import hashlib
import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from maskdpo_ray.engine.chat import Messages
from maskdpo_ray.engine.chat_model import Reply
from maskdpo_ray.evaluation.factscore.facts import ChatModel
from maskdpo_ray.storage import Folder, usable

FILE = 1000  # replies
READING = 16  # files at once
GATHER = 0.1  # seconds: replies that come together share a write


class Replies:
    """Replies in a folder: all that it held when this object was made, and those given to keep.

    An actor writes files of its own. One that grows is written anew, whole or not at all: nothing
    can be appended to an object in a store, and a kill leaves no half of a line.

    Raises:
        UserError: the folder cannot be used.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        with usable(folder):
            self._earlier = dict(_read(folder))
        self._own = uuid.uuid4().hex[:8]
        self._lines: list[str] = []  # of the file that grows
        self._before = 0  # replies in the full ones
        self._durable = 0
        self._writing = asyncio.Lock()

    def get(self, asked: str) -> Reply | None:
        """The reply to what was asked before this object was made."""
        return self._earlier.get(asked)

    async def keep(self, asked: str, reply: Reply) -> None:
        """Write a reply down. It is durable on return.

        Raises:
            UserError: the folder cannot be used.
        """
        self._lines.append(json.dumps({"asked": asked, **dataclasses.asdict(reply)}) + "\n")
        number = self._before + len(self._lines)
        async with self._writing:
            if self._durable < number:  # it did not go along with another one
                await asyncio.sleep(GATHER)
                await self._write()

    async def _write(self) -> None:
        name, lines = f"{self._own}-{self._before}.jsonl", list(self._lines)
        with usable(self._folder):
            await asyncio.to_thread(self._folder.write, name, "".join(lines).encode())
        self._durable = self._before + len(lines)
        if len(lines) >= FILE:
            self._before = self._durable
            del self._lines[: len(lines)]


class Remembering:
    """A chat model that is asked nothing to which ``replies`` hold its reply.

    Args:
        name: tells it from other models of the stage.
    """

    def __init__(self, model: ChatModel, name: str, replies: Replies) -> None:
        self._model = model
        self._name = name
        self._replies = replies

    async def reply(self, messages: Messages, choices: list[str] | None = None) -> Reply:
        """As of the model, whose refusals are not remembered."""
        question = json.dumps([self._name, messages, choices])
        asked = hashlib.sha256(question.encode()).hexdigest()[:32]
        reply = self._replies.get(asked)
        if reply is None:
            reply = await self._model.reply(messages, choices)
            await self._replies.keep(asked, reply)
        return reply


def _read(folder: Folder) -> Iterator[tuple[str, Reply]]:
    names = [name for name in folder.names() if name.endswith(".jsonl")]
    with ThreadPoolExecutor(READING) as pool:
        for content in pool.map(folder.read, names):
            for line in content.splitlines():
                # An object that its actor replaces while it is read may come torn.
                with suppress(ValueError):
                    row = json.loads(line)
                    yield row.pop("asked"), Reply(**row)
