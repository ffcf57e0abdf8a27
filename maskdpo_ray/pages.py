"""Pages to read, from the templates of a package."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Template


def page(package: str, name: str) -> "Template":
    """A template: text of anyone's stays text in it, and a value that is missing is an error."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(package),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
