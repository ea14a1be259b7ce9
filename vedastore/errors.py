"""Every failure that vedastore reports, in one tree.

::

    VedastoreError                 exit 5   anything below; never raised itself
    ├── UsageError                 exit 2   an argument that makes no sense (also a ValueError)
    │   ├── SampleNotFoundError    exit 2   no such sample in this version (also a KeyError)
    │   └── MissingExtraError      exit 2   a library that vedastore does not ask for (also an ImportError)
    ├── ReleaseError               exit 3   the release was refused
    │   ├── ArchiveError           exit 3   the container: gzip, tar, directory
    │   ├── ImageError             exit 3   an image that cannot be read or given back exactly
    │   ├── LabelError             exit 3   a label file that is not one GeoJSON Feature with a label
    │   └── PairError              exit 3   an image without label, a label without image, an id twice
    ├── ConflictError              exit 4   the target or a name exists, or another writer was first
    ├── StoreError                 exit 5   the store is damaged or could not be read or written
    │   └── ClusterError           exit 5   a Dask cluster was lost, or gave up
    └── UnknownOutcomeError        exit 6   a commit that may or may not have landed

A message says what and why; ``where`` names the place (archive and member, or store and key); ``hint`` says what to do.
"""

from __future__ import annotations

from typing import ClassVar, Final, Self

GONE_HINT: Final = "open the store again: another version may have taken its place; vedastore verify tells if not"
_MESSAGE_CHARS = 600  # messages quote their input, and inputs can be long


class VedastoreError(Exception):
    """Root of the tree.

    Parameters
    ----------
    message : str
        What went wrong, and why.
    where : str, optional
        The place: archive and member, or store and key. Control characters are escaped here, once.
    hint : str, optional
        What the user can do about it.
    rule : str, optional
        Id of the rule that was broken, one of ``spec.rules``; only what refuses releases has rules.
    """

    kind: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 5
    advice: ClassVar[str | None] = None
    """What to do where no hint says more."""
    broken_rule: ClassVar[str | None] = None
    """The rule that was broken where no ``rule`` says it more exactly."""

    def __init__(
        self, message: str, *, where: str | None = None, hint: str | None = None, rule: str | None = None
    ) -> None:
        super().__init__(message, where, hint, rule)
        self.rule = rule or self.broken_rule
        self.message = escape(message if len(message) <= _MESSAGE_CHARS else f"{message[:_MESSAGE_CHARS]} ...")
        self.where = None if where is None else escape(where)
        self.hint = escape(hint) if hint is not None else self.advice

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), *self.args)

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        advice = f" ({self.hint})" if self.hint else ""
        return f"{place}{self.message}{advice}"

    def alone(self) -> Self:
        """Give the same error without its traceback and its causes: they hold on to what it is about."""
        # Not copy(): some libraries have it take the traceback along.
        return type(self)(self.message, where=self.where, hint=self.hint, rule=self.rule)

    def at(self, where: str) -> VedastoreError:
        """Give the same error a place, in front of the place that it names already."""
        full = where if self.where is None else f"{where}: {self.where}"
        return type(self)(self.message, where=full, hint=self.hint, rule=self.rule)


class UsageError(VedastoreError, ValueError):
    """An argument, option or combination of options that makes no sense."""

    kind = "usage"
    exit_code = 2


class SampleNotFoundError(UsageError, KeyError):
    """The version has no sample of that id."""

    kind = "sample_not_found"


class MissingExtraError(UsageError, ImportError):
    """What was asked for needs a library that is not installed with vedastore, and is not there."""

    kind = "missing_extra"


class ReleaseError(VedastoreError):
    """The release was refused."""

    kind = "release"
    broken_rule = "release-refused"
    exit_code = 3


class ArchiveError(ReleaseError):
    """The container is damaged, cut short, or holds what a release must not hold."""

    kind = "archive"
    broken_rule = "archive-damaged"
    advice = "get it again, or make it anew from its files"


class ImageError(ReleaseError):
    """An image that cannot be read, or could not be given back as promised."""

    kind = "image"
    broken_rule = "image-damaged"
    advice = "mend the file, or leave its sample out with --on-error=skip"


class LabelError(ReleaseError):
    """A label file that is not one GeoJSON Feature with a label of a known form."""

    kind = "label"
    broken_rule = "label-form"
    advice = "mend the file, or leave its sample out with --on-error=skip"


class PairError(ReleaseError):
    """Images and labels that do not pair."""

    kind = "pair"
    broken_rule = "pair-incomplete"
    advice = "vedastore validate lists all such samples; --on-error=skip leaves them out"


class ConflictError(VedastoreError):
    """The target exists already, the name of a version is taken, or another writer was first."""

    kind = "conflict"
    exit_code = 4


class StoreError(VedastoreError):
    """The store is damaged, or could not be read or written."""

    kind = "store"
    advice = "vedastore verify tells what is damaged"
    exit_code = 5


class ClusterError(StoreError):
    """A Dask cluster was lost, or gave up a task whose workers died."""

    kind = "cluster"
    advice = "look at the workers' logs and memory, and run it again"


class UnknownOutcomeError(VedastoreError):
    """A commit that may or may not have landed; nothing was deleted."""

    kind = "unknown_outcome"
    exit_code = 6


def escape(text: str) -> str:
    r"""Make any text safe for one line of a terminal.

    >>> escape("a\nb\x1b[31m")
    'a\\nb\\x1b[31m'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in text)


def _rebuild(
    kind: type[VedastoreError], message: str, where: str | None, hint: str | None, rule: str | None
) -> VedastoreError:
    return kind(message, where=where, hint=hint, rule=rule)
