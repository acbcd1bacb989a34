"""The folder of a run: full disks, files in the way, two processes, leftovers of a killed one; and how a run ends."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from cac_align.flow_grpo.evaluation import describe_change
from cac_align.flow_grpo.output_folder import OutputError, check_writable, clear_run_leftovers, explained, sole_use
from tests.cac_align.flow_grpo.runs import build


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(errno.ENOSPC, "full"),
            r"cannot write '/run': no space left on device; free some space there.*resumes from",
        ),
        (OSError(errno.EROFS, "ro", "/run/a"), r"cannot write '/run/a': read-only file system; set output_dir to"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "cannot write '/run': no space left"),
    ],
)
def test_a_disk_that_takes_nothing_names_file_and_remedy(error, said):
    with pytest.raises(OutputError, match=said), explained("/run"):
        raise error


def test_other_errors_stay_what_they_are():
    for error in (OSError(errno.ENOENT, "x", "y"), SafetensorError("header too large"), KeyError("k")):
        with pytest.raises(type(error)), explained("/run"):
            raise error


def test_an_output_that_is_a_file_is_refused_before_anything_loads(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match=r"cannot write '.*file': file exists; there is a file of that name"):
        check_writable(tmp_path / "file")
    with pytest.raises(OutputError, match=r"cannot write '.*run': not a directory; a part of this path is a file"):
        build(tmp_path / "file" / "run", pipe="never looked at")
    check_writable(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.slow
def test_a_full_disk_while_training_keeps_the_checkpoint(tmp_path, monkeypatch):
    from cac_align.flow_grpo.run_log import RunLog

    trainer = build(tmp_path, max_steps=2, save_every=1, batch="1x4")
    write = RunLog.numbers

    def full(self, step, values):
        if step == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, step, values)

    monkeypatch.setattr(RunLog, "numbers", full)
    with pytest.raises(OutputError, match="no space left on device; free some space"):
        trainer.train()
    monkeypatch.undo()
    again = build(tmp_path, max_steps=2, save_every=1, batch="1x4")
    again.train()
    assert again.step == 2


def test_a_second_process_is_refused(tmp_path):
    code = (
        "import sys; from cac_align.flow_grpo.output_folder import OutputError, sole_use\n"
        "try:\n    with sole_use(sys.argv[1]): print('in')\nexcept OutputError as error: print(error)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with sole_use(tmp_path):
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert f"another process (process {os.getpid()} on " in said and "set output_dir to another place" in said
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "in\n"


def test_leftovers_of_a_killed_process_are_cleared(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    mine, other = tmp_path / "text", tmp_path / "videos" / "step-00002"
    other.mkdir(parents=True)
    mine.mkdir()
    (tmp_path / "checkpoint-4.partial").mkdir()
    (tmp_path / "checkpoint-4.partial" / "lora.safetensors").write_bytes(b"x")
    dead = [
        mine / f".ab12.{gone.pid}.safetensors",
        other / f".group-0-best.{gone.pid}.mp4",
        tmp_path / f".metrics.{os.getpid()}.jsonl",
        mine / f".cd34.0a1b2c-{gone.pid}.safetensors",
    ]
    kept = [mine / "ab12.safetensors", tmp_path / f".alive.{os.getppid()}.txt", tmp_path / ".hidden", mine / ".v1.5"]
    for path in (*dead, *kept):
        path.write_bytes(b"x")
    assert clear_run_leftovers(tmp_path, older_than_s=3600) == 1, "files that others may be writing stay"
    assert clear_run_leftovers(tmp_path) >= len(dead)
    assert not any(p.exists() for p in dead) and all(p.exists() for p in kept)
    assert not (tmp_path / "checkpoint-4.partial").exists()


def change(base, last):
    mean = lambda values: sum(v for v in values if v is not None) / max(1, sum(v is not None for v in values))  # noqa: E731
    history = [{"step": 0, "reward": mean(base)}, {"step": 4, "reward": mean(last)}]
    return describe_change(history, {"base": base, "last": last})


def test_what_a_few_prompts_can_tell():
    """Four prompts cannot: the smallest p of a sign-flip test is 1/8. Eight that all rise can, and falling is said."""
    assert "noise at 4 prompts" in change([0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.9])
    low, high = [0.1 * k for k in range(8)], [0.1 * k + 0.2 + 0.01 * k for k in range(8)]
    rose = change(low, high)
    assert rose.endswith("the reward rose.") and "Difference +0.2350 over 8 prompts, 95 % interval +0.2" in rose
    assert change(high, low).endswith("the reward FELL.")
    assert "over 3 prompts" in change([0.1, None, 0.3, 0.4], [0.2, 0.3, 0.4, 0.5]), "only pairs are compared"
    assert "tells nothing" in change([0.1], [0.2])
    assert describe_change([], {}).startswith("No two evaluations to compare: set eval_prompts")


def test_nothing_of_it_needs_the_folder_to_be_new(tmp_path):
    with sole_use(tmp_path), pytest.raises(OutputError):
        raise OutputError("inside")
    with sole_use(Path(tmp_path)):
        pass
