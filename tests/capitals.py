"""A rule that knows a few capitals, as an annotator of one function (``capitals:verdict``)."""

CAPITALS = {
    "France": "Paris",
    "Germany": "Berlin",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Japan": "Tokyo",
    "Egypt": "Cairo",
    "Kenya": "Nairobi",
    "Peru": "Lima",
    "Canada": "Ottawa",
    "Turkey": "Ankara",
    "Norway": "Oslo",
    "Portugal": "Lisbon",
}


def question(country: str) -> dict[str, str]:
    asked = f"What is the capital of {country}, and where in the country does it lie?"
    return {"id": country.lower(), "topic": country, "question": asked, "language": "en"}


def verdict(question: dict, sentence: str) -> str:
    """``ok`` where a sentence names the capital, ``contradictory`` where it names another one."""
    named = {city for city in CAPITALS.values() if city in sentence}
    if CAPITALS[question["topic"]] in named:
        return "ok"
    return "contradictory" if named else "unverifiable"
