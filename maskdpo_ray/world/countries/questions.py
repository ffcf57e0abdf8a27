"""Questions about countries, and who is trained on, chosen by and tested on."""

from collections.abc import Iterable
from random import Random

from maskdpo_ray.world.countries.facts import Country, World
from maskdpo_ray.world.countries.pages import page, with_article

FORMS = {
    "profile": "Where is {name}, what is its capital, which countries does it border, which "
    "language is spoken there and what is its currency? Answer with one short sentence for each.",
    "capital": "What is the capital of {name}, and on which continent does the country lie?",
    "neighbours": "Which countries does {name} border?",
    "people": "Which language do people speak in {name}, and which currency do they pay with?",
    "introduction": "Introduce {name} to a pupil in three short sentences.",
}
SHARES = {"validation": 0.2, "test": 0.3}  # of each continent; others are trained on


def parts(world: World) -> dict[str, list[str]]:
    """Countries by part. The same share of each continent is in each, whatever the run's seed."""
    found: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for continent in continents(world):
        inside = [name for name, each in world["topics"].items() if each["continent"] == continent]
        shuffled = Random(f"countries of {continent}").sample(inside, len(inside))
        for part, share in SHARES.items():
            count = round(share * len(inside))
            found[part] += shuffled[:count]
            shuffled = shuffled[count:]
        found["train"] += shuffled
    return {part: Random(part).sample(names, len(names)) for part, names in found.items()}


def continents(world: World) -> list[str]:
    return sorted({country["continent"] for country in world["topics"].values()})


def questions(world: World, names: Iterable[str]) -> list[dict[str, str]]:
    """The input rows about these countries: id, topic, question, document, language.

    Each country is asked about once before any is asked about twice, in another form than its
    neighbour in the list: the first rows of a file are a fair sample of it.
    """
    forms = list(FORMS)
    return [
        _row(world, name, forms[(place + turn) % len(forms)])
        for turn in range(len(forms))
        for place, name in enumerate(names)
    ]


def _row(world: World, name: str, form: str) -> dict[str, str]:
    country: Country = world["topics"][name]
    return {
        "id": f"{country['code'].lower()}.{form}",
        "topic": name,
        "question": FORMS[form].format(name=with_article(name)),
        "document": page(world, name),
        "language": "en",
    }
