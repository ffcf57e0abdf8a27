"""Which topics are held out, and whether two names are the same topic or question."""

import hashlib
import unicodedata

from maskdpo_ray.config import SplitConfig
from maskdpo_ray.texts import without_unseen


def comparable(text: str) -> str:
    """A topic or question as it is compared: case, white space, characters that nobody sees
    (zero-width ones) and ways of writing the same character make no difference."""
    return " ".join(unicodedata.normalize("NFKC", without_unseen(text)).casefold().split())


def part_of(topic: str, split: SplitConfig) -> str:
    """``train`` or ``test``, by the topic alone.

    Every topic has a place on [0, 1) that depends on the seed and its name only, and ``test`` takes
    those below its share. So whole topics move, other rows change nothing, and a larger share
    keeps the topics of a smaller one.
    """
    key = f"{split.seed}\0{comparable(topic)}".encode("utf-8", "surrogatepass")
    place = int.from_bytes(hashlib.sha256(key).digest()[:8], "big") / 2**64
    return "test" if place < split.test else "train"
