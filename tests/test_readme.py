"""The README says what is true: its code runs as printed, its links and files exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(<!-- not run: [^>]*-->\n)?```(\w+)\n(.*?)```", re.DOTALL)


def blocks(language):
    return [code for skip, kind, code in BLOCK.findall(TEXT) if kind == language and not skip]


def test_links_and_files_exist():
    targets = [t for t in re.findall(r"\]\(([^)\s]+)\)", TEXT) if not t.startswith(("http", "#"))]
    targets += re.findall(r"`((?:assets|recipes|benchmarks|reward_model|cac_align)/[\w./-]+)`", TEXT)
    assert targets and [t for t in targets if not (ROOT / t).exists()] == []
    headings = {
        re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in re.findall(r"^#+ (.*)", TEXT, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= headings


def test_commands_of_the_makefile_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert set(re.findall(r"^make (\S+)", TEXT, re.MULTILINE)) <= set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))


@pytest.mark.slow
def test_code_runs_as_printed(tmp_path):
    for name in ("assets", "recipes", "benchmarks"):
        (tmp_path / name).symlink_to(ROOT / name)
    script = "\n".join(blocks("python"))
    assert "best_of_n(" in script and ".judge(" in script
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, timeout=600)
    assert (tmp_path / "outputs/triangle/report.html").is_file()
    tool = Path(sys.executable).with_name("cac-align")
    for line in "".join(blocks("bash")).splitlines():
        command = shlex.split(line, comments=True)
        if command and command[0] == "cac-align":
            subprocess.run([tool, *command[1:]], cwd=tmp_path, check=True, timeout=600)
    assert list((tmp_path / "outputs/overlay").glob("*.mp4"))
