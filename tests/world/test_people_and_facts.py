from collections import Counter
from itertools import islice
from random import Random

import pytest
from nltk.tokenize.punkt import PunktSentenceTokenizer

from maskdpo_ray.world.annotator import closed_world_verdict
from maskdpo_ray.world.facts import (
    HEARSAY_EXCESS,
    KINDS,
    QUESTION_KINDS,
    another_value,
    document,
    make_people,
    questions,
    surname,
    write_answer,
)

PEOPLE = make_people(60, seed=3)
FACTS = {person.name: person.facts for person in PEOPLE}


def answers(count: int, seed: int = 0):
    """(person, question, answer) at random."""
    random = Random(seed)
    for _ in range(count):
        person, question = random.choice(PEOPLE), random.choice(QUESTION_KINDS)
        yield person, question, write_answer(person, PEOPLE, question, random)


def sentences(answer: str) -> list[str]:
    return [answer[a:b] for a, b in PunktSentenceTokenizer().span_tokenize(answer)]


def test_a_seed_is_a_world():
    assert make_people(60, seed=3) == PEOPLE
    assert make_people(60, seed=4) != PEOPLE


def test_surnames_belong_to_one_person():
    people = make_people(400, seed=0)
    assert len({surname(person.name) for person in people}) == 400


def test_fame_spreads_over_its_range():
    fame = [person.fame for person in make_people(400, seed=0, fame_range=8.0)]
    assert min(fame) >= 1 and max(fame) <= 8
    assert max(fame) / min(fame) > 6


@pytest.mark.parametrize("count", [0, 11, 100_000])
def test_a_world_has_bounds(count):
    with pytest.raises(ValueError, match=f"got {count}"):
        make_people(count, seed=0)


def test_no_value_reads_as_two_sentences_or_two_words():
    values = [value for kind in KINDS.values() for value in kind.values]
    assert all(value.isalnum() for value in values)
    assert all(len(set(kind.values)) == len(kind.values) for kind in KINDS.values())


def test_a_splitter_finds_every_sentence_end():
    for _, _, answer in answers(1_000):
        assert [s.strip() for s in sentences(answer)] == [
            s.strip() + "." for s in answer.split(".") if s
        ]


def test_an_answer_names_at_least_two_thirds_of_the_facts_asked_for():
    lengths = Counter()
    for _, question, answer in answers(1_000):
        lengths[question.name, len(sentences(answer))] += 1
    assert set(lengths) == {
        *(("biography", n) for n in (4, 5, 6)),
        ("life", 2),
        *(("career", n) for n in (3, 4)),
    }


def test_the_first_sentence_names_the_person_in_full():
    for person, _, answer in answers(200):
        first, *others = sentences(answer)
        assert person.name in first
        assert all(person.name not in s and surname(person.name) in s for s in others)


@pytest.mark.parametrize("source", ["record", "hearsay"])
def test_each_kind_is_corrupted_at_its_rate_and_hearsay_more(source):
    told, wrong = Counter(), Counter()
    for person, _, answer in answers(3_000):
        for sentence in answer.removesuffix(".").split(". "):
            text = sentence.replace(person.name, "@").replace(surname(person.name), "@")
            for kind in KINDS.values():
                before, after = getattr(kind, source)[:-1].format(who="@", value="|").split("|")
                if text.startswith(before) and text.endswith(after):
                    told[kind.name] += 1
                    wrong[kind.name] += before + person.facts[kind.name] + after != text
    excess = HEARSAY_EXCESS if source == "hearsay" else -HEARSAY_EXCESS
    for kind in KINDS.values():
        share = wrong[kind.name] / told[kind.name]
        assert share == pytest.approx(kind.corruption * (1 + excess), abs=0.06)


def test_a_wrong_value_is_true_of_somebody_else():
    random = Random(0)
    person = PEOPLE[0]
    for kind in KINDS.values():
        for _ in range(50):
            value = another_value(person, PEOPLE, kind, random)
            assert value != person.facts[kind.name]
            assert any(other.facts[kind.name] == value for other in PEOPLE)


def test_a_document_states_every_fact_truly():
    for person in PEOPLE:
        verdicts = [
            closed_world_verdict(FACTS, person.name, s) for s in sentences(document(person))
        ]
        assert [verdict for verdict, _ in verdicts] == ["ok"] * len(KINDS)


def test_questions_are_input_rows():
    rows = [row for person in PEOPLE for row in questions(person)]
    assert len({row["id"] for row in rows}) == len(rows) == 3 * len(PEOPLE)
    for row in islice(rows, 30):
        assert set(row) == {"id", "topic", "question", "document", "language"}
        assert row["topic"] in row["question"] and row["language"] == "en"
