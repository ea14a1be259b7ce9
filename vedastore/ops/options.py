"""How to convert: the options of the verb, checked once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from vedastore.errors import UsageError
from vedastore.model import DEFAULT_LIMITS, TASKS, LabelOptions, Limits, Task


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """How to convert; the defaults are those of the release format."""

    mode: Literal["create", "overwrite"] = "create"
    label_coords: Literal["auto", "pixel", "geographic"] = "auto"
    on_error: Literal["raise", "skip"] = "raise"
    labels: LabelOptions = field(default_factory=LabelOptions)
    task: Task | None = None
    classes: tuple[str, ...] | None = None
    name: str | None = None
    version: str | None = None
    limits: Limits = DEFAULT_LIMITS

    def __post_init__(self) -> None:
        choices: dict[str, tuple[object, tuple[object, ...]]] = {
            "mode": (self.mode, ("create", "overwrite")),
            "label_coords": (self.label_coords, ("auto", "pixel", "geographic")),
            "on_error": (self.on_error, ("raise", "skip")),
            "task": (self.task, (None, *TASKS)),
        }
        for option, (value, allowed) in choices.items():
            if value not in allowed:
                told = ", ".join(repr(a) for a in allowed if a is not None)
                raise UsageError(f"{option} is {value!r}", hint=f"it can be {told}")
