"""A long file takes no more memory than a short one: frames are read and dropped chunk by chunk."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_of_a_file():
    """Two more minutes at 480 x 832 are 2,300 MB of frames; both files are too large to be kept decoded."""
    command = [sys.executable, str(ROOT / "benchmarks/judge.py"), "--minutes", "1", "3", "--batch-size", "4"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    rows = re.findall(r"^\| (\d) min, .*\| (\d+) \| (\d+) \| normal \| \d+ MiB \| (\d+) MiB", said, re.M)
    (_, few, _, short), (_, many, _, long) = rows
    assert int(many) > 2.5 * int(few) and all(int(row[2]) <= 25 for row in rows)
    assert int(long) < int(short) + 150
