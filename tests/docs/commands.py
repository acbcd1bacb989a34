"""Checks a command line of a document without running it: the program exists, its options parse, its settings are
known, its files are there.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from documents import ROOT

#: Programs that are not part of the project; what they are told cannot be checked here.
OTHERS = {"vllm", "tensorboard", "source", "pip", "openssl", "mkdir", "cp", "hf", "git", "tar", "mv"}
_ASSIGNMENT = re.compile(r"[A-Z_][A-Z0-9_]*=")
#: Options of the launchers that take no value.
_FLAGS = {"--multi_gpu", "--cpu", "--standalone"}


def commands(code: str) -> list[list[str]]:
    """The commands of a bash block as words: comments gone, continued lines joined, redirections cut off.

    Example:
        >>> commands("OMP_NUM_THREADS=1 python a.py \\\\\\n  --n 2   # two\\nmake demo > log")
        [['python', 'a.py', '--n', '2'], ['make', 'demo']]
    """
    found = []
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        words = words[: next((k for k, w in enumerate(words) if w in (">", "|", "&&", "2>&1")), len(words))]
        while words and _ASSIGNMENT.match(words[0]):
            words = words[1:]
        if words:
            found.append(words)
    return found


def check(words: Sequence[str]) -> None:
    """Raises ValueError, with what is wrong, unless a command can be understood by the program it names."""
    program, rest = words[0], list(words[1:])
    if program == "make":
        _check_make(rest)
    elif program == "cac-align":
        _check_tool(rest)
    elif program == "python" and rest[:2] == ["-m", "cac_align"]:
        _check_tool(rest[2:])
    elif program == "python":
        _check_script(rest)
    elif program in ("accelerate", "torchrun"):
        _check_launched(_without_launcher(program, rest))
    elif program not in OTHERS:
        raise ValueError(f"unknown program {program!r}; add it to the checks or to OTHERS")


def _check_make(targets: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    missing = set(targets) - set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    if missing:
        raise ValueError(f"the Makefile has no target {', '.join(sorted(missing))}")


def _check_tool(rest: list[str]) -> None:
    from cac_align.cli import build_parser
    from cac_align.commands.train import RUN, TRAIN

    with _no_exit():
        args = build_parser().parse_args(rest)
    recipes = {**TRAIN.recipes, **RUN.recipes}
    if getattr(args, "recipe", None) in recipes:
        _check_script([f"recipes/{recipes[args.recipe]}", *args.options])


def _without_launcher(program: str, rest: list[str]) -> list[str]:
    """What a launcher is to start; its own files have to exist."""
    words = rest[1:] if program == "accelerate" else rest
    if program == "accelerate" and rest[:1] != ["launch"]:
        raise ValueError(f"accelerate {rest[:1]} is not 'accelerate launch'")
    while words and words[0].startswith("--"):
        if words[0] == "--config_file" and not (ROOT / words[1]).is_file():
            raise ValueError(f"there is no {words[1]}")
        words = words[1 if words[0] in _FLAGS or "=" in words[0] else 2 :]
    return words


def _check_launched(words: list[str]) -> None:
    if words[:2] == ["-m", "cac_align"]:
        _check_tool(words[2:])
    else:
        _check_script(words)


def _check_script(words: list[str]) -> None:
    if words[0] == "-c":
        compile(words[1], "<command>", "exec")
        return
    script = ROOT / words[0]
    if not script.is_file():
        raise ValueError(f"there is no {words[0]}")
    if script.name in ("stage1_warmup.py", "stage2_sft.py"):
        from reward_model.minis.stages import MINI
        from reward_model.training.sft.config import parse_stage

        with _no_exit():
            presets = ROOT / "recipes" / "configs" / script.name.partition("_")[0]
            parse_stage([*words[1:], "--use_cpu", "true"], presets, MINI.options)
        return
    if script.name == "train_referee.py":
        from reward_model.minis.referee import REFEREE
        from reward_model.training.sft.config import parse_stage

        with _no_exit():
            parse_stage([*words[1:], "--use_cpu", "true"], ROOT / "recipes" / "configs" / "referee", REFEREE.options)
        return
    _check_settings(load_recipe(script), words[1:])


@functools.cache
def load_recipe(script: Path) -> Any:
    """A script of ``recipes/`` or ``benchmarks/`` as a module, which finds the files beside it as ``python`` would."""
    spec = importlib.util.spec_from_file_location(f"checked_{script.stem}", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(script.parent))
        patch.setitem(sys.modules, spec.name, module)  # dataclasses look up the module that they stand in
        spec.loader.exec_module(module)
    return module


def _check_settings(recipe: Any, arguments: list[str]) -> None:
    """Reads the command line and the settings as the recipe does; a wrong name or value raises."""
    with _no_exit():
        args = recipe.parse(arguments) if hasattr(recipe, "parse") else recipe.parser().parse_args(arguments)
    if hasattr(recipe, "settings"):
        recipe.check(recipe.settings(args))


@contextlib.contextmanager
def _no_exit() -> Iterator[None]:
    """Turns argparse's exit into a ValueError that says what argparse said."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            yield
    except SystemExit as stopped:
        if stopped.code not in (0, None):
            raise ValueError(said.getvalue().strip().splitlines()[-1]) from None
