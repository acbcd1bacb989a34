"""Packages that only some uses need: which extra of ``pip install`` brings each, said where one is missing."""

from __future__ import annotations

import importlib
from types import ModuleType

#: Import name -> what to install. Everything else that is imported is a dependency of the package itself.
PIP = {
    "datasets": "cac-align[train]",
    "defusedxml": "cac-align[train]",
    "matplotlib": "cac-align[train]",
    "tensorboard": "cac-align[train]",
    "trl": "cac-align[train]",
    "gradio": "cac-align[demo]",
    "openai": "cac-align[openai]",
    "pyarrow": "cac-align[corpus]",
    "ray": "cac-align[ray]",
    "timm": "cac-align[vbench]",
    "fastapi": "cac-align[serve]",
    "uvicorn": "cac-align[serve]",
    "werkzeug": "cac-align[rate]",
    "xformers": "cac-align[xformers]",
    "vllm": "vllm",
    "wandb": "wandb",
    "trackio": "trackio",
    "deepspeed": "deepspeed",
    "bitsandbytes": "cac-align[quant]",
    "torchao": "cac-align[quant]",
}


def need(module: str, purpose: str) -> ModuleType:
    """Imports ``module`` and returns it.

    Args:
        module: dotted name; its first part may be a key of :data:`PIP`.
        purpose: who asks, as the beginning of a sentence: ``"stages 1 and 2"``.

    Raises:
        ImportError: if it is not installed; the message has the line that installs it.

    Example:
        >>> need("json", "this example").__name__
        'json'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(missing_line(error, module, purpose), name=error.name) from error


def missing_line(error: ImportError, module: str = "", purpose: str = "this") -> str:
    """One-line explanation of an ImportError: the missing package and the command that installs it."""
    top = (error.name or module).partition(".")[0]
    if not top or isinstance(error.__cause__, ImportError):
        return str(error)
    # torch has the module torch.utils.tensorboard, and fails in it where tensorboard is missing.
    top = "tensorboard" if "tensorboard" in f"{error.name} {module}" else top
    return f"{purpose} needs the package {top}: pip install {PIP.get(top, top)!r}"
