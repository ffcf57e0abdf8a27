"""Write the world of countries into a folder, once.

facts.json         what is known (``facts.py``); the annotator reads it
train.jsonl        questions about the countries that alignment learns from
validation.jsonl   questions about countries to choose settings on
test.jsonl         questions about countries to report on
regions/           the same for each continent: africa-train.jsonl, ...; near and far topics
knowledge.db       a page for each country, for FActScore and judges that read
world.json         what it was written from; written last, so it marks a finished world
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from maskdpo_ray.knowledge.database import write_pages
from maskdpo_ray.world.build import write_text
from maskdpo_ray.world.countries.facts import World, world
from maskdpo_ray.world.countries.pages import page
from maskdpo_ray.world.countries.questions import parts, questions

PACKAGES = ("countryinfo", "pycountry")


def build_countries(folder: str | Path, progress: Callable[[str], None] = print) -> None:
    """Write the world; return at once when this very one stands there already.

    Raises:
        UserError: a package with the facts is not installed.
    """
    folder = Path(folder)
    marker, recipe = folder / "world.json", _recipe()
    if marker.exists() and json.loads(marker.read_text(encoding="utf-8")) == recipe:
        return
    found = world()
    (folder / "regions").mkdir(parents=True, exist_ok=True)
    marker.unlink(missing_ok=True)
    write_text(folder / "facts.json", json.dumps(found, indent=1, ensure_ascii=False))
    for part, names in parts(found).items():
        _write_questions(folder / f"{part}.jsonl", found, names)
        for continent, inside in _by_continent(found, names).items():
            file = folder / "regions" / f"{continent.lower()}-{part}.jsonl"
            _write_questions(file, found, inside)
    knowledge = folder / "knowledge.db"
    knowledge.unlink(missing_ok=True)
    write_pages(knowledge, [(name, page(found, name)) for name in found["topics"]], Counter())
    write_text(marker, json.dumps(recipe, indent=1))
    progress(f"{len(found['topics'])} countries, their questions and pages: {folder}")


def _write_questions(file: Path, found: World, names: list[str]) -> None:
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in questions(found, names)]
    write_text(file, "".join(lines))


def _by_continent(found: World, names: list[str]) -> dict[str, list[str]]:
    inside: dict[str, list[str]] = {}
    for name in names:
        inside.setdefault(found["topics"][name]["continent"], []).append(name)
    return inside


def _recipe() -> dict:
    """Everything that the files depend on, as JSON gives it back."""
    here = Path(__file__).parent
    sources = ("corrections.yaml", "facts.py", "pages.py", "questions.py", "build.py")
    code = b"".join((here / name).read_bytes() for name in sources)
    return {"packages": _versions(), "code": hashlib.sha256(code).hexdigest()}


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found
