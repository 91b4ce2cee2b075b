"""Declaration of a key: its default, its description, and the jobs that a change runs again."""

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
    "variants",
]
# Jobs that Snakemake runs again after a change of such a key.
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
    "variants": "new variants, and the comparison",
}


class Strict(BaseModel):
    """Immutable group of settings that refuses unknown keys, NaN and infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def run_key(default: Any, affects: Affects, description: str, **limits: Any) -> Any:
    """Declare a key that a run sets once, for all of its stages.

    default: a value, or the class of a group of settings, which then has its own defaults.
    limits: arguments of `pydantic.Field`, such as `ge=0`.
    """
    return _field(default, description, {"affects": affects}, limits)


def stage_key(default: Any, description: str, used_if: str = "", **limits: Any) -> Any:
    """Declare a key that each stage can override.

    used_if: property of `Stage` that is true if the training of the stage depends on the key. A
        change of the key trains no other stage again. Empty: all stages depend on the key.
    The other arguments are those of `run_key`.
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


def key_metadata(model: type[BaseModel], name: str, item: str) -> Any:
    """Return an item of the declaration of a key: `affects`, `used_if`, or the `kind` of a loss."""
    extra = model.model_fields[name].json_schema_extra
    if not isinstance(extra, dict) or item not in extra:
        raise KeyError(f"{name} is declared without {item}")
    return extra[item]
