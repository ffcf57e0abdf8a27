import numpy as np
import pytest

from maskdpo_ray.errors import UserError
from maskdpo_ray.training.batches import collate, training_pairs


def references_of(pairs, **changes):
    rows = {
        pair["digest"]: {s: [-1.0] * len(pair[s]["token_ids"]) for s in ("chosen", "rejected")}
        for pair in pairs
    }
    for name, value in changes.items():
        rows[pairs[0]["digest"]][name] = value
    return rows


def test_sequences_are_prompt_and_response_token_for_token(make_pair):
    pair = make_pair(1, prompt=4, chosen=6, rejected=3)
    pair["chosen"]["weights"] = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0]
    (row,) = training_pairs([pair], references_of([pair]), "sentence")
    batch = collate([row])
    ids = pair["prompt_ids"] + pair["chosen"]["token_ids"]
    # The last token is predicted from the one before it, and never read.
    assert batch.input_ids[0].tolist() == ids[:-1]
    rejected = pair["prompt_ids"] + pair["rejected"]["token_ids"]
    assert batch.input_ids[1].tolist()[: batch.sizes[1]] == rejected[: batch.sizes[1]]
    assert batch.attention_mask.sum(1).tolist() == list(batch.sizes) == [9, row.tokens(True) - 9]
    chosen = batch.owner == 0
    # Each listed position is one before the token that it predicts.
    assert batch.positions[chosen].tolist() == [3, 5, 6, 8]
    assert batch.targets[chosen].tolist() == [ids[4], ids[6], ids[7], ids[9]]


def test_token_id_zero_counts(make_pair):
    pair = make_pair(2, chosen=3)
    pair["chosen"] |= {"token_ids": [0, 5, 0], "weights": [1.0, 1.0, 1.0]}
    (row,) = training_pairs([pair], references_of([pair]), "sentence")
    batch = collate([row])
    assert batch.targets[batch.owner == 0].tolist() == [0, 5, 0]


def test_no_mask_gives_every_token_weight_one(make_pair):
    pair = make_pair(3)
    pair["chosen"]["weights"] = [0.0] * 8 + [0.5]
    (row,) = training_pairs([pair], references_of([pair]), "none")
    assert row.chosen.weights.tolist() == [1.0] * 9


def test_the_order_is_that_of_the_ids(make_pair):
    pairs = [make_pair(number) for number in (3, 1, 2)]
    rows = training_pairs(pairs, references_of(pairs), "sentence")
    assert [row.id for row in rows] == ["pair-001", "pair-002", "pair-003"]


def test_bad_rows_are_named(make_pair):
    pair = make_pair(4)
    good = references_of([pair])
    cases = [
        ([pair, pair], good, "'pair-004' stands twice"),
        ([pair], {}, "'pair-004' has no reference"),
        ([pair | {"prompt_ids": []}], good, "'pair-004' has an empty prompt"),
        ([pair], references_of([pair], chosen=[-1.0]), "9 tokens and 1 reference"),
        ([], {}, "no preference pairs"),
    ]
    for weight in (0.0, -1.0, float("inf"), float("nan")):
        cases.append(([pair | {"weight": weight}], good, f"'pair-004' has the weight {weight}"))
    blank = {**pair["rejected"], "weights": [0.0] * 7}
    cases.append(([pair | {"rejected": blank}], good, "every weight of rejected is zero"))
    for rows, references, message in cases:
        with pytest.raises(UserError, match=message):
            training_pairs(rows, references, "sentence")


def test_weights_of_pairs_are_in_the_order_of_the_pairs(make_pair):
    pairs = [make_pair(number) | {"weight": 0.5 + number} for number in (2, 1)]
    rows = training_pairs(pairs, references_of(pairs), "none")
    assert collate(rows).pair_weights.tolist() == [1.5, 2.5]


def test_arrays_do_as_well_as_lists(make_pair):
    pair = make_pair(5)
    pair["chosen"]["token_ids"] = np.array(pair["chosen"]["token_ids"], dtype=np.int32)
    (row,) = training_pairs([pair], references_of([pair]), "sentence")
    assert row.chosen.token_ids.dtype == np.int64


def test_what_comes_after_the_last_weight_is_not_read(make_pair):
    pair = make_pair(6, prompt=4, chosen=6, rejected=3)
    pair["chosen"]["weights"] = [1.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    pair["rejected"]["weights"] = [0.0, 0.0, 1.0]
    (row,) = training_pairs([pair], references_of([pair]), "sentence")
    batch = collate([row])
    assert batch.sizes == (4 + 2, 4 + 2) and row.tokens(packed=True) == 12
    assert batch.input_ids[0].tolist() == pair["prompt_ids"] + pair["chosen"]["token_ids"][:2]


def test_a_packed_row_holds_the_same_sequences(make_pair):
    pairs = [make_pair(number, *sizes) for number, sizes in ((7, (4, 6, 3)), (8, (2, 5, 9)))]
    rows = training_pairs(pairs, references_of(pairs), "sentence")
    padded, packed = collate(rows), collate(rows, packed=True)
    assert packed.sizes == padded.sizes and packed.attention_mask is None
    assert packed.input_ids.shape == (1, sum(row.tokens(packed=True) for row in rows))
    starts = np.cumsum(packed.sizes) - packed.sizes
    for number, (start, size) in enumerate(zip(starts, packed.sizes, strict=True)):
        part = slice(start, start + size)
        assert packed.input_ids[0, part].tolist() == padded.input_ids[number, :size].tolist()
        assert packed.position_ids[0, part].tolist() == list(range(size))
    # Every target is predicted from the same place of the same sequence.
    width = padded.input_ids.shape[1]
    assert (packed.positions.numpy() - starts[packed.owner]).tolist() == (
        padded.positions - padded.owner * width
    ).tolist()
    for name in ("targets", "weights", "owner"):
        assert getattr(packed, name).tolist() == getattr(padded, name).tolist()
