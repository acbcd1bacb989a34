"""Behaviour of commands and recipes at a terminal: one line for any error, an exit code that says which kind, and no
character of a file name or of a model's text that could command the terminal.

| exit code | meaning |
|---|---|
| 0 | all is well |
| 1 | the work was done, but something in it was not: a video could not be judged, a check failed |
| 2 | used wrongly, or something needed is missing: a file, a model, a package, memory, room on the disk |
| 70 | a fault of the program itself; ``CAC_ALIGN_DEBUG=1`` shows its traceback |
| 130, 143 | stopped by Ctrl-C, by SIGTERM |
| 141 | the reader of the output went away, as ``head`` does |
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from reward_model.extras import missing_line

#: Set to 1, errors come with their traceback.
DEBUG_VARIABLE = "CAC_ALIGN_DEBUG"
FAILED, MISUSED, FAULT, INTERRUPTED, PIPE_CLOSED = 1, 2, 70, 130, 141
#: What ``accelerate launch`` sets in the processes it starts; it adds its own traceback to whatever ends one.
LAUNCHER_SETS = "ACCELERATE_DYNAMO_BACKEND"
LAUNCHED = "\n\n(The traceback that follows is accelerate's and says only that this process has ended.)"

#: C0, C1, line separators, marks that turn the direction of text around, and halves of characters.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
#: The same without line feeds and tabs, for text of several lines.
_CONTROL_IN_LINES = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

#: Bars move the cursor by carriage returns and one line up; nothing else is written on purpose.
_NEVER_WRITTEN = re.compile(
    "(?!\x1b\\[A)[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)

_ROOM = "free some space or write to another disk"
#: What to do about an error of the system.
_REMEDIES = {
    errno.ENOSPC: _ROOM + "; finished work is kept, and the same command resumes from it",
    errno.EDQUOT: _ROOM + "; finished work is kept, and the same command resumes from it",
    errno.EROFS: "choose a folder that can be written to",
    errno.EACCES: "change its permissions, or choose another place",
    errno.EPERM: "change its permissions, or choose another place",
    errno.ENOTDIR: "a part of this path is a file; choose another folder",
    errno.EEXIST: "there is a file of that name; choose another folder",
    errno.EISDIR: "this is a folder where a file is needed",
    errno.ENOENT: "check the path",
    errno.EMFILE: "close other programs, or raise the limit: ulimit -n 4096",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def printable(text: object, *, lines: bool = False) -> str:
    """Text that is safe to print: control characters appear as they are written in Python, such as ``\\x1b``.

    Args:
        text: a file name, a model's words, a message.
        lines: keep line feeds and tabs.

    Example:
        >>> printable("a\\x1b[2Jb.mp4")
        'a\\\\x1b[2Jb.mp4'
    """
    pattern = _CONTROL_IN_LINES if lines else _CONTROL
    return pattern.sub(_spelled, str(text))


def score_text(score: float) -> str:
    """A probability with as many digits as show that it is neither 0 nor 1, at least four.

    Example:
        >>> [score_text(s) for s in (0.25, 0.9999997, 0.0000123, 3e-14, 1.0)]
        ['0.2500', '0.9999997', '0.00001', '3.0e-14', '1.0000']
    """
    for digits in range(4, 11):
        shown = f"{score:.{digits}f}"
        if float(shown) not in (0.0, 1.0) or score in (0.0, 1.0):
            return shown
    return f"{score:.1e}" if abs(score) < 0.5 else f"{score:.4f}"


def run_program(
    main: Callable[[], int | None],
    program: str,
    *,
    options: Mapping[str, str] | None = None,
    output: object = None,
    resumes: bool = False,
    level: int = logging.WARNING,
    form: str | None = None,
    alone: bool = True,
) -> int:
    """Runs a command or a recipe; its exit code (see above). A mistake is one line on stderr, never a traceback.

    Args:
        main: does the work; None counts as 0.
        program: its name, which begins each message.
        options: names of arguments as Python has them, such as ``output_dir``, and what the command calls them.
        output: where the command writes, named when the disk is full.
        resumes: the same command resumes where it was stopped, which is printed after Ctrl-C.
        level, form: level and form of log messages, see :func:`set_up_output`.
        alone: the process belongs to the program; False leaves streams, logging and warnings as they are.
    """
    if alone:
        set_up_output(program, level=level, form=form)
    try:
        code = main() or 0
        sys.stdout.flush()
        return int(code)
    except BrokenPipeError:
        _forget_stdout()
        return PIPE_CLOSED
    except KeyboardInterrupt:
        again = "; the same command resumes where it stopped" if resumes else ""
        _say(f"{program}: interrupted{again}")
        return INTERRUPTED
    except Exception as error:
        text, code = explain(error, output)
        if os.environ.get(DEBUG_VARIABLE, "") not in ("", "0"):
            traceback.print_exception(error)
        lines = as_typed(text, options or {}).strip().splitlines() or [type(error).__name__]
        launched = LAUNCHED if LAUNCHER_SETS in os.environ else ""
        kind = "error: " if code < INTERRUPTED else ""  # a training that was asked to stop made no error
        _say("\n  ".join([f"{program}: {kind}{lines[0]}", *map(str.strip, lines[1:])]) + launched)
        return code


def set_up_output(program: str, *, level: int = logging.WARNING, form: str | None = None) -> None:
    """Makes what a program prints safe and quiet: no character ends in an error of the encoding, log messages and
    warnings are lines without control characters, and other libraries speak only of errors.

    Args:
        program: begins each message.
        level: level of log messages of this project.
        form: form of a log message; by default the program's name and the message.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            with contextlib.suppress(ValueError, OSError):
                stream.reconfigure(errors="backslashreplace")
        _guard(stream)
    handler = logging.StreamHandler()
    handler.setFormatter(_SafeFormatter(form or f"{program}: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
    quiet_libraries()

    def warning_line(message: Warning | str, *_: object, **__: object) -> str:
        return f"{program}: warning: {printable(message)}\n"

    # A warning as people at a terminal want it: without the line of code it comes from.
    warnings.formatwarning = warning_line


def _guard(stream: Any) -> None:
    """Spells out, in whatever is written to a stream, the characters that no program here writes on purpose: a last
    line of defence where a name or an answer is printed as it is.
    """
    write = stream.write

    def guarded(text: str) -> int:
        count: int = write(_NEVER_WRITTEN.sub(_spelled, text))
        return count

    if write.__name__ != "guarded":
        with contextlib.suppress(AttributeError):
            stream.write = guarded


def _spelled(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


class _SafeFormatter(logging.Formatter):
    """Log messages whose control characters are spelled out; they quote file names and models."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), lines=True)


#: Libraries whose warnings and progress say nothing to a user of this one.
OTHERS = (
    *("accelerate", "datasets", "diffusers", "filelock", "fsspec", "httpcore", "httpx", "huggingface_hub"),
    *("numexpr", "openai", "peft", "PIL", "torch", "torchao", "transformers", "trl", "urllib3"),
)


def quiet_libraries(level: int = logging.ERROR) -> None:
    """Lets other libraries speak only from ``level`` on."""
    noisy = level < logging.ERROR
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "warning" if noisy else "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "warning" if noisy else "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "0" if noisy else "1")
    for name in OTHERS:
        logging.getLogger(name).setLevel(level)
    if noisy:
        return
    for outdated in (FutureWarning, DeprecationWarning, PendingDeprecationWarning):
        warnings.filterwarnings("ignore", category=outdated)
    warnings.filterwarnings("ignore", module=rf"({'|'.join(OTHERS)})(\.|$)")


def quiet_bars(*libraries: str) -> None:
    """No bars of ``transformers`` or ``diffusers`` while they put a model together; called before that, as it imports
    them.
    """
    for name in libraries:
        importlib.import_module(f"{name}.utils.logging").disable_progress_bar()


LEVELS = {"quiet": logging.ERROR, "normal": logging.WARNING, "verbose": logging.INFO, "debug": logging.DEBUG}


def set_verbosity(level: str | int) -> None:
    """Sets how much this project prints, and how much it lets the libraries below it print.

    Args:
        level: ``"quiet"`` (errors only, no warnings, no bars of transformers and diffusers if they are imported),
            ``"normal"``, ``"verbose"`` (what it does, step by step, and warnings of other libraries), ``"debug"``, or a
            level of :mod:`logging`.

    Raises:
        ValueError: another name.

    Example:
        >>> set_verbosity("normal")
    """
    if isinstance(level, str) and level not in LEVELS:
        raise ValueError(f"level={level!r} must be one of {', '.join(LEVELS)}, or a level of logging such as 20")
    number = LEVELS[level] if isinstance(level, str) else int(level)
    for name in ("cac_align", "reward_model"):
        logging.getLogger(name).setLevel(number)
    quiet_libraries(logging.WARNING if number <= logging.INFO else logging.ERROR)
    if number >= logging.ERROR:
        for name in ("cac_align", "reward_model"):
            warnings.filterwarnings("ignore", module=rf"{name}(\.|$)")
        warnings.filterwarnings("ignore", message="the embedded mini judge is demo-scale")
        quiet_bars(*(name for name in ("transformers", "diffusers") if name in sys.modules))


def as_typed(text: str, options: Mapping[str, str]) -> str:
    """A message with arguments named as they are typed: ``num_frames=80`` becomes ``--num-frames 80``.

    Example:
        >>> as_typed("n=0 must be positive; use another output_dir", {"n": "--n", "output_dir": "--output"})
        '--n 0 must be positive; use another --output'
    """
    if not options:
        return text
    names = "|".join(map(re.escape, sorted(options, key=len, reverse=True)))
    text = re.sub(rf"(?<![-\w.])({names})=(?=[^\s=.,;)])", lambda found: f"{options[found[1]]} ", text)
    # Without a value only names that are not words of the language: output_dir, not n.
    return re.sub(rf"(?<![-\w.])({names})(?![\w=])", lambda f: options[f[1]] if "_" in f[1] else f[1], text)


# --- what went wrong --------------------------------------------------------------------------------------------------


def explain(error: BaseException, output: object = None) -> tuple[str, int]:
    """A message for the person at the terminal, and the exit code."""
    code = getattr(error, "exit_code", None)
    if isinstance(code, int):
        return str(error), code
    special = _hardware(error)
    if special:
        return special, MISUSED
    if isinstance(error, ImportError):
        return missing_line(error), MISUSED
    if isinstance(error, OSError) and error.errno is not None:
        return _system(error, output), MISUSED
    if isinstance(error, ValueError | OSError) or _ours(error):
        return str(error) or type(error).__name__, MISUSED
    kind = type(error).__name__
    where = _place(error)
    said = (str(error).strip().splitlines() or [""])[0]
    return (
        f"{kind}{': ' + said if said else ''}{where}. This is a fault of the program or of a file it did not expect; "
        f"{DEBUG_VARIABLE}=1 before the command shows the traceback for a report",
        FAULT,
    )


def _hardware(error: BaseException) -> str:
    """The line for a machine that lacks something: a GPU, memory."""
    said = str(error)
    first = (said.strip().splitlines() or [""])[0]
    if type(error).__name__ in ("OutOfMemoryError", "MemoryError") or "out of memory" in said.lower():
        return (
            f"out of memory ({first or type(error).__name__}): judge fewer videos at once (--judge-batch-size 1), draw "
            "fewer or smaller ones (--batch-size 1, --height, --width, --num-frames, --cpu-offload), or take a smaller "
            "model or dtype"
        )
    if not isinstance(error, RuntimeError | AssertionError | ValueError):
        return ""
    if "can't allocate memory" in said:
        return f"the machine has too little memory ({first}): fewer or smaller videos at once, or a smaller model"
    if re.search(r"Found no NVIDIA|not compiled with CUDA|No CUDA GPUs|CUDA driver|HIP GPUs", said):
        return f"there is no GPU that torch can use ({first}): leave the device out, or name cpu"
    if re.search(r"at start of device string|Invalid device string|invalid device ordinal", said):
        return f"no such device ({first[:200]}): name cpu, cuda, or one of several GPUs as cuda:1"
    return ""


def _system(error: OSError, output: object) -> str:
    """An error of the system with the file and what to do."""
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    place = names[-1] if names else str(output) if output is not None else ""
    said = error.strerror or str(error)
    remedy = _REMEDIES.get(error.errno or 0, "")
    return (repr(place) + ": " if place else "") + said[:1].lower() + said[1:] + (f"; {remedy}" if remedy else "")


def _ours(error: BaseException) -> bool:
    """True if a module of this project raised the error on purpose: a RuntimeError, or one of its own classes."""
    if type(error).__module__.partition(".")[0] in ("cac_align", "reward_model"):
        return True
    return type(error) is RuntimeError and "/site-packages/" not in _last_file(error)


def _last_file(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return frames[-1].filename.replace(os.sep, "/") if frames else ""


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""


def _say(text: str) -> None:
    """A line on stderr after whatever a bar has left there."""
    with contextlib.suppress(OSError, ValueError):
        print(printable(text, lines=True), file=sys.stderr, flush=True)


def _forget_stdout() -> None:
    """Python flushes stdout when it ends and would complain about the closed pipe once more."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        empty = os.open(os.devnull, os.O_WRONLY)
        os.dup2(empty, sys.stdout.fileno())
        os.close(empty)
