"""The tensors of a TorchScript archive, without the program in it.

Such an archive holds code that torch runs while it loads. Here only its list of objects is read, by an unpickler that
knows tensors and nothing else, and the bytes of their storages.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

#: Objects inside objects: CLIP's deepest weight lies seven down.
MAX_DEPTH = 64
_TYPES = {
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "DoubleStorage": "float64",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}


def is_archive(path: Path) -> bool:
    """True for TorchScript, which keeps its constants in a file of that name."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def archive_tensors(path: Path) -> dict[str, Any]:
    """Every tensor of a TorchScript archive by its dotted name; nothing in the file is run.

    Raises:
        pickle.UnpicklingError: the list of objects names anything but modules and tensors.
        ValueError, RuntimeError, KeyError, zipfile.BadZipFile: the file is broken.
    """
    with zipfile.ZipFile(path) as archive:
        home = next(n for n in archive.namelist() if n.endswith("/constants.pkl")).removesuffix("constants.pkl")
        with archive.open(f"{home}data.pkl") as file:
            root = _Unpickler(file, archive, home).load()
    tensors: dict[str, Any] = {}
    _collect(root, "", tensors, MAX_DEPTH)
    return tensors


class _Module:
    """Stands for any object of the program; keeps its attributes and has no behaviour."""

    def __init__(self, *_: object) -> None:
        pass


class _Unpickler(pickle.Unpickler):
    """Builds modules of no behaviour, tensors, lists and plain values; refuses every other name."""

    def __init__(self, file: IO[bytes], archive: zipfile.ZipFile, home: str) -> None:
        super().__init__(file)
        self.archive, self.home = archive, home
        self.storages: dict[str, Any] = {}

    def find_class(self, module: str, name: str) -> object:
        if module.split(".", maxsplit=1)[0] == "__torch__":
            return _Module
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_tensor"):
            return _tensor
        if module == "torch._utils" and name == "_rebuild_parameter":
            return lambda data, *_: data
        if module == "torch" and name in _TYPES:
            return _TYPES[name]
        if module == "torch.jit._pickle" and name.startswith("build_"):
            return lambda data: data  # lists of numbers
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, and only tensors are read")

    def persistent_load(self, pid: Any) -> torch.Tensor:
        """The flat tensor of a storage, whose bytes lie uncompressed in their own file."""
        import torch

        kind, dtype, key, _, count = pid
        if kind != "storage" or dtype not in _TYPES.values():
            raise pickle.UnpicklingError(f"it holds {kind!r}, and only tensors are read")
        if key not in self.storages:
            entry = self.archive.getinfo(f"{self.home}data/{key}")
            if entry.compress_type != zipfile.ZIP_STORED:
                raise pickle.UnpicklingError("its tensors are compressed, which torch never does")
            data = bytearray(self.archive.read(entry))
            self.storages[key] = torch.frombuffer(data, dtype=getattr(torch, dtype)) if data else torch.empty(0)
        if len(self.storages[key]) < count:
            raise ValueError(f"storage {key} holds {len(self.storages[key])} numbers of {count}")
        return self.storages[key]


def _tensor(storage: object, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> torch.Tensor:
    import torch

    if not isinstance(storage, torch.Tensor):
        raise pickle.UnpicklingError("a tensor without a storage")
    return torch.as_strided(storage, tuple(size), tuple(stride), offset).clone()


def _collect(node: object, prefix: str, tensors: dict[str, Any], depth: int) -> None:
    if depth == 0:
        raise ValueError(f"its objects are nested more than {MAX_DEPTH} deep")
    for name, value in vars(node).items() if isinstance(node, _Module) else ():
        if isinstance(value, _Module):
            _collect(value, f"{prefix}{name}.", tensors, depth - 1)
        elif hasattr(value, "as_strided"):
            tensors[prefix + name] = value
