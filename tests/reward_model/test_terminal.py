"""What a program does at a terminal: one line for what went wrong, an exit code, nothing that commands the terminal."""

import logging
import os
import signal
import subprocess
import sys
import time

import pytest

from reward_model.backends.base import BackendError
from reward_model.extras import need
from reward_model.terminal import program as terminal
from reward_model.terminal.program import explain, printable, run_program, set_verbosity


def ended(capsys, error, **options):
    def main():
        raise error

    code = run_program(main, "tool", alone=False, **options)
    return code, capsys.readouterr().err


class OutOfMemoryError(RuntimeError):
    """Named as torch names it."""


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ValueError("n=0 is too small"), 2, "tool: error: n=0 is too small"),
        (BackendError("no server at http://x"), 2, "no server at http://x"),
        (RuntimeError("Found no NVIDIA driver on your system."), 2, "no GPU that torch can use"),
        (AssertionError("Torch not compiled with CUDA enabled"), 2, "no GPU that torch can use"),
        (RuntimeError("Expected one of cpu, cuda device type at start of device string: gpu"), 2, "name cpu, cuda"),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), 2, "--judge-batch-size 1"),
        (MemoryError(), 2, "out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), 2, "too little memory"),
        (
            OSError(28, "No space left on device", "out/a.npz"),
            2,
            "'out/a.npz': no space left on device; free some space",
        ),
        (OSError(30, "Read-only file system", "/ro/x"), 2, "choose a folder that can be written to"),
        (NotADirectoryError(20, "Not a directory", "a/b"), 2, "a part of this path is a file"),
        (PermissionError(13, "Permission denied", "x"), 2, "change its permissions"),
        (ModuleNotFoundError("No module named 'trl'", name="trl"), 2, "pip install 'cac-align[train]'"),
        (ModuleNotFoundError("No module named 'timm'", name="timm.models"), 2, "pip install 'cac-align[vbench]'"),
        (KeyError("boxes"), 70, "KeyError: 'boxes'"),
        (KeyboardInterrupt(), 130, "tool: interrupted"),
    ],
)
def test_every_end_is_one_line_and_a_code(capsys, error, code, words):
    found, err = ended(capsys, error)
    assert found == code and words in err and len(err.splitlines()) == 1 and "Traceback" not in err


def test_a_full_disk_names_the_place_even_if_the_system_does_not(capsys):
    _, err = ended(capsys, OSError(28, "No space left on device"), output="outputs/x")
    assert "'outputs/x': no space left" in err


def test_the_traceback_is_there_for_who_wants_it(capsys, monkeypatch):
    monkeypatch.setenv(terminal.DEBUG_VARIABLE, "1")
    code, err = ended(capsys, KeyError("boxes"))
    assert code == 70 and "Traceback" in err and "KeyError" in err.splitlines()[-1]


def test_a_program_that_resumes_says_so_when_it_is_interrupted(capsys):
    assert "the same command resumes" in ended(capsys, KeyboardInterrupt(), resumes=True)[1]


def test_messages_name_options_as_they_are_typed(capsys):
    error = ValueError("num_frames=80 must be 81; use another output_dir. An n of 3 is fine, steps=4")
    _, err = ended(capsys, error, options={"num_frames": "--num-frames", "output_dir": "--output", "n": "--n"})
    assert err == "tool: error: --num-frames 80 must be 81; use another --output. An n of 3 is fine, steps=4\n"


def test_messages_cannot_command_the_terminal(capsys):
    _, err = ended(capsys, ValueError("no video at 'a\x1b[2J\u202eb\udce9'"))
    assert r"a\x1b[2J\u202eb\udce9" in err


@pytest.mark.parametrize("text", ["résumé 日本.mp4", "👩‍👧 family.mp4", "tab\tstays"])
def test_ordinary_text_stays(text):
    assert printable(text, lines=True) == text


def test_a_deliberate_runtime_error_of_the_project_is_no_fault():
    namespace: dict = {}
    exec(
        compile("def f():\n    raise RuntimeError('no video could be read')", "/x/reward_model/a.py", "exec"), namespace
    )
    with pytest.raises(RuntimeError) as caught:
        namespace["f"]()
    assert explain(caught.value) == ("no video could be read", 2)


def test_a_missing_package_names_its_pip_line():
    with pytest.raises(ImportError, match=r"a table needs the package no_such_package: pip install 'no_such_package'"):
        need("no_such_package", "a table")


def test_verbosity_is_a_switch():
    names = ("cac_align", "reward_model", *terminal.OTHERS)
    before = {name: logging.getLogger(name).level for name in names}
    try:
        set_verbosity("verbose")
        assert logging.getLogger("cac_align").level == logging.INFO
        set_verbosity("quiet")
        assert logging.getLogger("reward_model").level == logging.ERROR
        with pytest.raises(ValueError, match="quiet, normal, verbose, debug"):
            set_verbosity("loud")
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def program(body, **environment):
    start = "import sys\nfrom reward_model.terminal.program import run_program\ndef main():\n"
    code = f"{start}{body}\nsys.exit(run_program(main, 'tool'))"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONWARNINGS": "", **environment},
    )


def test_ctrl_c_ends_a_program_in_one_line():
    running = program("    print('ready', flush=True)\n    import time\n    time.sleep(60)")
    assert running.stdout.readline() == b"ready\n"
    time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=30)
    assert running.returncode == 130 and err == b"tool: interrupted\n"


def test_a_closed_pipe_is_quiet():
    running = program("    for k in range(100000):\n        print(k)")
    running.stdout.readline()
    running.stdout.close()
    assert running.stderr.read() == b"" and running.wait(timeout=30) == 141


def test_names_that_are_not_utf_8_are_printed_under_a_strict_encoding():
    running = program("    print('a\\udce9.mp4')", PYTHONIOENCODING="utf-8:strict", PYTHONUTF8="1")
    out, err = running.communicate(timeout=30)
    assert (running.returncode, out, err) == (0, b"a\\udce9.mp4\n", b"")


def test_log_messages_and_warnings_are_single_safe_lines():
    body = (
        "    import logging, warnings\n    logging.getLogger('x').warning('a\\x1b[2J')\n"
        "    warnings.warn('mind \\x07')\n    warnings.warn('old', FutureWarning)"
    )
    _, err = program(body).communicate(timeout=30)
    assert err == b"tool: a\\x1b[2J\ntool: warning: mind \\x07\n"


def test_what_is_printed_as_it_is_cannot_command_the_terminal_either():
    """A bar's own movements stay."""
    body = (
        "    print('a\\x1b[2Jb\\x07\\u202ec')\n    print('d\\x9b1m', file=sys.stderr)\n"
        "    sys.stderr.write('\\r10%\\x1b[A\\n')"
    )
    out, err = program(body, PYTHONIOENCODING="utf-8").communicate(timeout=30)
    assert out == b"a\\x1b[2Jb\\x07\\u202ec\n" and err == b"d\\x9b1m\n\r10%\x1b[A\n"
