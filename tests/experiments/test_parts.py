"""Nested parts of the training questions."""

from collections import Counter

from maskdpo_ray.experiments.parts import equally_many, some_questions, some_topics

ROWS = [
    {"id": f"{topic}-{kind}", "topic": f"person {topic}"} for topic in range(30) for kind in "abc"
]


def ids(rows) -> set[str]:
    return {row["id"] for row in rows}


def test_whole_topics_nested():
    third, two_thirds = some_topics(ROWS, 1 / 3, 0), some_topics(ROWS, 2 / 3, 0)
    assert (len(third), len(two_thirds)) == (30, 60)
    assert set(Counter(row["topic"] for row in two_thirds).values()) == {3}
    assert ids(third) < ids(two_thirds) < ids(some_topics(ROWS, 1.0, 0))


def test_questions_of_every_topic_nested():
    one, two = some_questions(ROWS, 1, 0), some_questions(ROWS, 2, 0)
    assert (len(one), len(two)) == (30, 60)
    assert ids(one) < ids(two)
    assert len({row["id"].partition("-")[2] for row in one}) == 3, "not the first ones alone"


def test_the_seed_and_the_names_alone_decide():
    assert ids(some_topics(ROWS[::-1], 1 / 3, 0)) == ids(some_topics(ROWS, 1 / 3, 0))
    assert ids(some_topics(ROWS, 1 / 3, 1)) != ids(some_topics(ROWS, 1 / 3, 0))


def test_equally_many():
    parts = equally_many([ROWS[:7], ROWS[50:]], 0)
    assert [len(part) for part in parts] == [7, 7]
    assert ids(parts[0]) == ids(ROWS[:7])
    assert ids(parts[1]) < ids(ROWS[50:])
