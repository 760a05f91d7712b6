"""What all parts of the settings have in common."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict


class Section(BaseModel):
    """A mapping of the config file: frozen, no unknown keys, no conversions ("80" is no number, true is no 1).

    A field's docstring gives unit, default and reason; it is the description in the JSON Schema, too.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def _empty_mapping(value: Any) -> Any:
    return {} if value is None else value


def _as_tuple(value: Any) -> Any:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else value


# A key with nothing after it (all below it commented out) is an empty mapping or list.
Mappings = BeforeValidator(_empty_mapping)
Lists = BeforeValidator(_as_tuple)
Texts = Annotated[tuple[str, ...], Lists]
