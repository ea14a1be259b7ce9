"""How to convert: the options of the verb, checked once."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Final, Literal

from vedastore.errors import UsageError
from vedastore.model import DEFAULT_LIMITS, TASKS, LabelOptions, Limits, Task
from vedastore.spec.arrays import CODECS

if TYPE_CHECKING:
    from collections.abc import Iterable

_UNITS: Final = {None: 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_TEXT_CHARS: Final = 4096
_LIBRARIES: Final = ("vedastore", "imagecodecs", "numcodecs", "pyarrow", "pyproj", "rasterio", "zstandard")


def parse_limits(texts: Iterable[str]) -> Limits:
    """Read limits as a user writes them; those that are not named have their defaults.

    >>> parse_limits(["image_bytes=4GiB"]).image_bytes == 4 * 2**30
    True
    """
    names = [f.name for f in fields(Limits)]
    chosen = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in names:
            raise UsageError(f"there is no limit {name!r}", hint=f"the limits are {', '.join(names)}")
        number = re.fullmatch(r"([0-9]{1,15})(KiB|MiB|GiB)?", value)
        if number is None:
            hint = "a limit is a number, with KiB, MiB or GiB behind it if you like"
            raise UsageError(f"the limit {name} is {value!r}", hint=hint)
        chosen[name] = int(number[1]) * _UNITS[number[2]]
    return Limits(**chosen)


def check_texts(**texts: str | None) -> None:
    """Refuse names and notes that are no texts, or long ones: the root document has those of all versions."""
    for name, text in texts.items():
        if text is not None and not isinstance(text, str):
            raise UsageError(f"{name} is {text!r:.80}", hint="give a text")
        if text is not None and len(text) > _TEXT_CHARS:
            raise UsageError(f"{name} has {len(text)} characters", hint=f"give at most {_TEXT_CHARS}")


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """How to convert; the defaults are those of the release format."""

    mode: Literal["create", "overwrite", "append"] = "create"
    label_coords: Literal["auto", "pixel", "geographic"] = "auto"
    on_error: Literal["raise", "skip"] = "raise"
    labels: LabelOptions = field(default_factory=LabelOptions)
    task: Task | None = None
    classes: tuple[str, ...] | None = None
    name: str | None = None
    version: str | None = None
    codec: Literal["default", "compact"] = "default"
    limits: Limits = DEFAULT_LIMITS

    def __post_init__(self) -> None:
        choices: dict[str, tuple[object, tuple[object, ...]]] = {
            "mode": (self.mode, ("create", "overwrite", "append")),
            "label_coords": (self.label_coords, ("auto", "pixel", "geographic")),
            "on_error": (self.on_error, ("raise", "skip")),
            "task": (self.task, (None, *TASKS)),
            "codec": (self.codec, CODECS),
        }
        for option, (value, allowed) in choices.items():
            if value not in allowed:
                told = ", ".join(repr(a) for a in allowed if a is not None)
                raise UsageError(f"{option} is {value!r}", hint=f"it can be {told}")
        check_texts(name=self.name, version=self.version)


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that what is stored depends on."""
    from importlib.metadata import version

    from vedastore.store.shards import zstd_module

    return {name: version(name) for name in _LIBRARIES} | {"libzstd": zstd_module().zstd_version}
