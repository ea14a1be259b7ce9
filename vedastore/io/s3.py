"""Requests to S3, by s3fs.

A key that is known is never listed. Whatever S3 or the way to it does wrong is a named error; s3fs and botocore repeat
what may be repeated, a few times and no more.
"""

from __future__ import annotations

import os
import threading
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any, Final

from vedastore.errors import StoreError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_READS: Final = 4
"""How often the body of an answer is asked for that ends too early."""
_ABSENT: Final = frozenset({"NoSuchKey", "NotFound", "404"})
_HINT: Final = "check the address, the credentials (AWS_PROFILE, AWS_ACCESS_KEY_ID ...) and AWS_ENDPOINT_URL"
PROBE: Final = ".vedastore-probe-"
"""How the keys of objects begin that `S3.check_swaps` writes, and removes unless it is killed."""
_systems: dict[tuple[Any, ...], Any] = {}
_inherited: list[Any] = []
"""File systems of the process that this one was forked from."""
_making = threading.Lock()
_checked: set[tuple[str, str]] = set()
"""Endpoints and buckets that were found to compare and swap."""


class Answer(Exception):  # noqa: N818 - the caller judges whether it is an error
    """What S3 answered instead of doing what was asked; no status where no answer came.

    ``repeated`` tells that it is the answer to a request that had been made before, without one.
    """

    def __init__(self, status: int | None, code: str, message: str, *, repeated: bool = False) -> None:
        super().__init__(status, code, message)  # what it is pickled by
        self.status, self.code, self.message, self._repeated = status, code, message, repeated

    def __str__(self) -> str:
        return self.message

    @property
    def absent(self) -> bool:
        """Whether there is no such object."""
        return self.code in _ABSENT

    @property
    def refused(self) -> bool:
        """Whether the condition of a write did not hold."""
        return self.status == 412  # noqa: PLR2004 - Precondition Failed

    @property
    def busy(self) -> bool:
        """Whether another write of the same key was under way."""
        return self.status == 409  # noqa: PLR2004 - Conflict

    @property
    def beyond(self) -> bool:
        """Whether the object ends before what was asked for begins."""
        return self.status == 416  # noqa: PLR2004 - Range Not Satisfiable

    @property
    def certain(self) -> bool:
        """Whether nothing can have been written."""
        return self.status is not None and 400 <= self.status < 500 and not self._repeated  # noqa: PLR2004 - the client's errors


@dataclass(frozen=True, slots=True)
class Entry:
    """What a listing tells of a key, the time in seconds since 1970; of a common prefix, nothing but itself."""

    key: str
    size_bytes: int
    tag: str
    modified: float


class S3:
    """Requests to the keys under one prefix of a bucket. Cheap to pickle; threads and forked processes may share it.

    Parameters
    ----------
    bucket, prefix : str
    options : mapping
        What s3fs takes: ``key``, ``secret``, ``anon``, ``endpoint_url``, ``requester_pays`` ...
    """

    def __init__(self, bucket: str, prefix: str, options: Mapping[str, Any]) -> None:
        self.bucket, self.prefix, self.options = bucket, prefix, dict(options)
        self._token = repr(sorted(self.options.items(), key=itemgetter(0)))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.bucket, self.prefix, self.options)

    @property
    def url(self) -> str:
        """The place, as the user would write it."""
        return f"s3://{self.bucket}/{self.prefix}"

    @property
    def _system(self) -> Any:
        """The file system of this process and environment; its thread does not outlive a fork.

        s3fs would give the same one again although the environment names another endpoint by now.
        """
        environment = sorted(item for item in os.environ.items() if item[0].startswith("AWS_"))
        key = (self._token, *environment)
        with _making:
            if key not in _systems:
                import s3fs

                options = {**self.options, "use_listings_cache": False, "skip_instance_cache": True}
                try:
                    system = s3fs.S3FileSystem(**options)
                    system.connect()
                except (TypeError, ValueError) as error:
                    hint = "see storage_options, AWS_ENDPOINT_URL and AWS_DEFAULT_REGION"
                    raise UsageError(f"S3 cannot be set up so: {error}", where=self.url, hint=hint) from error
                _systems[key] = system
            return _systems[key]

    def where(self, key: str = "") -> str:
        """Return the address of a key."""
        return f"{self.url}/{key}" if key else self.url

    def full(self, key: str) -> str:
        """Return a key as the bucket has it."""
        return f"{self.prefix}/{key}" if key else self.prefix

    def get(self, key: str, start: int = 0, length: int | None = None, tag: str | None = None) -> tuple[bytes, str]:
        """Return an object, or ``length`` bytes of it from ``start``, and its entity tag.

        Raises
        ------
        StoreError
            When it is absent, shorter, another than the tag's, or cannot be read.
        """
        wanted: dict[str, Any] = {"IfMatch": tag} if tag else {}
        if length is not None or start:
            wanted["Range"] = f"bytes={start}-" + ("" if length is None else str(start + length - 1))
        try:
            data, found = self._ask_whole(key, wanted)
        except Answer as answer:
            if answer.beyond:
                raise StoreError(f"the object ends before byte {start + 1}", where=self.where(key)) from answer
            if answer.refused:
                raise StoreError("the object has changed while it was read", where=self.where(key)) from answer
            raise self.error(key, answer) from answer
        if length is not None and len(data) != length:
            raise StoreError(f"the object ends at byte {start + len(data)}", where=self.where(key))
        return data, found

    def find(self, key: str, most: int) -> tuple[bytes, str] | None:
        """Return the first ``most`` bytes of an object, which may have fewer, and its entity tag; None where absent."""
        try:
            return self._ask_whole(key, {"Range": f"bytes=0-{most - 1}"})
        except Answer as answer:
            if answer.absent:
                return None
            if answer.beyond:
                told = self.head(key)
                return None if told is None else (b"", told["ETag"])
            raise self.error(key, answer) from answer

    def _ask_whole(self, key: str, wanted: Mapping[str, str]) -> tuple[bytes, str]:
        from fsspec.asyn import sync

        async def get(system: Any) -> tuple[bytes, str]:
            for turn in range(_READS):
                answer = await system._call_s3("get_object", **system.req_kw, **request)  # noqa: SLF001 - s3fs gives bodies to coroutines alone
                try:
                    async with answer["Body"] as body:
                        return await body.read(), answer["ETag"]
                except _failures():
                    if turn == _READS - 1:
                        raise
            raise AssertionError

        request = {"Bucket": self.bucket, "Key": self.full(key), **wanted}
        with _answers():
            system = self._system
            data, tag = sync(system.loop, get, system)
        return data, tag

    def head(self, key: str) -> dict[str, Any] | None:
        """Return what S3 tells of an object; None where it is absent."""
        try:
            told: dict[str, Any] = self.ask("head_object", Key=self.full(key))
        except Answer as answer:
            if answer.absent:
                return None
            raise self.error(key, answer) from answer
        return told

    def put(self, key: str, data: bytes, **condition: str) -> None:
        """Write an object, whole; the errors of a write with a condition are `Answer`, for the caller to judge."""
        try:
            self.ask("put_object", Key=self.full(key), Body=data, **condition)
        except Answer as answer:
            if condition:
                raise
            raise self.error(key, answer) from answer

    def copy(self, source: str, key: str) -> None:
        """Make an object of another one of the bucket."""
        try:
            self.ask("copy_object", Key=self.full(key), CopySource={"Bucket": self.bucket, "Key": self.full(source)})
        except Answer as answer:
            raise self.error(key, answer) from answer

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens where it is absent."""
        try:
            self.ask("delete_object", Key=self.full(key))
        except Answer as answer:
            if not answer.absent:
                raise self.error(key, answer) from answer

    def list_entries(self, delimiter: str = "", below: str = "") -> Iterator[Entry]:
        """Yield what is told of every key that begins so, in order; with a delimiter, keys up to it."""
        base, token = f"{self.prefix}/", ""
        while True:
            more = {"ContinuationToken": token} if token else {}
            try:
                page = self.ask("list_objects_v2", Prefix=base + below, Delimiter=delimiter, **more)
            except Answer as answer:
                raise self.error("", answer) from answer
            found = [
                Entry(told["Key"].removeprefix(base), told["Size"], told["ETag"], told["LastModified"].timestamp())
                for told in page.get("Contents", ())
            ]
            found += [Entry(told["Prefix"].removeprefix(base), 0, "", 0.0) for told in page.get("CommonPrefixes", ())]
            yield from sorted(found, key=attrgetter("key"))
            token = page.get("NextContinuationToken", "")
            if not token:
                return

    def ask(self, operation: str, **arguments: Any) -> Any:
        """Return what S3 answers to a request; raise `Answer` where it does not do what is asked."""
        with _answers():
            system = self._system
            return system.call_s3(operation, Bucket=self.bucket, **system.req_kw, **arguments)

    def error(self, key: str, answer: Answer) -> StoreError:
        """Return the error that an answer is to a user."""
        if answer.absent:
            return StoreError("the object is absent", where=self.where(key))
        return StoreError(f"S3 did not do it: {answer}", where=self.where(key), hint=_HINT)

    def check_swaps(self) -> None:
        """Find out, once for a bucket in a process, whether writes with conditions are refused as they have to be.

        Raises
        ------
        StoreError
            When the service ignores conditions: two writers would destroy each other's work.
        """
        place = (str(self.options.get("endpoint_url") or os.environ.get("AWS_ENDPOINT_URL", "")), self.bucket)
        if place in _checked:
            return
        key = f"{PROBE}{uuid.uuid4().hex}"
        try:
            self.put(key, b"1")
            held = [self._is_refused(key, IfNoneMatch="*"), self._is_refused(key, IfMatch=f'"{"0" * 32}"')]
        except Answer as answer:
            raise self.error(key, answer) from answer
        finally:
            with suppress(StoreError):
                self.delete(key)
        if not all(held):
            message = "the service ignores the conditions of writes (If-Match, If-None-Match), so that writers could"
            hint = "use a service that has conditional writes, or convert to a local disk and copy the store"
            raise StoreError(f"{message} destroy each other's work", where=self.url, hint=hint)
        _checked.add(place)

    def _is_refused(self, key: str, **condition: str) -> bool:
        try:
            self.put(key, b"2", **condition)
        except Answer as answer:
            if not (answer.refused or answer.absent):
                raise
            return True
        return False


def _failures() -> tuple[type[Exception], ...]:
    """Return what is raised where no answer came, or only a part of it."""
    import aiohttp
    from botocore.exceptions import BotoCoreError

    return OSError, BotoCoreError, aiohttp.ClientError, TimeoutError


@contextmanager
def _answers() -> Iterator[None]:
    """Make one exception of those of s3fs, botocore and aiohttp."""
    from botocore.exceptions import ClientError

    try:
        yield
    except (ClientError, *_failures()) as error:
        cause = error if isinstance(error, ClientError) else error.__cause__
        told = getattr(cause, "response", None) or {}
        status = told.get("ResponseMetadata", {}).get("HTTPStatusCode")
        code = told.get("Error", {}).get("Code", "")
        repeated = told.get("ResponseMetadata", {}).get("RetryAttempts", 0) > 0
        raise Answer(status, code, str(error).strip() or type(error).__name__, repeated=repeated) from error


def _forget() -> None:
    global _making  # noqa: PLW0603 - another thread may have held it when this process was forked
    _making = threading.Lock()
    # Closing a connection here would take it out of what the parent's event loop waits for, which both processes share:
    # the parent would wait in vain. So nothing of it is collected, nor closed when this process ends.
    _inherited.extend(_systems.values())
    _systems.clear()
    for system in _inherited:
        system._s3creator._client = None  # noqa: SLF001 - what s3fs's finalizer closes


os.register_at_fork(after_in_child=_forget)
