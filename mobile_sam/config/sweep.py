"""Variants of a run: every combination of the values in `sweep`, with several seeds and folds."""

import itertools
import json
import math
import random
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, JsonValue, model_validator

from mobile_sam.config.keys import Strict
from mobile_sam.config.sections import SafeName, clean_name

Values = Annotated[list[JsonValue], Field(min_length=1)]
Combination = dict[str, Any]  # value of each key
FOLD = "fold"  # among the values of a variant, number of its fold
REPLICATES = ("seed", FOLD)  # keys that repeat a combination
RECIPE = "recipe"  # among the values of a combination, the name of its recipe
_LONGEST = 24  # characters of an object in a name
_ATTEMPTS = 100  # to draw a combination that differs from those before


class Range(Strict):
    """Interval from which `random` draws a number, rounded to 4 significant digits."""

    min: float = Field(description="smallest value")
    max: float = Field(description="largest value")
    log: bool = Field(False, description="whether the logarithm is uniform, not the value")

    @model_validator(mode="after")
    def _check(self) -> "Range":
        if not self.min < self.max:
            raise ValueError("min must be less than max")
        if self.log and self.min <= 0:
            raise ValueError("log needs a min above 0")
        return self

    def draw(self, rng: random.Random) -> float:
        """Return a number of the interval."""
        if self.log:
            value = math.exp(rng.uniform(math.log(self.min), math.log(self.max)))
        else:
            value = rng.uniform(self.min, self.max)
        return float(f"{value:.4g}")


class RandomSample(Strict):
    """Combinations that are drawn at random."""

    samples: int = Field(ge=1, description="number of combinations")
    seed: int = Field(0, ge=0, description="random seed of the combinations")
    keys: dict[str, Range | Values] = Field(
        min_length=1, description="range or list of values of each key"
    )


class Sweep(Strict):
    """Values of keys to combine; an object of keys and lists alone is a `grid`.

    A key is one of a run, `learning_rate` or `augment.flip`, or one of a stage, with the name of
    the stage first: `finetune.learning_rate`.
    """

    grid: dict[str, Values] = Field(
        default_factory=dict, description="values of each key; all combinations are variants"
    )
    zip: dict[str, Values] = Field(
        default_factory=dict, description="lists of equal length, combined value by value"
    )
    random: RandomSample | None = Field(None, description="a random sample of combinations")
    recipes: dict[SafeName, dict[str, JsonValue]] = Field(
        default_factory=dict,
        description="values of keys by the name of the recipe; each recipe is a variant",
    )

    @model_validator(mode="before")
    @classmethod
    def _grid_alone(cls, value: Any) -> Any:
        is_grid = isinstance(value, Mapping) and not cls.model_fields.keys() & value.keys()
        return {"grid": value} if is_grid else value

    @model_validator(mode="after")
    def _check(self) -> "Sweep":
        if not (self.grid or self.zip or self.random or self.recipes):
            raise ValueError("it is empty; give keys with lists of values, or leave it out")
        lengths = {key: len(values) for key, values in self.zip.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"zip: the lists must have equal lengths, not {lengths}")
        keys = [*self.grid, *self.zip, *(self.random.keys if self.random else ())]
        keys += {key for recipe in self.recipes.values() for key in recipe}
        repeated = {key for key in keys if keys.count(key) > 1}
        if repeated:
            raise ValueError(f"{min(repeated)!r} occurs twice")
        self._samples()  # raises ValueError for too few
        return self

    def combinations(self) -> list[Combination]:
        """Return all variants: each of `grid` with each of `zip`, `random` and `recipes`."""
        grid = [
            dict(zip(self.grid, row, strict=True)) for row in itertools.product(*self.grid.values())
        ]
        zipped = [
            dict(zip(self.zip, row, strict=True)) for row in zip(*self.zip.values(), strict=True)
        ]
        recipes: list[Combination] = [{RECIPE: name} for name in self.recipes]
        parts = [recipes or [{}], grid, zipped or [{}], self._samples()]
        return [a | b | c | d for a, b, c, d in itertools.product(*parts)]

    def _samples(self) -> list[Combination]:
        if self.random is None:
            return [{}]
        rng = random.Random(self.random.seed)
        drawn: dict[str, Combination] = {}
        for _ in range(_ATTEMPTS * self.random.samples):
            combination = {
                key: values.draw(rng) if isinstance(values, Range) else rng.choice(values)
                for key, values in self.random.keys.items()
            }
            drawn.setdefault(json.dumps(combination, sort_keys=True), combination)
            if len(drawn) == self.random.samples:
                return list(drawn.values())
        raise ValueError(
            f"random: samples: {self.random.samples} is more than the {len(drawn)} combinations "
            "that were found"
        )


class SweepStop(Strict):
    """Successive halving: after some epochs, only the best combinations of a sweep continue.

    Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter
    Optimization", 2016.
    """

    epochs: list[Annotated[int, Field(ge=1)]] = Field(
        min_length=1,
        description="numbers of epochs after which combinations are compared, by the mean IoU over "
        "`val_images` images by which `selection_metric` selects epochs, averaged over seeds and "
        "folds",
    )
    reduction_factor: float = Field(
        2.0, gt=1, description="of n combinations, n / `reduction_factor` continue, rounded up"
    )

    @model_validator(mode="after")
    def _check(self) -> "SweepStop":
        if self.epochs != sorted(set(self.epochs)):
            raise ValueError("epochs must increase")
        return self


def combination_members(run_name: str, values: Mapping[str, Combination]) -> dict[str, list[str]]:
    """Return the variants of each combination of a run, by the combination's name.

    values: values of each variant, by its name. A combination has the name of its variants without
    that of the run, seed and fold; or "the run" if only those vary.
    """
    members: dict[str, list[str]] = {}
    for name, of_variant in values.items():
        parts = name.removeprefix(f"{run_name}-").split("-")[::-1]
        for key in REPLICATES:
            part = f"{key}{of_variant.get(key)}"
            if part in parts:
                parts.remove(part)  # the last one; a recipe before it may have the same name
        members.setdefault("-".join(parts[::-1]) or "the run", []).append(name)
    return members


def variant_names(combinations: Sequence[Combination]) -> list[str]:
    """Return a short name of each combination, such as `lr0.001-dice2`, for paths and figures.

    A key is shortened to its last part, or to the initials of its words, unless two keys would have
    the same name. Lists, long objects and null have their number among the values of the key.
    """
    keys = list(combinations[0])
    short = {key: _initials(key.split(".")[-1]) for key in keys}
    if len(set(short.values())) < len(keys):
        short = {key: key for key in keys}
    seen: dict[str, list[str]] = {key: [] for key in keys}
    names = []
    for combination in combinations:
        parts = []
        for key, value in combination.items():
            text = json.dumps(value, sort_keys=True)
            if text not in seen[key]:
                seen[key].append(text)
            name = _readable(value, seen[key].index(text))
            parts.append(str(value) if key == RECIPE else short[key] + name)
        names.append("-".join(parts) or "all")
    return names


def _initials(key: str) -> str:
    return "".join(word[0] for word in key.split("_")) if "_" in key else key


def _readable(value: Any, number: int) -> str:
    if isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int | float):
        return f"{value:g}".replace("+", "")
    if isinstance(value, str):
        return f"_{clean_name(value)}"
    if isinstance(value, dict):
        text = clean_name("_".join(f"{key}{part}" for key, part in value.items()))
        return f"_{text}" if len(text) <= _LONGEST else f"_{number}"
    return f"_{number}"
