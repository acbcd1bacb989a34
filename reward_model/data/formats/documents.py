"""The documents of an export: a file, a folder of files, or an archive as it was downloaded, read within limits.

Nothing of an archive is written to the disk, and a name inside one is shown and never opened as a path.
"""

from __future__ import annotations

import codecs
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

from reward_model.data.formats.common import FormatError
from reward_model.data.validation import Problem

#: One document: the export of a long video with a box on every frame is below 50 MiB.
MAX_DOCUMENT_BYTES = 256 * 2**20
#: All documents of one archive once unpacked, and the entries it may list (pictures among them are never read).
MAX_ARCHIVE_BYTES, MAX_MEMBERS = 2**30, 100_000
_ZIP = b"PK\x03\x04"
#: Longer marks first: that of UTF-32 begins like that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_documents(source: str | Path, suffix: str) -> tuple[dict[str, bytes], list[Problem]]:
    """The documents below a path by the names they are reported under, and a problem for each that cannot be read.

    Args:
        source: a document, a ZIP archive of documents, or a folder that holds either.
        suffix: what a document's name ends in, such as ``".xml"``.

    Raises:
        FormatError: if there is nothing at ``source``, or no document in it.
    """
    source = Path(source)
    found: dict[str, bytes] = {}
    problems: list[Problem] = []
    if source.is_dir():
        paths = sorted(p for p in source.iterdir() if p.suffix.lower() in (suffix, ".zip"))
        if not paths:
            raise FormatError(f"no {suffix} file and no .zip archive in {str(source)!r}")
    elif source.exists():
        paths = [source]
    else:
        raise FormatError(f"no file at {str(source)!r}")
    for path in paths:
        try:
            for name, data in _documents(path, suffix).items():
                found[name] = data
        except (FormatError, OSError) as error:
            problems.append(Problem(0, "", f"{path.name}: {error}"))
    return found, problems


def parse_json(data: bytes) -> Any:
    """The value of a JSON document in UTF-8, UTF-16 or UTF-32.

    Raises:
        FormatError: if it is not JSON, or nested too deeply.
    """
    try:
        return json.loads(data)
    except RecursionError:
        raise FormatError("the JSON is nested too deeply to be an export") from None
    except ValueError as error:
        raise FormatError(f"it is not JSON ({error}); export it as JSON") from None


def read_json(path: str | Path) -> Any:
    """The value of one JSON file, within the limit of :data:`MAX_DOCUMENT_BYTES`.

    Raises:
        FormatError: if it is not a regular file, too large, or not JSON; the message names it.
    """
    try:
        return parse_json(_read(Path(path)))
    except FormatError as error:
        raise FormatError(f"{str(path)!r}: {error}") from None


def read_text(path: str | Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark, as spreadsheets save it.

    Raises:
        FormatError: if it is not a regular file, too large, or in another encoding; the message names it.
    """
    try:
        data = _read(Path(path))
    except FormatError as error:
        raise FormatError(f"{str(path)!r}: {error}") from None
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        place = f"byte {error.start} of {str(path)!r} is not {encoding.removesuffix('-sig').upper()}"
        raise FormatError(f"{place}; save the file as UTF-8") from None


def _read(path: Path) -> bytes:
    if not path.is_file():  # a pipe or a device would wait for ever
        raise FormatError("it is not a regular file" if path.exists() else "there is no such file")
    if path.stat().st_size > MAX_DOCUMENT_BYTES:
        raise FormatError(f"it is larger than {MAX_DOCUMENT_BYTES // 2**20} MiB; export fewer tasks at a time")
    return path.read_bytes()


def _documents(path: Path, suffix: str) -> dict[str, bytes]:
    if not path.is_file():
        raise FormatError("it is not a regular file")
    with path.open("rb") as file:
        packed = file.read(len(_ZIP)) == _ZIP
    if not packed:
        if path.suffix.lower() == ".zip":
            raise FormatError("it is not a ZIP archive, or is incomplete; download it again")
        return {path.name: _read(path)}
    try:
        with zipfile.ZipFile(path) as archive:
            return _unpack(archive, path.name, suffix)
    except FormatError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:  # an unknown compression, too
        raise FormatError(f"the archive cannot be read ({error}); download it again") from None


def _unpack(archive: zipfile.ZipFile, name: str, suffix: str) -> dict[str, bytes]:
    members = archive.infolist()
    if len(members) > MAX_MEMBERS:
        raise FormatError(f"the archive lists {len(members)} entries; at most {MAX_MEMBERS} are read")
    wanted = [m for m in members if m.filename.lower().endswith(suffix) and not _is_clutter(m.filename)]
    if not wanted:
        raise FormatError(f"the archive holds no {suffix} document; export in the tool's own format")
    found, left = {}, MAX_ARCHIVE_BYTES
    for member in wanted:
        shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in member.filename)
        if member.flag_bits & 1:
            raise FormatError(f"{shown!r} in the archive is encrypted; unpack it first")
        limit = min(MAX_DOCUMENT_BYTES, left)
        # What a header says of the size need not be true: what counts is what comes out.
        with archive.open(member) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise FormatError(f"{shown!r} in the archive is larger than {limit // 2**20} MiB once unpacked")
        left -= len(data)
        found[name if len(wanted) == 1 else f"{name}/{shown}"] = data
    return found


def _is_clutter(name: str) -> bool:
    return name.startswith("__MACOSX/") or name.rsplit("/", 1)[-1].startswith("._")
