"""Seeds of candidates, a function of run, question and candidate (docs/design.md, contract 5)."""

from hashlib import blake2b

CANDIDATE_BITS = 16
MAX_CANDIDATES = 1 << CANDIDATE_BITS


def question_seed(run_seed: int, question_id: str) -> int:
    """Seed of a question's first sampled candidate; its k-th takes ``question_seed + k``.

    The engine seeds output k of a request with ``seed + k``, so seeds of questions stand at least
    ``MAX_CANDIDATES`` apart: their low ``CANDIDATE_BITS`` bits are zero. What remains of the
    hash is 47 bits, the seed a non-negative 64-bit integer (Arrow's int64, PyTorch's generators).
    The seed does not depend on K: more candidates keep the first ones.
    """
    key = f"{run_seed}\0{question_id}".encode()
    hashed = int.from_bytes(blake2b(key, digest_size=8).digest(), "big")
    return hashed >> (CANDIDATE_BITS + 1) << CANDIDATE_BITS


def round_seed(run_seed: int, round: int) -> int:
    """The run's seed for a later round of training: the same question is asked anew."""
    if round == 0:
        return run_seed
    return int.from_bytes(blake2b(f"{run_seed}\0round {round}".encode(), digest_size=4).digest())
