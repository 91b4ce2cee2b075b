"""Declaration of a key: its default, its meaning, and the jobs that a change of it runs again."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

Weight = Annotated[float, Field(ge=0)]

Affects = Literal[
    "place",
    "data",
    "start",
    "teacher",
    "features",
    "training",
    "stage",
    "validation",
    "report",
    "execution",
]
# For each, the jobs that Snakemake runs again.
AFFECTS: dict[Affects, str] = {
    "place": "nothing: results go elsewhere",
    "data": "index, features, training",
    "start": "training, from the first stage",
    "teacher": "features and the stages that distil",
    "features": "features",
    "training": "training, from the first stage",
    "stage": "the stages whose settings change, and later ones",
    "validation": "validation and the report",
    "report": "the report",
    "execution": "nothing: speed and safety only",
}


class Strict(BaseModel):
    """Group of settings without unknown keys, NaN or later changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def key(default: Any, affects: Affects, description: str, **limits: Any) -> Any:
    """Declare a key of a run.

    default: a value, or the class of a group of settings, whose own defaults are then the default.
    limits: as of `pydantic.Field`, such as `ge=0`.
    """
    return _field(default, description, {"affects": affects}, limits)


def stage_key(default: Any, description: str, used_if: str = "", **limits: Any) -> Any:
    """Declare a key that each stage can have of its own.

    used_if: the property of `Stage` that is true for stages whose training depends on the key; a
        change of the key trains no other stage again. Without it, all stages depend on the key.
    The other arguments are those of `key`.
    """
    return _field(default, description, {"affects": "stage", "used_if": used_if}, limits)


def _field(
    default: Any, description: str, extra: dict[str, JsonValue], limits: dict[str, Any]
) -> Any:
    if isinstance(default, type) and issubclass(default, BaseModel):
        return Field(
            default_factory=default, description=description, json_schema_extra=extra, **limits
        )
    return Field(default, description=description, json_schema_extra=extra, **limits)


def declared(model: type[BaseModel], name: str, what: str) -> Any:
    """Return what the declaration of a key says: `affects`, `used_if`, or the `kind` of a loss."""
    extra = model.model_fields[name].json_schema_extra
    if not isinstance(extra, dict) or what not in extra:
        raise KeyError(f"{name} is declared without {what}")
    return extra[what]
