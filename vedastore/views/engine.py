"""``xarray.open_dataset`` and ``open_datatree`` with ``engine="vedastore"``: for those who come from xarray."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar

from xarray.backends import BackendEntrypoint

from vedastore.errors import StoreError, UsageError
from vedastore.io.objects import open_objects
from vedastore.store.commit import read_root
from vedastore.views.stores import open as open_collection

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import xarray as xr

    from vedastore.views.collection import Collection


class VedastoreBackend(BackendEntrypoint):
    """Opens a store as ``Collection.to_xarray`` or ``Collection.to_datatree`` gives it."""

    description = "Labelled Earth-observation chips"
    supports_groups: ClassVar[bool] = True
    open_dataset_parameters: ClassVar[tuple[str, ...]] = (
        *("filename_or_obj", "drop_variables", "version", "labels", "bucket", "storage_options"),
    )

    def open_dataset(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        version: str | None = None,
        labels: bool = True,
        bucket: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> xr.Dataset:
        """Return the Dataset of a version, the latest unless it is named.

        Raises
        ------
        StoreError, UsageError
            As ``vedastore.open`` and ``Collection.to_xarray``.
        """
        collection = _open(filename_or_obj, version, storage_options)
        return _prepare(collection.to_xarray(labels=labels, bucket=bucket), drop_variables)

    def open_datatree(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        version: str | None = None,
        labels: bool = True,
        storage_options: Mapping[str, Any] | None = None,
    ) -> xr.DataTree:
        """Return the DataTree of a version, the latest unless it is named: one node a shape and type of images.

        Raises
        ------
        StoreError, UsageError
            As ``vedastore.open`` and ``Collection.to_datatree``.
        """
        import xarray as xr

        groups = self.open_groups_as_dict(
            filename_or_obj,
            drop_variables=drop_variables,
            version=version,
            labels=labels,
            storage_options=storage_options,
        )
        return xr.DataTree.from_dict(groups)

    def open_groups_as_dict(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        version: str | None = None,
        labels: bool = True,
        storage_options: Mapping[str, Any] | None = None,
    ) -> dict[str, xr.Dataset]:
        """Return the Datasets of that DataTree by their paths."""
        tree = _open(filename_or_obj, version, storage_options).to_datatree(labels=labels)
        return {node.path: _prepare(node.to_dataset(), drop_variables) for node in tree.subtree}

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Tell whether a place is a store of ours: only its root document is read."""
        if not isinstance(filename_or_obj, str | os.PathLike):
            return False
        try:
            return read_root(open_objects(filename_or_obj)) is not None
        except (StoreError, UsageError):
            return False


def _open(place: Any, version: str | None, storage_options: Mapping[str, Any] | None) -> Collection:
    if not isinstance(place, str | os.PathLike):
        raise UsageError(f"a store is a path, not {type(place).__name__}")
    return open_collection(place, version, storage_options)


def _prepare(dataset: xr.Dataset, drop_variables: str | Iterable[str] | None) -> xr.Dataset:
    dropped = [drop_variables] if isinstance(drop_variables, str) else drop_variables or ()
    dataset = dataset.drop_vars(dropped, errors="ignore")
    for variable in dataset.variables.values():
        if variable.chunks is not None:  # what chunks={} asks for: a chunk is a shard
            variable.encoding["preferred_chunks"] = dict(zip(variable.dims, variable.chunks, strict=True))
    return dataset
