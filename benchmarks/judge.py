"""How fast the two-turn judge is, each figure beside its alternative in the same run.

    python benchmarks/judge.py --model assets/cac-mini --videos 60 --output benchmarks/results/judge.md

Compared, in alternating rounds on the same videos and weights (the ratio of medians is printed, then the spread):

1. batched judging against the plain way: the stock processor and ``generate`` for one video at a time, each verdict
   word scored by a full forward pass;
2. two turns against one;
3. the whole judgment against ``reasoning=False`` (the verdict alone).

    python benchmarks/judge.py --minutes 1 10

Instead: the memory it takes to judge a file of 480 x 832 pixels at 16 frames a second, by its length. Each length is
judged in a process of its own.

    git worktree add ../before COMMIT
    python benchmarks/judge.py --against ../before --rounds 7

Instead: this checkout's judge and that of another one, which take turns on the same videos, on the CPU, each in a
process of its own; seconds are those of the processor, which other work disturbs less.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from reward_model.backends.local import LocalBackend
from reward_model.conversation import Completion, Conversation, Sampling
from reward_model.files import write_text
from reward_model.judge import TwoTurnJudge
from reward_model.schema import VerdictScore
from reward_model.turns import WORDS
from reward_model.world import make_video
from reward_model.world.kinds import KINDS

ROOT = Path(__file__).resolve().parents[1]


class OneByOne:
    """What a user would write first: no batch, no shared vision features, no cache between the words."""

    name = "one by one"

    def __init__(self, backend: LocalBackend) -> None:
        self.inner = backend

    def generate(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Completion]:
        answers = []
        for conversation in conversations:
            inputs = self._inputs(conversation, "")
            with torch.inference_mode():
                ids = self.inner.model.generate(**inputs, max_new_tokens=sampling.max_new_tokens, do_sample=False)
            text = self.inner.processor.tokenizer.decode(
                ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
            )
            answers.append(Completion(text))
        return answers

    def score(self, conversations: Sequence[Conversation], prefixes: Sequence[str]) -> list[VerdictScore]:
        scores = []
        for conversation, prefix in zip(conversations, prefixes, strict=True):
            start = self._inputs(conversation, prefix)["input_ids"].shape[1]
            values = []
            for word in WORDS:
                inputs = self._inputs(conversation, prefix + word)
                with torch.inference_mode():
                    log_p = self.inner.model(**inputs).logits.double().log_softmax(-1)[0]
                ids = inputs["input_ids"][0]
                values.append(sum(log_p[k - 1, ids[k]].item() for k in range(start, len(ids))))
            scores.append(VerdictScore(*values))
        return scores

    def describe(self) -> dict[str, Any]:
        return self.inner.describe()

    def _inputs(self, conversation: Conversation, suffix: str) -> dict[str, Any]:
        chat = [m.to_chat() for m in conversation]
        text = self.inner.processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False) + suffix
        images = [Image.fromarray(p) for m in conversation for p in m.content if isinstance(p, np.ndarray)]
        inputs = self.inner.processor(text=[text], images=images, return_tensors="pt").to(self.inner.device)
        inputs["pixel_values"] = inputs["pixel_values"].to(self.inner.dtype)
        return inputs


def timed(job: Callable[[], Any], cuda: bool) -> tuple[float, Any]:
    """Seconds a job takes, and its result."""
    started = time.perf_counter()
    result = job()
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started, result


def write_long(path: Path, minutes: float) -> None:
    """A normal world video, enlarged to 480 x 832 pixels and played over and over, as an H.264 file."""
    import av

    frames, _ = make_video(700_001, None)
    rows, columns = np.arange(480) * frames.shape[1] // 480, np.arange(832) * frames.shape[2] // 832
    large = (av.VideoFrame.from_ndarray(frame[rows][:, columns], format="rgb24") for frame in frames)
    pictures = [picture.reformat(format="yuv420p") for picture in large]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=16, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 832, 480, "yuv420p"
        for k in range(round(minutes * 60 * 16)):
            picture = pictures[k % len(pictures)]
            picture.pts, picture.time_base = k, Fraction(1, 16)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def peak_memory() -> float:
    """Most memory this process has held so far, in MiB. ``ru_maxrss`` would count what its parent held at the start."""
    [most] = re.findall(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())
    return int(most) / 1024


def judge_file(model: str, path: str, batch_size: int) -> None:
    """Judges one file and prints the row of the table."""
    backend = LocalBackend(model, device="cpu")
    opened = peak_memory()
    seconds, (verdict,) = timed(
        lambda: TwoTurnJudge(backend, backend.config, batch_size=batch_size).judge([path], on_error="raise"), False
    )
    shown = [len(turn.frame_indices) for turn in verdict.turns if turn.number == 1]
    length = verdict.num_frames / verdict.fps / 60
    row = f"{length:g} min, {verdict.num_frames} frames | {len(shown)} | {max(shown)} | {verdict.status}"
    print(f"| {row} | {opened:.0f} MiB | {peak_memory():.0f} MiB | {seconds:.0f} s |", flush=True)


def judge_lengths(model: str, minutes: Sequence[float], batch_size: int) -> None:
    """The table of memory by length."""
    print("| video | scans | most frames of a scan | verdict | model loaded | most while judging | time |")
    print("|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for length in minutes:
            path = Path(folder) / f"{length:g}.mp4"
            write_long(path, length)
            command = [sys.executable, __file__, "--model", model, "--batch-size", str(batch_size), "--file", str(path)]
            subprocess.run(command, check=True, env=os.environ)


#: Run in a checkout's own packages: judges the frames of a file whenever it is told to, and says how long it took.
TURNS = """
import json, sys, time
import numpy as np
from reward_model.backends.local import LocalBackend
from reward_model.judge import TwoTurnJudge
model, frames, size = sys.argv[1], list(np.load(sys.argv[2])), int(sys.argv[3])
backend = LocalBackend(model, device="cpu")
judge = TwoTurnJudge(backend, backend.config, batch_size=size)
for _ in sys.stdin:
    began = time.process_time()
    verdicts = judge.judge(frames, fps=16)
    found = [[v.status, None if v.score is None else round(v.score, 6)] for v in verdicts]
    print(json.dumps([time.process_time() - began, found]), flush=True)
"""


class Checkout:
    """The judge of a checkout in a process of its own."""

    def __init__(self, folder: Path, words: Sequence[str]) -> None:
        place = {"PYTHONPATH": str(folder.resolve()), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", TURNS, *words],
            cwd=folder,  # python -c looks there first
            env={**os.environ, **place},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def turn(self) -> tuple[float, list[Any]]:
        """Seconds of processor time for all videos, and status and score of each."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        if not (line := self.process.stdout.readline()):
            raise SystemExit("a checkout's judge ended; the traceback above says why")
        seconds, found = json.loads(line)
        return seconds, found

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def judge_against(other: Path, model: str, videos: Sequence[np.ndarray], batch_size: int, rounds: int) -> None:
    """The table of two checkouts, judged in turns."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(path := Path(folder) / "frames.npy", np.stack(videos))
        words = [str(Path(model).resolve()), str(path), str(batch_size)]
        sides = {name: Checkout(place, words) for name, place in (("there", other), ("here", ROOT))}
        taken: dict[str, list[float]] = {name: [] for name in sides}
        said: dict[str, list[Any]] = {}
        for number in range(rounds + 1):
            for name, side in sides.items() if number % 2 else reversed(sides.items()):
                seconds, said[name] = side.turn()
                if number:  # the first round warms up
                    taken[name].append(seconds)
        for side in sides.values():
            side.close()
    print("| checkout | videos per second of the processor | range |\n|---|---|---|")
    for name, times in taken.items():
        rate, low, high = (len(videos) / t for t in (statistics.median(times), max(times), min(times)))
        print(f"| {name} | {rate:.2f} | {low:.2f}-{high:.2f} |")
    ratios = sorted(a / b for a, b in zip(taken["there"], taken["here"], strict=True))
    same = sum(a == b for a, b in zip(said["there"], said["here"], strict=True))
    print(
        f"\nHere as fast as there, round by round: {statistics.median(ratios):.3f} ({ratios[0]:.3f}-{ratios[-1]:.3f}). "
        f"Same status and score: {same} of {len(videos)}."
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--model", default="assets/cac-mini")
    found.add_argument("--videos", type=int, default=60, help="world videos of all kinds, half of them abnormal")
    found.add_argument("--batch-size", type=int, default=16)
    found.add_argument("--rounds", type=int, default=5)
    found.add_argument("--device", default=None)
    found.add_argument("--dtype", default=None)
    found.add_argument("--output", type=Path, default=None, help="write the table as Markdown")
    found.add_argument("--minutes", type=float, nargs="+", help="instead: memory by the length of a video, on the CPU")
    found.add_argument("--against", type=Path, metavar="CHECKOUT", help="instead: this judge and another's, in turns")
    found.add_argument("--file", default=None, help=argparse.SUPPRESS)
    return found


def main() -> None:
    args = parser().parse_args()
    if args.file:
        judge_file(args.model, args.file, args.batch_size)
        return
    if args.minutes:
        judge_lengths(args.model, args.minutes, args.batch_size)
        return

    kinds = list(KINDS)
    wanted = [None if k % 2 else kinds[k // 2 % len(kinds)] for k in range(args.videos)]
    videos = [make_video(700_000 + k, kind)[0] for k, kind in enumerate(wanted)]
    if args.against:
        judge_against(args.against, args.model, videos, args.batch_size, args.rounds)
        return
    backend = LocalBackend(args.model, device=args.device, dtype=args.dtype)

    def judge(model: Any, batch_size: int, **options: Any) -> Callable[[], Any]:
        return lambda: TwoTurnJudge(model, backend.config, batch_size=batch_size, **options).judge(videos, fps=16)

    runs = {
        "batched, two turns": judge(backend, args.batch_size),
        "one by one, two turns": judge(OneByOne(backend), 1),
        "batched, one turn": judge(backend, args.batch_size, num_turns=1),
        "batched, no reasoning": judge(backend, args.batch_size, reasoning=False, readout="direct"),
    }
    cuda = backend.device.type == "cuda"
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    answers: dict[str, Any] = {}
    for number in range(args.rounds + 1):
        for name, job in runs.items():
            spent, answers[name] = timed(job, cuda)
            if number:  # the first round warms up
                seconds[name].append(spent)
    same = sum(
        a.status == b.status
        for a, b in zip(answers["batched, two turns"], answers["one by one, two turns"], strict=True)
    )
    peak = torch.cuda.max_memory_allocated() / 2**20 if cuda else peak_memory()

    base = statistics.median(seconds["batched, two turns"])
    device = torch.cuda.get_device_name() if cuda else "CPU"
    lines = [
        "# Speed of the judge",
        "",
        f"    python benchmarks/judge.py {' '.join(sys.argv[1:])}",
        "",
        f"{device}, {torch.get_num_threads()} thread(s), torch {torch.__version__}; {args.videos} videos of "
        f"{len(videos[0])} frames, {videos[0].shape[1]} x {videos[0].shape[2]} pixels",
        "",
        "| judging | videos/s | range | time, of the batched two turns |",
        "|---|---|---|---|",
    ]
    for name, times in seconds.items():
        rate, low, high = (args.videos / t for t in (statistics.median(times), max(times), min(times)))
        lines.append(f"| {name} | {rate:.2f} | {low:.2f}-{high:.2f} | {statistics.median(times) / base:.2f} |")
    lines += ["", f"Same status batched and one by one: {same} of {args.videos}. Peak memory {peak:.0f} MiB."]
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if args.output:
        write_text(args.output, text)


if __name__ == "__main__":
    main()
