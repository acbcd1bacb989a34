"""Videos a second of ``cac-align score --table`` beside a plain loop over ``judge``, in one run, and its memory.

    python benchmarks/score.py --videos 400 --rounds 3 --output benchmarks/results/score.md

Compared, in alternating rounds on the same files and weights, each a process (or two) of its own from the command to
the last row, loading included: a loop that calls ``CaCReward().judge(path, prompt)`` for one file after the other and
writes a line for each; the table by one process; the table by two. The verdicts have to be the same in all of them.
Memory is that of the largest process, in the first and in the second half of the run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from reward_model.files import write_text
from reward_model.statistics.table import Table
from reward_model.video.writing import write_mp4
from reward_model.world import make_video
from reward_model.world.kinds import KINDS

#: First of the seeds of the videos.
SEED = 860_000


class Timed(NamedTuple):
    """How long a run took, and the memory of its largest process in MiB in either half."""

    seconds: float
    first_half: float
    second_half: float


def write_corpus(folder: Path, num: int, num_frames: int = 81, size: int | None = None) -> Path:
    """World videos, every other one abnormal, and their manifest; files that are there stay.

    Args:
        folder: for ``clips`` and ``manifest.jsonl``.
        num: number of videos.
        num_frames: frames of each.
        size: pixels of a side; None: as the world draws them.
    """
    kinds, rows = list(KINDS), []
    for k in range(num):
        path = folder / "clips" / f"{k:05d}.mp4"
        kind = kinds[k // 2 % len(kinds)] if k % 2 else None
        if not path.is_file():
            frames, _ = make_video(SEED + k, kind, num_frames=num_frames, **({} if size is None else {"size": size}))
            write_mp4(path, frames, 16)
        rows.append({"video": f"clips/{k:05d}.mp4", "kind": kind, "number": k})
    manifest = folder / "manifest.jsonl"
    write_text(manifest, "".join(json.dumps(row) + "\n" for row in rows))
    return manifest


def plain_loop(manifest: Path, model: str, output: Path) -> None:
    """What a user would write first."""
    from cac_align import CaCReward

    reward = CaCReward(model)
    with output.open("w") as file:
        for line in manifest.read_text().splitlines():
            verdict = reward.judge(manifest.parent / json.loads(line)["video"])
            file.write(json.dumps({"status": verdict.status, "score": verdict.score}) + "\n")
            file.flush()


def timed_run(command: Sequence[str]) -> Timed:
    """Runs a command, watching it and the processes it starts."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    samples: list[tuple[float, float]] = []
    started = time.perf_counter()
    child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)

    def watch() -> None:
        while child.poll() is None:
            samples.append((time.perf_counter() - started, max(map(_resident, _tree(child.pid)), default=0.0)))
            time.sleep(0.5)

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = child.wait()
    seconds = time.perf_counter() - started
    watcher.join()
    if code:
        raise SystemExit(f"{' '.join(command)} ended with {code}")
    halves = [[m for t, m in samples if (t > seconds / 2) is late] for late in (False, True)]
    return Timed(seconds, *(max(half, default=0.0) for half in halves))


def _tree(process: int) -> list[int]:
    """A process and all that it started."""
    try:
        threads = list(Path(f"/proc/{process}/task").iterdir())
        children = [int(c) for t in threads for c in (t / "children").read_text().split()]
    except OSError:
        return [process]
    return [process, *(p for child in children for p in _tree(child))]


def _resident(process: int) -> float:
    """Memory of a process in MiB."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (OSError, IndexError):
        return 0.0


def verdicts(path: Path) -> list[tuple[Any, Any]]:
    """Status and score of each line of a loop or a table."""
    return [(row["status"], row["score"]) for row in map(json.loads, path.read_text().splitlines())]


def contestants(manifest: Path, model: str, folder: Path) -> dict[str, tuple[list[str], Path]]:
    """Command and output of each way."""
    python, score = sys.executable, ["-m", "cac_align", "score", str(manifest), "--model", model, "--quiet", "--table"]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    loop, one, two = (folder / f"{name}.jsonl" for name in ("loop", "one", "two"))
    return {
        "plain loop over judge": ([python, __file__, "--loop", str(manifest), str(loop), "--model", model], loop),
        "table, one process": ([python, *score, str(one)], one),
        "table, two processes": ([python, *launch, *score, str(two)], two),
    }


def compare(num: int, rounds: int, model: str) -> Table:
    """The table of all ways."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        manifest = write_corpus(folder, num)
        ways = contestants(manifest, model, folder)
        runs: dict[str, list[Timed]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, (command, output) in ways.items():
                for old in folder.glob(f"{output.name}*"):
                    subprocess.run(["rm", "-r", str(old)], check=True)
                runs[name].append(timed_run(command))
                print(f"{name}: {runs[name][-1].seconds:.1f} s", file=sys.stderr, flush=True)
        found = [verdicts(output) for _, output in ways.values()]
        same = all(f == found[0] for f in found)
    medians = {name: statistics.median(t.seconds for t in timed) for name, timed in runs.items()}
    plain = medians["plain loop over judge"]
    rows = [
        (
            name,
            f"{num / medians[name]:.2f}",
            f"{plain / medians[name]:.2f}",
            " - ".join(f"{edge([t.seconds for t in timed]):.1f}" for edge in (min, max)),
            f"{max(t.first_half for t in timed):.0f} / {max(t.second_half for t in timed):.0f}",
        )
        for name, timed in runs.items()
    ]
    columns = ("way", "videos/s", "times the loop", "seconds", "MiB, first / second half")
    facts = f"{num} videos, {rounds} rounds, {model}, {os.cpu_count()} cores, one thread each"
    equal = "the same status and score in every row" if same else "VERDICTS DIFFER"
    return Table("A corpus", columns, [rows], notes=(f"{facts}; {equal}.",))


def write_page(path: Path, title: str, text: str) -> None:
    """A result below its title and the command that made it."""
    write_text(path, f"# {title}\n\n`python {' '.join(sys.argv)}`\n\n{text}")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--videos", type=int, default=200, help="number of videos (default: 200)")
    found.add_argument("--rounds", type=int, default=3, help="rounds, of which the median counts (default: 3)")
    found.add_argument("--model", default="assets/cac-mini", help="judge (default: assets/cac-mini)")
    found.add_argument("--output", type=Path, metavar="MD", help="also write the table to this file")
    found.add_argument("--loop", nargs=2, metavar=("MANIFEST", "JSONL"), help=argparse.SUPPRESS)
    return found


def main() -> None:
    args = parser().parse_args()
    if args.loop:
        plain_loop(Path(args.loop[0]), args.model, Path(args.loop[1]))
        return
    text = compare(args.videos, args.rounds, args.model).to_markdown()
    print(text)
    if args.output:
        write_page(args.output, "Speed of cac-align score", text)


if __name__ == "__main__":
    main()
