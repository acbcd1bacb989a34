"""A reward server under load: honest clients, hostile ones beside them all the time, and ``kill -9`` in the middle.

    python benchmarks/server_load.py --output benchmarks/results/server_load.md
    python benchmarks/server_load.py --model assets/cac-mini --clients 8 --rounds 1

``cac-align serve`` runs as a process of its own; its reward answers with a number made of pixels, prompt and rate (with
``--model`` that judge, whose answers are computed here first), so that a wrong answer is known. Each honest client is a
``RemoteReward`` with videos of its own: frames, files that it sends, and files in the root that it names. Beside them
run the hostile clients of ``server_hostile.py``. The server is killed when a share of the answers is there, and started
anew on its port. At the end the server is idle again, holds nothing, and answers.

Nothing outside the root may be opened. Two watches say so: inotify on the files that nobody may see, which sees every
opening by any program; and an audit hook in the server, for every other file that Python opens and every connection
that it makes. Linux only. Exits with 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import ast
import ctypes
import http.client
import logging
import os
import platform
import re
import secrets
import signal
import socket
import statistics
import struct
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from server_honest import Honest, Job, Retries, ask_all, judged_videos, own_videos
from server_hostile import KINDS, Hostiles, Target, lay_traps

from reward_model.files import write_text
from reward_model.statistics.table import Table

HERE = Path(__file__).resolve().parent
MIB = 2**20
#: Seconds that a server may take to start.
START_S = 120.0


# --- the server -------------------------------------------------------------------------------------------------------


class Server:
    """``cac-align serve`` as a process, watched; one object for all its lives.

    Args:
        folder: for the log and the token.
        root: folder whose videos may be named.
        rewards: words of the command that say what is served.
    """

    def __init__(self, folder: Path, root: Path, rewards: Sequence[str]) -> None:
        self.root, self.rewards, self.token = root, list(rewards), secrets.token_hex(16)
        self.log, self.token_file = folder / "opened.log", folder / "token"
        self.token_file.write_text(self.token)
        self.port, self.lives = 0, 0
        self.memory: list[tuple[float, float]] = []  # MiB of each life: at its start, and the most
        self.most_files = 0
        self.opened: Counter[str] = Counter()
        self._lock = threading.Lock()

    def start(self) -> None:
        """Starts it on the port of its first life, and waits until it answers."""
        words = ["serve", *self.rewards, "--port", str(self.port), "--root", str(self.root), "--urls"]
        command = [sys.executable, str(HERE / "server_watched.py"), str(self.log), *words]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)]),
            "OMP_NUM_THREADS": "1",
        }
        command += ["--token-file", str(self.token_file)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout is not None
        found = re.search(r":(\d+);", self.process.stdout.readline())
        if found is None:
            raise SystemExit("the server did not start")
        self.port, self.lives = int(found[1]), self.lives + 1
        self._read = self.log.stat().st_size  # what it opens to start is its own
        end = time.monotonic() + START_S
        while self.get("/health") != 200:
            if time.monotonic() > end:
                raise SystemExit("the server does not answer")
            time.sleep(0.05)
        self.memory.append((self._kept("VmRSS"), self._kept("VmHWM")))

    def get(self, path: str) -> int | None:
        """Status of a page; None without an answer."""
        return self.page(path)[0]

    def page(self, path: str) -> tuple[int | None, str]:
        """Status and text of a page; None and nothing without an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {self.token}"})
            reply = connection.getresponse()
            return reply.status, reply.read().decode()
        except (OSError, http.client.HTTPException):
            return None, ""
        finally:
            connection.close()

    def look(self) -> None:
        """Notes its memory and how many files it has open."""
        with suppress(OSError, ValueError, IndexError):
            self.memory[-1] = self.memory[-1][0], max(self.memory[-1][1], self._kept("VmHWM"))
            self.most_files = max(self.most_files, len(os.listdir(f"/proc/{self.process.pid}/fd")))  # noqa: PTH208

    def _kept(self, name: str) -> float:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.split(f"{name}:")[1].split()[0]) / 1024

    def kill(self) -> None:
        """``kill -9``."""
        self.look()
        self.process.send_signal(signal.SIGKILL)
        self._gone()

    def stop(self) -> int:
        """Ctrl-C; the status it ends with."""
        self.look()
        self.process.send_signal(signal.SIGINT)
        self._gone()
        return self.process.returncode

    def _gone(self) -> None:
        self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        with self.log.open("rb") as log:
            log.seek(self._read)
            for line in log.read().decode().splitlines():
                kind, _, what = line.partition("\t")
                if kind == "connect" or not self._is_own(str(ast.literal_eval(what))):
                    self.opened[f"{kind} {what}"] += 1

    def _is_own(self, path: str) -> bool:
        """Whether a file is the root's, the program's, or one without a name of its own."""
        if not path.startswith("/"):  # below an open folder: those of the root; inotify sees the others
            return True
        temporary = tempfile.gettempdir()
        if temporary in (path, str(Path(path).parent)):  # a file without a name, where uploads are written
            return True
        own = [str(self.root), str(HERE.parent), "/dev/fd", "/dev/null", "/dev/urandom", "/proc/self", "/proc/cpuinfo"]
        own += ["/sys/devices/system/cpu", *sysconfig.get_paths().values(), sys.base_prefix]
        return any(path == place or path.startswith(place.rstrip("/") + "/") for place in own)


class Watch:
    """Openings of files, whoever opens them, by inotify.

    Args:
        files: to be watched.
    """

    _OPENED = 0x20

    def __init__(self, files: Sequence[Path]) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._number = libc.inotify_init1(os.O_NONBLOCK)
        if self._number < 0:
            raise OSError(ctypes.get_errno(), "inotify is not available")
        self._names = {libc.inotify_add_watch(self._number, os.fsencode(file), self._OPENED): file for file in files}
        if len(self._names) != len(files) or min(self._names) < 0:
            raise OSError(ctypes.get_errno(), "a file cannot be watched")

    def opened(self) -> Counter[str]:
        """How often each was opened since the last call."""
        found: Counter[str] = Counter()
        with suppress(BlockingIOError):
            while data := os.read(self._number, 65536):
                place = 0
                while place < len(data):
                    watched, mask, _, length = struct.unpack_from("iIII", data, place)
                    found["more than could be counted" if watched < 0 else self._names[watched].name] += bool(mask)
                    place += 16 + length
        return found


# --- the whole --------------------------------------------------------------------------------------------------------


@dataclass
class Load:
    """What is run, and how much of it.

    Args:
        clients: honest ones.
        rounds: how often each has all its videos scored.
        kills: how often the server is killed.
        seconds: what the reward takes for a video.
        model: a judge to serve in place of the reward with known answers.
        bomb_frames: frames of 1920x1080 in the small file of a huge video, 6 MB each once decoded.
        kinds: hostile clients.
    """

    clients: int = 50
    rounds: int = 2
    kills: int = 2
    seconds: float = 0.01
    model: str | None = None
    bomb_frames: int = 1_300
    kinds: Sequence[str] = tuple(KINDS)

    def run(self, folder: Path) -> tuple[list[Table], list[str]]:
        """The tables, and what was wrong: nothing, if the server is sound."""
        root, outside = folder / "root", folder / "outside"
        root.mkdir()
        lay_traps(root, outside, self.bomb_frames)
        jobs, rewards = self._jobs(root)
        server = Server(folder, root, rewards)
        hidden = Watch([file for file in sorted(outside.rglob("*")) if file.is_file()])
        shown = Watch(sorted(root.glob("client-*.mp4")) + sorted(root.glob("world-*.mp4")))
        honest, ended = Honest(), threading.Event()
        logger = logging.getLogger("cac_align.rewards.remote")
        handler, level = Retries(honest), logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        with socket.create_server(("127.0.0.1", 0)) as web:
            server.start()
            hidden.opened(), shown.opened()  # by this program, so far
            hostiles = Hostiles(Target(server.port, server.token, outside, web.getsockname()[1], ended), self.kinds)
            began = time.monotonic()
            try:
                hostiles.start()
                self._with_kills(server, jobs, honest)
                seconds = time.monotonic() - began
                ended.set()
                hostiles.join()
                faults = [*self._left(server), *hostiles.faults]
                if (status := server.stop()) != 0:
                    faults.append(f"the server ended with {status}")
            finally:
                ended.set()
                server.process.kill()
                logger.removeHandler(handler)
                logger.setLevel(level)
            web.setblocking(False)
            if _accepts(web):
                faults.append("the server connected to a private address")
        seen, control = hidden.opened(), shown.opened()
        asked = self.rounds * sum(map(len, jobs))
        faults += [f"wrong answer: {text}" for text in honest.wrong[:5]]
        faults += [f"{n} videos without an answer: {reason}" for reason, n in honest.unanswered.items()]
        faults += [f"outside the root: {what} ({n} times)" for what, n in (seen + server.opened).items()]
        if not control:
            faults.append("the watch saw no file of the root opened, so it is blind")
        tables = [
            self._answers(server, honest, asked, seconds, sum(seen.values()), control),
            _hostile_table(hostiles),
        ]
        return tables, faults

    def _jobs(self, root: Path) -> tuple[list[list[Job]], list[str]]:
        if self.model is not None:
            jobs = judged_videos(root, self.model, 6)
            return [jobs] * self.clients, ["--model", self.model, "--device", "cpu"]
        spec = f"[{{reward: 'server_watched:Fingerprint', options: {{seconds: {self.seconds}}}}}]"
        return [own_videos(root, k, 8) for k in range(self.clients)], ["--rewards", spec, "--max-batch", "4"]

    def _with_kills(self, server: Server, jobs: Sequence[Sequence[Job]], honest: Honest) -> None:
        """Runs the honest clients to their end; the server is killed when a further share of the answers is there."""
        url = f"http://127.0.0.1:{server.port}"
        threads = [
            threading.Thread(
                target=ask_all, args=(url, server.token, server.root, own, self.rounds, k, honest), daemon=True
            )
            for k, own in enumerate(jobs)
        ]
        for thread in threads:
            thread.start()
        asked, killed, said = self.rounds * sum(map(len, jobs)), 0, time.monotonic()
        while any(thread.is_alive() for thread in threads):
            time.sleep(0.1)
            server.look()
            if time.monotonic() > said + 10:
                said = time.monotonic()
                print(f"{honest.right:,} of {asked:,} videos answered", file=sys.stderr, flush=True)
            done = honest.right + len(honest.wrong) + sum(honest.unanswered.values())
            if killed < self.kills and done >= asked * (killed + 1) / (self.kills + 1):
                server.kill()
                server.start()
                killed += 1

    def _left(self, server: Server) -> list[str]:
        """What is wrong with a server that nobody asks any more."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            status, text = server.page("/metrics")
            if status == 200 and "waiting_videos 0\n" in text and "held_bytes 0\n" in text:
                return [] if server.get("/health") == 200 else ["the server says that it is stuck"]
            time.sleep(0.2)
        return [f"a minute after the load the server still holds something: {text[-300:]}"]

    def _answers(
        self, server: Server, honest: Honest, asked: int, seconds: float, seen: int, control: Counter[str]
    ) -> Table:
        took = statistics.quantiles(honest.seconds, n=100) if len(honest.seconds) > 1 else [0.0] * 99
        rows = [
            ("honest clients, all at once", f"{self.clients}"),
            ("requests, videos", f"{len(honest.seconds):,}, {asked:,}"),
            ("answers right, wrong, missing", f"{honest.right:,}, {len(honest.wrong)}, {honest.unanswered.total()}"),
            ("seconds, videos a second", f"{seconds:.1f}, {asked / seconds:.1f}"),
            ("seconds of a request, p50, p95, most", f"{took[49]:.2f}, {took[94]:.2f}, {max(honest.seconds):.2f}"),
            ("server killed with kill -9, started anew", f"{server.lives - 1}"),
            ("retries", f"{honest.retries.total():,}"),
            *((f"retries: {reason}", f"{n:,}") for reason, n in honest.retries.most_common()),
            (
                "server's memory in MiB at its start, at most",
                "; ".join(f"{start:.0f}, {most:.0f}" for start, most in server.memory),
            ),
            ("server's open files at most", f"{server.most_files}"),
            ("opened outside the root, by any program", f"{seen}"),
            ("opened outside the root, connections made, by Python", f"{server.opened.total()}"),
            ("opened in the root (what the watch must see)", f"{control.total():,}"),
        ]
        return Table("Honest clients and the server", ("what", "found"), [rows])


def _accepts(web: socket.socket) -> bool:
    try:
        web.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def _hostile_table(hostiles: Hostiles) -> Table:
    rows = []
    for kind, counts in hostiles.counts.items():
        refused = ", ".join(f"{name}: {n:,}" for name, n in sorted(counts.items()) if not name.startswith("WRONG"))
        wrong = sum(n for name, n in counts.items() if name.startswith("WRONG"))
        rows.append((kind, f"{KINDS[kind][1]}", f"{counts.total():,}", refused, f"{wrong}"))
    return Table(
        "Hostile clients beside them",
        ("what they send", "clients", "times", "answers by status", "wrong"),
        [rows],
        ("200 is an answer without a score: the video is broken, and the reason is told.",),
    )


def parser() -> argparse.ArgumentParser:
    """The options."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--clients", type=int, default=Load.clients)
    found.add_argument("--rounds", type=int, default=Load.rounds, help="how often each has its videos scored")
    found.add_argument("--kills", type=int, default=Load.kills)
    found.add_argument("--seconds", type=float, default=Load.seconds, help="what the reward takes for a video")
    found.add_argument("--model", help="serve this judge in place of the reward with known answers")
    found.add_argument("--output", type=Path)
    return found


def main(words: Sequence[str] | None = None) -> int:
    """Runs the load, prints its tables, and says what was wrong."""
    args = parser().parse_args(words)
    load = Load(args.clients, args.rounds, args.kills, args.seconds, args.model)
    with tempfile.TemporaryDirectory(prefix="server-load-", dir=None) as folder:
        tables, faults = load.run(Path(folder).resolve())
    given = " ".join(sys.argv[1:] if words is None else words)
    head = (
        f"# The reward server under load\n\n    python benchmarks/server_load.py {given}\n\n"
        f"Clients and server on the same {os.cpu_count()} CPU cores ({platform.machine()}, Python "
        f"{platform.python_version()}), nice {os.nice(0)}, load average {os.getloadavg()[0]:.1f} at the end; no "
        "GPU.\n\n"
    )
    verdict = "Nothing was wrong.\n" if not faults else "WRONG:\n\n" + "".join(f"- {fault}\n" for fault in faults)
    text = head + "\n".join(table.to_markdown() for table in tables) + "\n" + verdict
    if args.output is not None:
        write_text(args.output, text)
    print(text)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
