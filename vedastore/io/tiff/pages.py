"""How many images a TIFF file holds."""

from __future__ import annotations

from typing import Final

from vedastore.io.tiff.structure import Buffer, iter_later_directories, read_directory, read_header

_SUBFILE_TYPE: Final = 254
_REDUCED_OR_MASK: Final = 1 | 4


def count_pages(data: Buffer) -> int:
    """Count the images of a file whose first directory is sound; overviews and masks belong to their image.

    Raises
    ------
    ImageError
        Where the directories behind the first one are damaged.
    """
    form, offset = read_header(data)
    (entries,) = form.count.unpack_from(data, offset)
    if form.pointer.unpack_from(data, offset + form.count.size + entries * form.entry.size) == (0,):
        return 1  # nearly every file: the tags need not be read again for it
    later = iter_later_directories(read_directory(data, form, offset))
    return 1 + sum(not directory.integer(_SUBFILE_TYPE, 0) & _REDUCED_OR_MASK for directory in later)
