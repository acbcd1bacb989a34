"""The same corpus judged in every way there is, each table compared with the first, byte for byte but for the seconds.

    python benchmarks/corpus_runs.py --videos 2000 --output benchmarks/results/corpus_runs.md

Ways: one process; two processes; one process that is killed ten times; shards in reverse order; a Ray cluster of two
machines on this one, of which one is killed (where Ray is installed); ``cac-align serve``, asked by ``--server``, and
again with the server killed when a third is judged and the client at two thirds; and the model behind a chat server, at
a concurrency of eight and, killed in the middle, of three: those two with each other, as such a server's arithmetic is
its own, and their statuses with the first. Ways that are done stay done when the command is given again.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chat_server import ChatServer
from score import write_corpus, write_page

from reward_model.digests import text_digest
from reward_model.statistics.table import Table

KILLS = 10
#: Methods of :class:`Runs`; the first is what the others are compared with.
WAYS = ("one", "two", "killed", "shards", "ray", "server", "server_killed", "chat", "chat_killed")


class ServedJudge:
    """``cac-align serve`` in a process of its own, always at the same address."""

    def __init__(self, model: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.model, self.url = model, f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts it; returns when it listens."""
        command = ["-m", "cac_align", "serve", "--model", self.model, "--port", str(self.port)]
        self.process = subprocess.Popen([sys.executable, *command], env=environment(), stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.process.stdout.readline()

    def kill(self) -> None:
        """Ends it without a warning."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def __enter__(self) -> ServedJudge:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


class Runs:
    """The ways to judge a corpus.

    Args:
        folder: keeps videos and tables.
        num, num_frames, size: videos, frames of each, pixels of a side (None: as the world draws them).
        model: checkpoint folder.
        options: more for ``cac-align score``.
    """

    def __init__(
        self,
        folder: Path,
        num: int,
        model: str,
        options: Sequence[str] = (),
        num_frames: int = 81,
        size: int | None = None,
    ) -> None:
        self.folder, self.num, self.options = folder, num, list(options)
        self.manifest, self.model = write_corpus(folder, num, num_frames, size), str(Path(model).resolve())

    def command(self, name: str, *more: str, model: str | None = None) -> list[str]:
        """The command of one process that writes the table of that name."""
        given = ["score", str(self.manifest), "--model", model or self.model, "--table", str(self.table(name))]
        return ["-m", "cac_align", *given, "--quiet", "--answers", *self.options, *more]

    def table(self, name: str) -> Path:
        return self.folder / f"{name}.jsonl"

    def rows_done(self, name: str) -> int:
        """Videos that stand in the journals of a table."""
        parts = Path(f"{self.table(name)}.parts").glob("part-*.jsonl")
        return sum(path.read_bytes().count(b"\n") for path in parts)

    def run(self, command: Sequence[str]) -> None:
        """Runs a command to its end."""
        done = subprocess.run([sys.executable, *command], env=environment(), check=False, stdout=subprocess.DEVNULL)
        if done.returncode not in (0, 1):
            raise SystemExit(f"{' '.join(command)} ended with {done.returncode}")

    def run_killed(self, name: str, command: Sequence[str], kills: int, first: float | None = None) -> None:
        """Runs a command that is killed several times, each time when a further share of the videos is judged, such as
        ``first`` of them.
        """
        for k in range(kills):
            until = int(self.num * (k + 1) * (first or 1 / (kills + 1)))
            child = subprocess.Popen([sys.executable, *command], env=environment(), stdout=subprocess.DEVNULL)
            while child.poll() is None and self.rows_done(name) < until:
                time.sleep(0.02)
            child.send_signal(signal.SIGKILL)
            child.wait()
        self.run(command)

    # --- the ways -----------------------------------------------------------------------------------------------------

    def one(self) -> None:
        self.run(self.command("one"))

    def two(self) -> None:
        self.run(["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *self.command("two")])

    def killed(self) -> None:
        self.run_killed("killed", self.command("killed"), KILLS)

    def shards(self) -> None:
        for k in (3, 2, 1):
            self.run(self.command("shards", "--shard", f"{k}/3"))
        self.run(self.command("shards", "--merge"))

    def ray(self) -> None:
        """Two machines with three logical CPUs each, one gone when a third of the videos is judged."""
        import ray
        from ray.cluster_utils import Cluster

        from cac_align.cli import main

        os.environ |= environment()
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3, "include_dashboard": False})
        other = cluster.add_node(num_cpus=3)

        def kill_one() -> None:
            while self.rows_done("ray") < self.num // 3:
                time.sleep(0.1)
            cluster.remove_node(other, allow_graceful=False)

        try:
            ray.init(address=cluster.address, log_to_driver=False)
            threading.Thread(target=kill_one, daemon=True).start()
            words = self.command("ray", "--engine", "ray", "--actors", "2", "--judge-batch-size", "1")[2:]
            if main(words) not in (0, 1):
                raise SystemExit("ray: the run failed")
        finally:
            ray.shutdown()
            cluster.shutdown()

    def server(self) -> None:
        with ServedJudge(self.model) as server:
            self.run(self.command_of_server("server", server))

    def server_killed(self) -> None:
        with ServedJudge(self.model) as server:

            def kill_server() -> None:
                while self.rows_done("server_killed") < self.num // 3:
                    time.sleep(0.02)
                server.kill()
                server.start()

            threading.Thread(target=kill_server, daemon=True).start()
            self.run_killed("server_killed", self.command_of_server("server_killed", server), 1, first=2 / 3)

    def command_of_server(self, name: str, server: ServedJudge) -> list[str]:
        """As :meth:`command`, for a judge that is served."""
        given = ["score", str(self.manifest), "--server", server.url, "--table", str(self.table(name))]
        return ["-m", "cac_align", *given, "--quiet", "--answers", *self.options]

    def chat(self) -> None:
        self._chat("chat", "8", 0)

    def chat_killed(self) -> None:
        self._chat("chat_killed", "3", 1)

    def _chat(self, name: str, concurrency: str, kills: int) -> None:
        """A judge behind a server of this process, asked as its checkpoint wants to be."""
        with ChatServer(self.model) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            script = [
                __file__,
                "--client",
                server.url,
                concurrency,
                str(self.manifest),
                str(self.table(name)),
                self.model,
            ]
            self.run_killed(name, script, kills)
            server.shutdown()


def environment() -> dict[str, str]:
    """Of the processes: one thread each."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "OPENAI_API_KEY": "none"}


def chat_client(url: str, concurrency: str, manifest: str, table: str, model: str) -> None:
    """Judges a corpus by a server, asked as the checkpoint wants to be."""
    from cac_align import CaCReward
    from cac_align.corpus.job import CorpusJob, keep_rows, merge_rows
    from cac_align.corpus.judging import judge_clips
    from cac_align.corpus.sources import find_corpus

    asked = json.loads((Path(model) / "judge.json").read_text())
    asked = {name: value for name, value in asked.items() if name not in ("prompt_version", "trained_on")}
    options = {"concurrency": int(concurrency)}
    reward = CaCReward("judge", backend="openai", base_url=url, backend_options=options, **asked)
    job = CorpusJob(Path(table), find_corpus([manifest]), {"answers": True})
    for _ in keep_rows(job, judge_clips(reward, job.left(), "judge", answers=True)):
        pass
    merge_rows(job)


def plain_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a table without what a run may differ in."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def digest(path: Path) -> str:
    """Digest of a table, its seconds aside; of bytes, not of values."""
    return text_digest("\n".join(map(json.dumps, plain_rows(path))))[:16]


def compare(runs: Runs, ways: Sequence[str] = WAYS) -> Table:
    """Runs every way that is not done yet, and compares."""
    if importlib.util.find_spec("ray") is None:
        ways = [name for name in ways if name != "ray"]
    lines = []
    for name in ways:
        started = time.perf_counter()
        if not runs.table(name).is_file():
            getattr(runs, name)()
        digests = digest(runs.table(name))
        against = "chat" if name.startswith("chat") else "one"
        same = digests == digest(runs.table(against))
        statuses = [row["status"] for row in plain_rows(runs.table(name))]
        agree = sum(a == row["status"] for a, row in zip(statuses, plain_rows(runs.table("one")), strict=True))
        seconds = time.perf_counter() - started
        lines.append(
            (
                name,
                digests,
                f"{'equal to' if same else 'OTHER THAN'} {against}",
                f"{agree} of {runs.num}",
                f"{seconds:.0f} s",
            )
        )
        print(*lines[-1], sep="  ", file=sys.stderr, flush=True)
    columns = ("way", "digest", "table", "statuses as of one", "time")
    return Table(f"{runs.num} videos", columns, [lines], notes=("Byte for byte, the column of seconds aside.",))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--videos", type=int, default=2000, help="number of videos (default: 2000)")
    found.add_argument("--frames", type=int, default=81, help="frames of each (default: 81)")
    found.add_argument("--size", type=int, help="pixels of a side (default: as the world draws them)")
    found.add_argument("--model", default="assets/cac-mini", help="judge (default: assets/cac-mini)")
    found.add_argument("--folder", type=Path, default=Path("outputs/corpus-runs"), help="keeps videos and tables")
    found.add_argument("--output", type=Path, metavar="MD", help="also write the table to this file")
    found.add_argument("--fresh", action="store_true", help="forget the tables of an earlier run")
    found.add_argument("--client", nargs=5, help=argparse.SUPPRESS)
    return found


def main() -> None:
    args = parser().parse_args()
    if args.client:
        chat_client(*args.client)
        return
    if args.fresh:
        shutil.rmtree(args.folder, ignore_errors=True)
    table = compare(Runs(args.folder, args.videos, args.model, num_frames=args.frames, size=args.size))
    print(table.to_markdown())
    if args.output:
        write_page(args.output, "One corpus, judged in every way", table.to_markdown())
    if any("OTHER THAN" in row[2] for row in table.rows):
        raise SystemExit("two tables differ")


if __name__ == "__main__":
    main()
