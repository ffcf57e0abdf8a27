"""Which characters of the response each sampled token wrote (docs/method.md, section 3).

Spans are those of the ids that were sampled. Tokenizing the text again gives other ids wherever
the policy did not choose the tokenizer's own segmentation, and a mask shifted from there on.
"""

import json
import re
from collections.abc import Callable
from functools import lru_cache, partial
from itertools import groupby
from typing import Any

import numpy as np

from maskdpo_ray.engine.vocabulary import is_known, special_ids
from maskdpo_ray.errors import RowRejected

Span = tuple[int, int]


class MaskError(RowRejected):
    """The mask of a response cannot be built exactly. Its pair is dropped and counted."""


def token_spans(
    tokenizer: Any, token_ids: list[int], response: str, reasoning: str | None = None
) -> list[Span]:
    """Character span of every token in ``response``.

    A token that holds a part of a character spans that whole character, and so does each of its
    other tokens: their spans are equal or overlap. Bytes that are no UTF-8 are spanned by the
    U+FFFD they became. Tokens that write nothing (end of turn and other special tokens, ids beyond
    the vocabulary, a space before the text that SentencePiece's decoder drops) get an empty span
    where they stand; so do those of the reasoning, at the beginning.

    Args:
        tokenizer: a Hugging Face tokenizer. Byte-level BPE and SentencePiece's byte fallback are
            read byte by byte, any other by decoding a sliding window.
        token_ids: as sampled; any segmentation of the text will do.
        response: their text, as ``engine.chat.response_text`` decodes it, behind ``reasoning``.

    Returns:
        One ``(start, end)`` per token, end exclusive; together they cover ``response`` in order.

    Raises:
        MaskError: ``mask_text_differs``, the tokens do not spell ``response`` to the character.
    """
    special = special_ids(tokenizer)
    writes = [i not in special and is_known(tokenizer, i) for i in token_ids]
    written = [i for i, of_text in zip(token_ids, writes, strict=True) if of_text]
    before = len(reasoning or "")
    whole = _spelling(tokenizer)(tokenizer, written, f"{reasoning or ''}{response}")
    spans = iter([(max(start - before, 0), max(end - before, 0)) for start, end in whole])
    result: list[Span] = []
    position = 0
    for of_text in writes:
        span = next(spans) if of_text else (position, position)
        result.append(span)
        position = span[1]
    return result


@lru_cache(maxsize=16)
def _spelling(tokenizer: Any) -> Callable[[Any, list[int], str], list[Span]]:
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    state = json.loads(decoder.__getstate__()) if decoder is not None else {"type": None}
    if state["type"] == "ByteLevel":
        return _spans_by_bytes
    strip = _stripped_by_fallback(state)
    return _spans_by_window if strip is None else partial(_spans_by_fallback, strip=strip)


def _differs(response: str, spelled: str) -> MaskError:
    pairs = zip(response, spelled, strict=False)
    at = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(response), len(spelled)))
    return MaskError(
        "mask_text_differs",
        f"from character {at} on the tokens spell {spelled[at : at + 20]!r}, the response reads "
        f"{response[at : at + 20]!r}: give the ids that the text was decoded from, and the "
        "tokenizer that decoded it",
    )


# -- byte-level BPE (GPT-2, Llama 3, Qwen) --------------------------------------------------------


def _byte_alphabet() -> dict[str, int]:
    """The characters that byte-level BPE writes for bytes: printable Latin-1 for themselves, the
    rest counted up from U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}


_BYTES = _byte_alphabet()


@lru_cache(maxsize=2**18)
def _token_bytes(token: str) -> bytes:
    """The bytes a token stands for; added tokens outside the alphabet stand for themselves."""
    if all(char in _BYTES for char in token):
        return bytes(_BYTES[char] for char in token)
    return token.encode()


def _spans_by_bytes(tokenizer: Any, token_ids: list[int], response: str) -> list[Span]:
    name = tokenizer.backend_tokenizer.id_to_token
    return _spans_of_bytes([_token_bytes(name(i)) for i in token_ids], response)


def _spans_of_bytes(pieces: list[bytes], response: str) -> list[Span]:
    """Spans of tokens that stand for these bytes."""
    data = b"".join(pieces)
    spelled = data.decode(errors="replace")
    if spelled != response:
        raise _differs(response, spelled)
    begins = _character_begins(data)
    begun = np.concatenate([[0], np.cumsum(begins)])  # characters begun in the first n bytes
    ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
    starts = ends - [len(piece) for piece in pieces]
    stops = begun[ends]
    # A token's first byte either begins a character or belongs to the one begun before it.
    firsts = [
        begun[start] - (start < end and not begins[start])
        for start, end in zip(starts, ends, strict=True)
    ]
    return list(zip(map(int, firsts), stops.tolist(), strict=True))


def _character_begins(data: bytes) -> np.ndarray:
    """For every byte, whether a character of the decoded text begins there."""
    begins = (np.frombuffer(data, dtype=np.uint8) & 0xC0) != 0x80  # no continuation byte
    position = 0
    while position < len(data):
        try:
            data[position:].decode()
            break
        except UnicodeDecodeError as error:  # its bytes become one U+FFFD
            start, position = position + error.start, position + error.end
            begins[start:position] = False
            begins[start] = True
    return begins


# -- byte fallback (Llama 2, Gemma, Mistral) ------------------------------------------------------

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
Strip = tuple[int, int]


def _stripped_by_fallback(decoder: dict[str, Any]) -> Strip | None:
    """How many spaces a decoder of SentencePiece's kind drops at either end of a text; None for
    any other decoder."""
    match decoder.get("decoders"):
        case [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            *rest,
        ]:
            match rest:
                case []:
                    return 0, 0
                case [{"type": "Strip", "content": " ", "start": start, "stop": stop}]:
                    return start, stop
    return None


def _spans_by_fallback(
    tokenizer: Any, token_ids: list[int], response: str, strip: Strip
) -> list[Span]:
    """A run of byte tokens is decoded as a whole; where it is no UTF-8, each becomes a U+FFFD."""
    names = map(tokenizer.backend_tokenizer.id_to_token, token_ids)
    names = [name.replace("▁", " ") for name in names]
    pieces: list[bytes] = []
    for in_bytes, run in groupby(names, lambda name: bool(_BYTE.fullmatch(name))):
        of_run = [bytes.fromhex(name[3:5]) if in_bytes else name.encode() for name in run]
        try:
            b"".join(of_run).decode()
        except UnicodeDecodeError:
            of_run = ["\ufffd".encode()] * len(of_run)
        pieces += of_run
    text = b"".join(pieces).decode()
    dropped, dropped_behind = (
        min(limit, len(text) - len(left))
        for limit, left in zip(strip, (text.lstrip(" "), text.rstrip(" ")), strict=True)
    )
    kept = text[dropped : max(dropped, len(text) - dropped_behind)]
    if kept != response:
        raise _differs(response, kept)
    return [
        tuple(min(max(edge - dropped, 0), len(response)) for edge in span)
        for span in _spans_of_bytes(pieces, text)
    ]


# -- any other tokenizer ------------------------------------------------------------------------


def _spans_by_window(tokenizer: Any, token_ids: list[int], response: str) -> list[Span]:
    """Decode each token behind the ones just before it, since a decoder may treat the first token
    of a text in its own way (a dropped leading space) and needs all bytes of a character."""

    def decode(ids: list[int]) -> str:
        return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    spans: list[Span] = []
    window = position = 0
    for end in range(1, len(token_ids) + 1):
        before = decode(token_ids[window : len(spans)])
        text = decode(token_ids[window:end])
        written = text[len(before) :]
        if not text.startswith(before) or not response.startswith(written, position):
            continue  # a part of a character: its span is known with its last token
        if "\ufffd" not in written:  # broken bytes are decoded by what stands before and after
            window = len(spans)
        spans += [(position, position + len(written))] * (end - len(spans))
        position += len(written)
    if len(spans) < len(token_ids) or position < len(response):
        raise _differs(response, decode(token_ids))
    return spans
