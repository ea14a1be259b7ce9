"""A disk whose power is cut: what survives of a run of operations, told from their log alone.

Two disks, as far apart as file systems are. The *lazy* one keeps nothing that was not asked for: a file has the bytes
of its last fsync, a directory the names of its last fsync. The *hasty* one keeps every name that was made, renamed or
removed at once, and of every file only the bytes of its last fsync: one that was cut or made since then is empty.
"""

import shutil
from pathlib import Path


class _File:
    def __init__(self, data=b""):
        self.lazy = self.hasty = data


class _Folder:
    def __init__(self, entries=None):
        self.hasty = entries or {}
        self.lazy = dict(self.hasty)


class Disk:
    """What is below a folder, all of it durable in the beginning."""

    def __init__(self, folder):
        self._folder, self._root = Path(folder), _read(Path(folder))

    def apply(self, call):
        """Do what a call of the log does; one that failed, for example for a name that is taken, does nothing."""
        parent, name = self._find(call["path"])
        node = parent and parent.hasty.get(name)
        match call["call"]:
            case "create" if parent and node is None:
                parent.hasty[name] = _File()
            case "mkdir" if parent and node is None:
                parent.hasty[name] = _Folder()
            case "truncate":
                node.hasty = b""
            case "fsync" if "copy" in call:
                node.lazy = node.hasty = Path(call["copy"]).read_bytes()
            case "fsync":
                folder = node or self._root
                folder.lazy = dict(folder.hasty)
            case "unlink" if isinstance(node, _File):
                del parent.hasty[name]
            case "rmdir" if isinstance(node, _Folder) and not node.hasty:
                del parent.hasty[name]
            case "rename" | "replace" | "link":
                target, other = self._find(call["to"])
                if call["call"] != "link":
                    del parent.hasty[name]
                elif other in target.hasty:
                    return
                target.hasty[other] = node

    def survivors(self, kind):
        """All files and folders that the lazy or the hasty disk has now: bytes by path, None for a folder."""
        return {path: data for path, data in _walk(self._root, kind, "") if path}

    def _find(self, path):
        """The folder that an entry is in, None where there is none, and its name there."""
        folder = self._root
        *parts, name = Path(path).relative_to(self._folder).parts or ("",)
        for part in parts:
            folder = folder.hasty.get(part) if folder else None
        return folder, name


def restore(survivors, folder):
    """Make a folder what has survived."""
    shutil.rmtree(folder)
    folder.mkdir()
    for path, data in survivors.items():
        if data is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(data)


def _read(path):
    if path.is_dir():
        return _Folder({p.name: _read(p) for p in path.iterdir()})
    return _File(path.read_bytes())


def _walk(node, kind, path):
    found = getattr(node, kind)
    if isinstance(node, _File):
        yield path, found
        return
    yield path, None
    for name, entry in found.items():
        yield from _walk(entry, kind, f"{path}/{name}".lstrip("/"))
