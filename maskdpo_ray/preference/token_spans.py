"""Which characters of the response each sampled token wrote (docs/method.md, section 3).

Spans are those of the ids that were sampled. Tokenizing the text again gives other ids wherever
the policy did not choose the tokenizer's own segmentation, and a mask shifted from there on.
"""

import json
from functools import lru_cache
from typing import Any

import numpy as np

from maskdpo_ray.errors import RowRejected

Span = tuple[int, int]


class MaskError(RowRejected):
    """The mask of a response cannot be built exactly. Its pair is dropped and counted."""


def token_spans(tokenizer: Any, token_ids: list[int], response: str) -> list[Span]:
    """Character span of every token in ``response``.

    A token that holds a part of a character spans that whole character, and so does each of its
    other tokens: their spans are equal or overlap. Bytes that are no UTF-8 are spanned by the
    U+FFFD they became. Tokens that write nothing (end of turn and other special tokens, ids beyond
    the vocabulary) get an empty span where they stand.

    Args:
        tokenizer: a Hugging Face tokenizer. Byte-level BPE is read byte by byte, any other by
            decoding a sliding window.
        token_ids: as sampled; any segmentation of the text will do.
        response: their text, as ``engine.chat.response_text`` decodes it.

    Returns:
        One ``(start, end)`` per token, end exclusive; together they cover ``response`` in order.

    Raises:
        MaskError: ``mask_text_differs``, the tokens do not spell ``response`` to the character.
    """
    special = special_ids(tokenizer)
    written = [i for i in token_ids if i not in special]
    spell = _spans_by_bytes if _is_byte_level(tokenizer) else _spans_by_window
    spans = iter(spell(tokenizer, written, response))
    result: list[Span] = []
    position = 0
    for i in token_ids:
        span = (position, position) if i in special else next(spans)
        result.append(span)
        position = span[1]
    return result


@lru_cache(maxsize=16)
def special_ids(tokenizer: Any) -> frozenset[int]:
    """What ``skip_special_tokens`` leaves out."""
    return frozenset(i for i, token in tokenizer.added_tokens_decoder.items() if token.special)


@lru_cache(maxsize=16)
def _is_byte_level(tokenizer: Any) -> bool:
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    return decoder is not None and json.loads(decoder.__getstate__())["type"] == "ByteLevel"


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
    pieces = [_token_bytes(name(i) or "") for i in token_ids]
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
