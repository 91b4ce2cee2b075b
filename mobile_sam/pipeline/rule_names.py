"""Unique names of rules."""

import hashlib
import json
import re


class RuleNames:
    """Generator of unique names of rules.

    Characters that a name cannot contain become `_`. If two names are equal then, the second gets
    a digest at its end, so that a prefix in a profile applies to both.
    """

    def __init__(self) -> None:
        self._taken: dict[str, tuple[str, ...]] = {}

    def __call__(self, *parts: object, of: object = "") -> str:
        """Return the name of a rule, made of `parts` in this order.

        of: what the rule is about, if several things can have equal parts.
        """
        key = (*map(str, parts), str(of))
        name = re.sub(r"\W", "_", "_".join(key[:-1]))
        if self._taken.setdefault(name, key) != key:
            name = f"{name}_{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:8]}"
            self._taken[name] = key
        return name
