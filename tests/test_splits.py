from hypothesis import given
from hypothesis import strategies as st

from maskdpo_ray.config import SplitConfig
from maskdpo_ray.splits import comparable, part_of

SHARES = st.floats(min_value=0.001, max_value=0.999)
TOPICS = [f"Person {n}" for n in range(2000)]


def held_out(share: float, seed: int = 0, topics=TOPICS) -> set[str]:
    split = SplitConfig(test=share, seed=seed)
    return {topic for topic in topics if part_of(topic, split) == "test"}


@given(st.text(), SHARES, SHARES, st.integers())
def test_a_larger_share_keeps_the_topics_of_a_smaller_one(topic, one, other, seed):
    small, large = (SplitConfig(test=share, seed=seed) for share in sorted((one, other)))
    if part_of(topic, small) == "test":
        assert part_of(topic, large) == "test"


def test_the_share_is_that_of_the_topics_and_the_seed_chooses_them():
    for share in (0.05, 0.1, 0.5, 0.9):
        assert abs(len(held_out(share)) / len(TOPICS) - share) < 0.03
    first, second = held_out(0.5), held_out(0.5, seed=1)
    assert 0.4 < len(first & second) / len(first) < 0.6


def test_the_split_is_the_same_everywhere_and_for_ever():
    """Figures of this version: a change would move topics of people's runs."""
    assert sorted(held_out(0.1, topics=TOPICS[:40])) == [
        "Person 13",
        "Person 15",
        "Person 23",
        "Person 6",
    ]


def test_ways_of_writing_a_topic_do_not_divide_it():
    for other in (" ada  LOVELACE\n", "Ada\u00a0Lovelace", "Ａda Lovelace"):
        assert comparable(other) == comparable("Ada Lovelace")
    assert comparable("Zoe\u0308") == comparable("Zo\u00eb")
    for unseen in ("\u200b", "\u00ad", "\ufeff", "\u2060"):
        assert comparable(f"Ada{unseen} Love{unseen}lace{unseen}") == comparable("Ada Lovelace")
    assert comparable("Ada L.") != comparable("Ada")
