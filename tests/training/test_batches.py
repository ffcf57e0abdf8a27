import numpy as np
import pytest

from maskdpo_ray.config import TrainingConfig
from maskdpo_ray.errors import UserError
from maskdpo_ray.training.batches import collate, training_pairs

MASKED = TrainingConfig()


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
    (row,) = training_pairs([pair], references_of([pair]), MASKED)
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
    (row,) = training_pairs([pair], references_of([pair]), MASKED)
    batch = collate([row])
    assert batch.targets[batch.owner == 0].tolist() == [0, 5, 0]


def test_no_mask_gives_every_token_weight_one(make_pair):
    pair = make_pair(3)
    pair["chosen"]["weights"] = [0.0] * 8 + [0.5]
    (row,) = training_pairs([pair], references_of([pair]), TrainingConfig(mask="none"))
    assert row.chosen.weights.tolist() == [1.0] * 9


def test_the_order_is_that_of_the_ids(make_pair):
    pairs = [make_pair(number) for number in (3, 1, 2)]
    rows = training_pairs(pairs, references_of(pairs), MASKED)
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
            training_pairs(rows, references, MASKED)


def test_weights_of_pairs_are_in_the_order_of_the_pairs(make_pair):
    pairs = [make_pair(number) | {"weight": 0.5 + number} for number in (2, 1)]
    rows = training_pairs(pairs, references_of(pairs), TrainingConfig(mask="none"))
    assert collate(rows).pair_weights.tolist() == [1.5, 2.5]


def test_arrays_do_as_well_as_lists(make_pair):
    pair = make_pair(5)
    pair["chosen"]["token_ids"] = np.array(pair["chosen"]["token_ids"], dtype=np.int32)
    (row,) = training_pairs([pair], references_of([pair]), MASKED)
    assert row.chosen.token_ids.dtype == np.int64


def test_what_comes_after_the_last_weight_is_not_read(make_pair):
    pair = make_pair(6, prompt=4, chosen=6, rejected=3)
    pair["chosen"]["weights"] = [1.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    pair["rejected"]["weights"] = [0.0, 0.0, 1.0]
    (row,) = training_pairs([pair], references_of([pair]), MASKED)
    batch = collate([row])
    assert batch.sizes == (4 + 2, 4 + 2) and row.tokens(packed=True) == 12
    assert batch.input_ids[0].tolist() == pair["prompt_ids"] + pair["chosen"]["token_ids"][:2]


def test_a_packed_row_holds_the_same_sequences(make_pair):
    pairs = [make_pair(number, *sizes) for number, sizes in ((7, (4, 6, 3)), (8, (2, 5, 9)))]
    rows = training_pairs(pairs, references_of(pairs), MASKED)
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


def annotated(pair):
    """Sentences of two tokens each; the last token stands in none."""
    for side in ("chosen", "rejected"):
        size = len(pair[side]["token_ids"])
        pair[side]["owners"] = [n // 2 for n in range(size - 1)] + [-1]
    pair["chosen"] |= {"weights": [1, 1, 0, 0, 1.0, 1], "correct": [1, 1, 0, 0, 1.0, 0]}
    pair["rejected"] |= {"weights": [0, 0, 1, 1, 0.0], "correct": [1, 1, 0, 0, 0.0]}
    return pair


@pytest.mark.parametrize("packed", [False, True])
def test_an_anchor_reads_correct_sentences_of_the_rejected_answer_too(make_pair, packed):
    pair = annotated(make_pair(9, prompt=3, chosen=6, rejected=5))
    plain, anchored = (
        collate(training_pairs([pair], references_of([pair]), settings), packed)
        for settings in (MASKED, TrainingConfig(anchor_weight=1.0))
    )
    assert plain.weights.tolist() == [1.0] * 6 and not plain.correct.any()
    assert anchored.weights.tolist() == [1.0] * 4 + [0, 0, 1, 1]
    assert anchored.correct.tolist() == [1, 1, 1, 0, 1, 1, 0, 0]
    assert anchored.targets[4:].tolist() == pair["rejected"]["token_ids"][:4]
    assert anchored.sizes == plain.sizes


def test_fkto_reads_all_sentences_of_both_answers_and_nothing_else(make_pair):
    """Not the end of turn; one of the answers may be missing."""
    pair = annotated(make_pair(9, prompt=3, chosen=6, rejected=5))
    (row,) = training_pairs([pair], references_of([pair]), TrainingConfig(loss="fkto"))
    batch = collate([row])
    assert batch.weights.tolist() == [1.0] * 7
    assert batch.correct.tolist() == [1, 1, 1, 1, 1, 0, 0]
    assert batch.sentence.tolist() == [0, 0, 1, 2, 2, 3, 3]
    pair["rejected"] = dict.fromkeys(("token_ids", "weights", "owners", "correct"), [])
    (row,) = training_pairs([pair], references_of([pair]), TrainingConfig(loss="fkto"))
    for packed in (False, True):
        batch = collate([row], packed)
        assert batch.sizes == (7, 3) and batch.owner.tolist() == [0, 0, 0]
    assert row.tokens(packed=True) == 10


def test_an_anchor_alone_decides_how_far_an_answer_is_read(make_pair):
    pair = annotated(make_pair(9, prompt=3, chosen=6, rejected=5))
    pair["rejected"]["correct"] = [0, 0, 0, 0, 0.5]
    plain, anchored = (
        training_pairs([pair], references_of([pair]), settings)[0]
        for settings in (MASKED, TrainingConfig(anchor_weight=1.0))
    )
    assert anchored.tokens(packed=True) == plain.tokens(packed=True) + 1


def test_sentences_are_counted_over_the_batch(make_pair):
    pairs = [annotated(make_pair(n, prompt=2, chosen=6, rejected=5)) for n in (10, 11)]
    batch = collate(training_pairs(pairs, references_of(pairs), TrainingConfig(mask="none")), True)
    chosen, rejected = [0, 0, 1, 1, 2], [0, 0, 1, 1]
    # Sorted, so that what stands in no sentence, -1, is the first of its response.
    expected = [n + 1 for n in chosen] + [0] + [n + 5 for n in chosen] + [4]
    expected += [n + 9 for n in rejected] + [8] + [n + 12 for n in rejected] + [11]
    assert batch.sentence.tolist() == expected
    assert batch.sentence_owner.tolist() == [0] * 4 + [1] * 4 + [2] * 3 + [3] * 3


@pytest.mark.parametrize(("alpha", "weight"), [(1.0, 1.0), (0.25, 0.25), (0.0, 0.0)])
def test_kept_tokens_without_a_counterpart_weigh_less(make_pair, alpha, weight):
    """Liu et al. 2024, of the tokens that count: three of the chosen answer, five of the other."""
    pair = make_pair(13, chosen=6, rejected=6)
    pair["chosen"]["weights"] = [0, 1, 0, 0.5, 1, 0]
    pair["rejected"]["weights"] = [1, 0, 1, 1, 1, 0.5]
    (row,) = training_pairs([pair], references_of([pair]), TrainingConfig(ld_alpha=alpha))
    assert row.chosen.weights.tolist() == pair["chosen"]["weights"]
    assert row.rejected.weights.tolist() == [1, 0, 1, 1, weight, 0.5 * weight]


def test_a_gap_is_of_the_scores_and_never_below_nothing(make_pair):
    scores = [(1.0, 0.25), (0.5, 0.5), (0.25, 0.75)]
    pairs = []
    for number, (chosen, rejected) in enumerate(scores):
        pair = make_pair(number)
        pair["chosen"]["score"], pair["rejected"]["score"] = chosen, rejected
        pairs.append(pair)
    gaps = [
        collate(training_pairs(pairs, references_of(pairs), settings)).gaps.tolist()
        for settings in (TrainingConfig(gap_margin=1.0), MASKED)
    ]
    assert gaps == [[0.75, 0.0, 0.0], [0.0, 0.0, 0.0]]


def test_what_a_pair_does_not_tell_is_asked_for_by_name(make_pair):
    anchored, bounded = TrainingConfig(anchor_weight=1.0), TrainingConfig(rejected_floor=5.0)
    pair = make_pair(12)
    known = annotated(make_pair(12, chosen=6, rejected=5))
    fkto = TrainingConfig(loss="fkto")
    nothing = {"chosen": known["chosen"] | {"correct": [0.0] * 6, "weights": [0.0] * 5 + [1.0]}}
    blank = {"rejected": dict.fromkeys(("token_ids", "weights", "owners", "correct"), [])}
    short = {"chosen": known["chosen"] | {"correct": [1.0] * 5}}
    scoreless = {"rejected": known["rejected"] | {"score": float("nan")}}
    odd = {"chosen": known["chosen"] | {"correct": [2.0] * 6}}
    for given, settings, words in (
        (pair, anchored, "does not tell the correct sentences of its chosen answer: set training"),
        (pair, bounded, "the sentences of its rejected answer: set training.rejected_floor_per"),
        (known | nothing | blank, fkto, "no token of a correct or incorrect sentence"),
        (pair, fkto, "does not tell the correct sentences of its chosen answer"),
        (known | short, anchored, "6 tokens and 5 weights of correct sentences"),
        (known | scoreless, TrainingConfig(gap_margin=1.0), "the scores of its answers: set"),
        (known | odd, anchored, "weights of chosen must lie between 0 and 1"),
    ):
        with pytest.raises(UserError, match=f"pair 'pair-012'.*{words}"):
            training_pairs([given], references_of([given]), settings)
    per_token = TrainingConfig(rejected_floor=5.0, rejected_floor_per="token")
    training_pairs([pair], references_of([pair]), per_token)
