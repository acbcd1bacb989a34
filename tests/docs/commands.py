"""Checks a command line of a document without running it: the program exists, its options parse, its settings are
known, its files are there.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from documents import ROOT

#: Programs that are not part of the project; what they are told cannot be checked here.
OTHERS = {"vllm", "tensorboard", "source", "pip"}
_ASSIGNMENT = re.compile(r"[A-Z_][A-Z0-9_]*=")
#: Options of the launchers that take no value.
_FLAGS = {"--multi_gpu", "--cpu", "--standalone"}


class Parsed(Exception):
    """A recipe has read its command line."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.values = args


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
    elif program == "python":
        _check_script(rest)
    elif program in ("accelerate", "torchrun"):
        _check_script(_without_launcher(program, rest))
    elif program not in OTHERS:
        raise ValueError(f"unknown program {program!r}; add it to the checks or to OTHERS")


def _check_make(targets: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    missing = set(targets) - set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    if missing:
        raise ValueError(f"the Makefile has no target {', '.join(sorted(missing))}")


def _check_tool(rest: list[str]) -> None:
    from cac_align.cli import build_parser

    with _no_exit():
        build_parser().parse_args(rest)


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


def _check_script(words: list[str]) -> None:
    script = ROOT / words[0]
    if not script.is_file():
        raise ValueError(f"there is no {words[0]}")
    if script.name in ("stage1_warmup.py", "stage2_sft.py"):
        from reward_model.training.stage_config import parse_stage

        with _no_exit():
            parse_stage([*words[1:], "--use_cpu", "true"])
        return
    args = _read_arguments(script, words[1:])
    _check_settings(script.stem, args)


def _read_arguments(script: Path, arguments: list[str]) -> argparse.Namespace:
    """Runs a script up to the point where it has read its command line."""
    spec = importlib.util.spec_from_file_location(f"checked_{script.stem}", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    original = argparse.ArgumentParser.parse_args

    def stop(self: Any, args: Any = None, namespace: Any = None) -> Any:
        raise Parsed(original(self, args, namespace))

    with (
        patch.object(argparse.ArgumentParser, "parse_args", stop),
        patch.object(sys, "argv", [str(script), *arguments]),
    ):
        spec.loader.exec_module(module)
        try:
            with _no_exit():
                module.main()
        except Parsed as parsed:
            return parsed.values
    raise ValueError(f"{script.name} never read its command line")


def _check_settings(name: str, args: argparse.Namespace) -> None:
    """Reads the settings file and what ``--set`` puts over it as the recipe does; a wrong name or value raises."""
    if name not in ("flow_grpo", "stage3_grpo") or not hasattr(args, "set"):
        return
    from reward_model.training.grpo_config import GrpoConfig
    from reward_model.training.grpo_setup import OWN
    from reward_model.training.settings_file import changed, read_yaml

    settings = changed(read_yaml(args.config), args.set)
    if name == "stage3_grpo":
        GrpoConfig.from_dict({k: v for k, v in settings.items() if k not in OWN})
    else:
        from cac_align.flow_grpo.config import FlowGRPOConfig

        FlowGRPOConfig.from_dict(settings)


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
