"""What every section of the settings is: strict, frozen, its docstrings its documentation."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    def changed(self, *keys: str) -> list[str]:
        """Those of ``keys`` that differ from their defaults; a saved file holds every key."""
        return [key for key in keys if getattr(self, key) != type(self).model_fields[key].default]
