"""Files that appear whole or not at all: local ones, and objects of S3."""

from __future__ import annotations

import errno
import os
import tempfile
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from vedastore.errors import ConflictError, StoreError, UnknownOutcomeError
from vedastore.spec.places import local_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vedastore.spec.places import Place

_SCRATCH_HINT = "free some space, or set TMPDIR to a place that has it"
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS)
_HINT = "use overwrite=True or --overwrite to replace it"


@contextmanager
def new_file(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[IO[bytes]]:
    """Give a file to write; it stands at the path once the block has ended and all of it is durable.

    Raises
    ------
    ConflictError
        When there is a file already, and it may not be overwritten.
    StoreError
        When it cannot be written.
    UnknownOutcomeError
        When it is there, and nobody can tell whether it is durable.
    """
    target = Path(local_path(path))
    draft = target.with_name(f".{uuid.uuid4().hex}.part")
    landed = False
    try:
        if target.is_dir() or (target.exists() and not overwrite):
            raise ConflictError("there is a file or directory already", where=str(target), hint=_HINT)
        try:
            with draft.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            _publish(draft, target, overwrite=overwrite)
            landed = True
        finally:
            draft.unlink(missing_ok=True)
        _sync_directory(target.parent)
    except OSError as error:
        if landed:
            hint = "look whether it is there before trying again"
            message = f"it is written, but may not be durable: {error.strerror}"
            raise UnknownOutcomeError(message, where=str(target), hint=hint) from error
        hint = "check the path, its permissions, and the space that is left"
        raise StoreError(f"cannot be written: {error.strerror}", where=str(target), hint=hint) from error


@contextmanager
def new_target(place: Place, *, overwrite: bool = False) -> Iterator[IO[bytes]]:
    """Give what `new_file` does, on S3 too: nothing is there before the block has ended."""
    if place.bucket is None:
        with new_file(place.path, overwrite=overwrite) as file:
            yield file
        return
    from vedastore.io.s3 import S3
    from vedastore.io.upload import new_object

    with new_object(S3(place.bucket, place.path, place.options), overwrite=overwrite) as file:
        yield file


@contextmanager
def scratch_errors() -> Iterator[None]:
    """Name what goes wrong with temporary files.

    Raises
    ------
    StoreError
        For every OSError of the block; those of the source and of the target have names of their own by then.
    """
    try:
        yield
    except OSError as error:
        where = str(error.filename or tempfile.gettempdir())
        raise StoreError(
            f"a temporary file cannot be used: {error.strerror or error}", where=where, hint=_SCRATCH_HINT
        ) from error


def _publish(draft: Path, target: Path, *, overwrite: bool) -> None:
    if overwrite:
        draft.replace(target)
    else:
        try:
            os.link(draft, target)
        except FileExistsError:
            raise ConflictError("another writer was first", where=str(target), hint=_HINT) from None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            draft.rename(target)  # a file system without hard links: the look at the start has to do


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
