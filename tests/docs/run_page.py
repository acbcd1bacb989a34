"""Runs the blocks of one document in order, in the current folder: ``python run_page.py PAGE``.

Python blocks share their names. A bash block runs in a shell of its own, without its ``make`` lines: those set up
environments and run the tests, and a test only checks that their targets exist.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from documents import Block, blocks


def main(page: Path) -> None:
    """Runs all blocks that the page says can run; stops at the first that fails."""
    names: dict[str, Any] = {"__name__": "__page__"}
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for block in blocks(page):
        if block.reason is None and block.language == "python":
            print(f"--- {block}", flush=True)
            exec(compile("\n" * (block.line - 1) + block.code, str(page), "exec"), names)
        elif block.reason is None and block.language == "bash":
            print(f"--- {block}", flush=True)
            subprocess.run(["bash", "-euo", "pipefail", "-c", without_make(block)], check=True, env=environment)


def without_make(block: Block) -> str:
    """The commands of a bash block but for its ``make`` lines."""
    return "\n".join(line for line in block.code.splitlines() if not line.startswith("make "))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
