"""XML from outside, parsed without entities: a document type declaration is refused (billion laughs, file access)."""

from __future__ import annotations

import importlib
from functools import cache
from types import ModuleType
from xml.etree import ElementTree

from reward_model.data.formats.common import FormatError

#: Characters that XML 1.0 cannot carry; they are replaced on writing.
_FORBIDDEN = {code: "�" for code in (*range(0x20), 0xFFFE, 0xFFFF) if code not in (0x9, 0xA, 0xD)}


class _NoDoctype(ElementTree.TreeBuilder):
    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise FormatError(f"the XML declares a document type ({name!r}); such files are refused, export it again")


def parse_xml(data: bytes) -> ElementTree.Element:
    """The root element. Uses defusedxml where it is installed, else the standard library with the same refusal.

    Raises:
        FormatError: if the text is not well-formed XML, or holds a document type declaration.
    """
    defused = _defusedxml()
    try:
        if defused is not None:
            root: ElementTree.Element = defused.fromstring(data, forbid_dtd=True)
            return root
        return ElementTree.fromstring(data, ElementTree.XMLParser(target=_NoDoctype()))
    except FormatError:
        raise
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise FormatError(f"not XML that can be read safely: {error or type(error).__name__}") from error


def xml_text(text: str) -> str:
    """Text without the characters XML has no form for."""
    return text.translate(_FORBIDDEN).encode("utf-8", "replace").decode()


@cache
def _defusedxml() -> ModuleType | None:
    try:
        return importlib.import_module("defusedxml.ElementTree")
    except ImportError:
        return None
