"""Token ids of texts that have long stretches in common, such as a document in every prompt.

Encoding takes about 2 µs a token, thousands of times what looking up a stretch that was met before
takes; with a judge whose engine finds the document in its prefix cache, it is most of the work.
"""

import re
from functools import lru_cache
from typing import Any

# Between a mark at the end of a word and the space after it. The usual pre-tokenizers (GPT-2's and
# those after it) begin a new word there whatever stands around, and no token reaches over words.
CUTS = re.compile(r"(?<=\w[.,:;!?])(?= \w)")
PIECES_KEPT = 2**16  # of about 10 tokens each
PROBE = (
    "<s>Document: Ada Lovelace was born in 1815. She wrote, in 1843, of an engine! Was it built? "
    "No. 12 were planned.\n\nSentence: Dr. Foo's e.g. example. 他出生于伦敦。 Done. \n A. b. C"
)


class PiecewiseEncoder:
    """Encodes clause by clause where the tokenizer allows it, and as a whole where not.

    Whether it does is tried on a text when the encoder is made: tokenizers that put a space in
    front of every text, as many SentencePiece ones, do not.
    """

    def __init__(self, tokenizer: Any) -> None:
        def encode(text: str) -> list[int]:
            return tokenizer.encode(text, add_special_tokens=False)

        self._whole = encode
        self._piece = lru_cache(PIECES_KEPT)(encode)
        self.piecewise = self._in_pieces(PROBE) == encode(PROBE)

    def __call__(self, text: str) -> list[int]:
        """The ids of ``tokenizer.encode(text, add_special_tokens=False)``."""
        return self._in_pieces(text) if self.piecewise else self._whole(text)

    def _in_pieces(self, text: str) -> list[int]:
        return [i for piece in CUTS.split(text) for i in self._piece(piece)]
