"""A page about each country, written from its facts."""

from collections.abc import Sequence

from maskdpo_ray.world.countries.facts import Country, World

WITH_ARTICLE = (
    "Americas",
    "Arabian Peninsula",
    "Bahamas",
    "Balkans",
    "Caribbean",
    "Caucasus",
    "Central African Republic",
    "Comoros",
    "Czech Republic",
    "Democratic Republic of the Congo",
    "Dominican Republic",
    "Gambia",
    "Horn of Africa",
    "Iberian Peninsula",
    "Indian subcontinent",
    "Maldives",
    "Marshall Islands",
    "Middle East",
    "Netherlands",
    "Philippines",
    "Republic of the Congo",
    "Sahel",
    "Seychelles",
    "Solomon Islands",
    "United Arab Emirates",
    "United Kingdom",
    "United States",
)


def with_article(name: str) -> str:
    """A country or region as it stands within a sentence."""
    return f"the {name}" if name in WITH_ARTICLE else name


def page(world: World, name: str) -> str:
    """Every fact in a sentence of its own. What nobody can tell is not in it."""
    country: Country = world["topics"][name]
    who = with_article(name)
    opening = who[0].upper() + who[1:]
    lies = country["continent"]
    narrower = [with_article(region) for region in country["regions"] if region != lies]
    sentences = [f"{opening} lies in {listed([*narrower, with_article(lies)])}."]
    if len(country["names"]) > 1:
        sentences.append(f"It is also called {listed(country['names'][1:], 'or')}.")
    if country["landlocked"]:
        sentences.append("It is landlocked.")
    if country["island"]:
        sentences.append("It lies on one island or several.")
    sentences.append(f"Its capital is {listed(country['capitals'], 'or')}.")
    borders = [with_article(other) for other in country["borders"]]
    sentences.append(
        f"It has land borders with {listed(borders)}." if borders else "It has no land border."
    )
    sentences.append(_languages(country))
    money = [f"the {each['name']} ({each['code']})" for each in world["currencies"][name]]
    sentences.append(f"Its currency is {listed(money, 'or')}.")
    return " ".join(sentences)


def _languages(country: Country) -> str:
    official, spoken = country["languages"], country["languages_spoken"]
    one = "language is" if len(official) == 1 else "languages are"
    more = f"; {listed(spoken)} {'is' if len(spoken) == 1 else 'are'} spoken too" if spoken else ""
    return f"Its official {one} {listed(official)}{more}."


def listed(names: Sequence[str], word: str = "and") -> str:
    *most, last = names
    return f"{', '.join(most)} {word} {last}" if most else last
