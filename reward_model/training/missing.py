"""Missing inputs of a planned run: a dry run lists them beside what the run would cost."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path


def missing_inputs(model: str | None, files: Mapping[str, str | None], *, built: Collection[str] = ()) -> list[str]:
    """A line for each input that is not there yet.

    Args:
        model: a folder, a hub id, or one of ``built``.
        files: what a setting is called -> the file it names; None and procedural data need none.
        built: names of models that are made from scratch.
    """
    found = []
    if not model:
        found.append("no model is named")
    elif model not in built and not Path(model).is_dir() and not _downloaded(model):
        found.append(f"model {model!r}: there is no such folder, and no model of that name has been downloaded")
    for name, path in files.items():
        if path is not None and not Path(path).is_file():
            found.append(f"{name} {path!r}: there is no such file")
    return found


def print_missing(model: str | None, files: Mapping[str, str | None], *, built: Collection[str] = ()) -> None:
    """Prints what is missing, or that nothing is."""
    lines = missing_inputs(model, files, built=built)
    print(
        "\n".join([f"Missing before it can start ({len(lines)}):", *(f"  {s}" for s in lines)])
        if lines
        else "Inputs: all there."
    )


def _downloaded(model: str) -> bool:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(model, "config.json"), str)
    except HFValidationError:
        return False
