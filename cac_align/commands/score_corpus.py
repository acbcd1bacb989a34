"""``cac-align score --table``: a corpus of videos judged into one table."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cac_align.commands.judge_options import build_judge_reward, judge_defaults
from reward_model.terminal.program import printable

if TYPE_CHECKING:
    from cac_align.corpus.job import CorpusJob, Launched
    from cac_align.corpus.judging import Asked
    from cac_align.corpus.parts import Entry
    from cac_align.corpus.sources import CorpusVideo
    from cac_align.rewards.cac import CaCReward
    from cac_align.rewards.remote import RemoteReward

#: Options that say something about a table only, with what they are when they are not given.
_OF_A_TABLE = {
    "answers": False,
    "workers": None,
    "shard": None,
    "merge": False,
    "engine": "local",
    "actors": None,
    "ray_address": None,
    "server": None,
}
_WORKERS, _REQUESTS = 2, 4
#: Arguments that no row depends on, or that are settled otherwise; all others are settings of the judge.
_OF_THE_RUN = {
    *("videos", "prompt", "fps", "json", "output", "overlay", "table"),
    *(name for name in _OF_A_TABLE if name != "answers"),
    *("model", "judge_device", "judge_batch_size", "command", "run", "names", "resumes", "verbosity"),
}


def add_corpus_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of a table, in their own group."""
    group = parser.add_argument_group("corpus")
    group.add_argument(
        "--table",
        type=Path,
        metavar="FILE",
        help="write one table of all videos, as its suffix says: .parquet, .jsonl or .csv; the same command resumes",
    )
    group.add_argument("--answers", action="store_true", help="also keep what the judge wrote in both turns")
    group.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help=f"threads that decode while the judge works, or requests at a time with --server (default: {_WORKERS}, "
        f"{_REQUESTS})",
    )
    group.add_argument(
        "--shard", metavar="I/N", help="judge this share of the videos only, 1/N to N/N; then run --merge once"
    )
    group.add_argument("--merge", action="store_true", help="judge nothing, make the table of what all shards judged")
    group.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="who runs the judges: this process and those launched with it, or a Ray cluster (default: local)",
    )
    group.add_argument(
        "--actors", type=int, metavar="N", help="judges of --engine ray (default: one per GPU, or per two CPUs)"
    )
    group.add_argument(
        "--ray-address", metavar="ADDRESS", help="address of a running cluster (default: $RAY_ADDRESS, else start one)"
    )
    group.add_argument(
        "--server", metavar="URL", help="ask the judge that cac-align serve runs there; its token is $CAC_SERVE_TOKEN"
    )


def check_corpus(args: argparse.Namespace) -> None:
    """Raises ValueError for options that do not go together, before anything is read."""
    if args.table is None:
        _check_without_table(args)
        return
    from cac_align.corpus.job import Shard
    from cac_align.corpus.table_files import check_table_name
    from reward_model.files import check_output_folder

    for name in ("json", "output", "overlay"):
        if getattr(args, name):
            raise ValueError(f"--{name} prints or writes each video as it is judged; leave it out with --table")
    check_table_name(args.table, "--table")
    check_output_folder(args.table.parent, "--table")
    if args.table.exists() and any(Path(v).is_file() and args.table.samefile(v) for v in args.videos):
        raise ValueError(f"--table {str(args.table)!r} is the manifest itself; name another file")
    if args.shard is not None:
        Shard.parse(args.shard)
        if args.merge:
            raise ValueError("--merge takes the shards together; leave --shard out")
    _check_numbers(args)
    if args.server is not None:
        _check_server(args)


def _check_server(args: argparse.Namespace) -> None:
    """Raises ValueError for options that are the server's own."""
    if args.engine == "ray":
        raise ValueError("--server is asked by this process; leave --engine ray out")
    for name, unset in judge_defaults().items():
        if getattr(args, name) != unset:
            option = name.replace("judge_device", "device").replace("judge_dtype", "dtype").replace("_", "-")
            raise ValueError(f"--{option} is settled where the judge runs: give it to cac-align serve, not to --server")


def _check_without_table(args: argparse.Namespace) -> None:
    given = [name for name, unset in _OF_A_TABLE.items() if getattr(args, name) != unset]
    if given:
        raise ValueError(f"--{given[0].replace('_', '-')} is for a table; name one with --table scores.parquet")
    if args.output is not None and args.output.suffix.lower() in (".csv", ".parquet"):
        raise ValueError(f"--output {str(args.output)!r} takes lines of JSON; use --table {str(args.output)!r}")


def _check_numbers(args: argparse.Namespace) -> None:
    for name in ("workers", "actors"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} {value} must be at least 1")
    if args.engine != "ray" and (args.actors or args.ray_address):
        raise ValueError("--actors and --ray-address are for --engine ray")


def score_corpus(args: argparse.Namespace, clips: Sequence[CorpusVideo]) -> int:
    """Judges what is left of a corpus and writes its table; the exit code of the command."""
    from cac_align.corpus.job import CorpusJob, Launched, Shard, until_all_are_done

    launched = Launched.from_environment() if args.engine == "local" else Launched()
    shard = Shard.parse(args.shard) if args.shard else Shard()
    if args.merge:
        return _write(CorpusJob(args.table, clips, {}))
    if args.engine == "ray" and args.model is not None and Path(args.model).is_dir():
        args.model = str(Path(args.model).absolute())  # actors work in other folders
    _settle_device(args, launched)
    reward = build_judge_reward(args) if args.server is None else _server(args)
    job = CorpusJob(args.table, clips, _run_settings(args, reward), args.judge_batch_size or 8)
    part, parts = (shard.number - 1) * launched.num + launched.rank, shard.num * launched.num
    with until_all_are_done(launched):
        count = _judge_part(args, job, reward, part, parts)
    if launched.rank:
        return 0
    if args.shard:
        print(f"shard {args.shard}: {count} videos judged; when all shards are: the same command, --merge for --shard")
        return 0
    return _write(job)


def _server(args: argparse.Namespace) -> RemoteReward:
    """The server that the arguments name, which has answered."""
    from cac_align.rewards.remote import RemoteReward

    reward = RemoteReward(args.server)
    reward.check_ready()
    return reward


def _settle_device(args: argparse.Namespace, launched: Launched) -> None:
    """Gives each process of a launch a GPU of its own, unless the user has chosen the device."""
    if launched.num == 1 or args.backend != "local" or args.judge_device is not None or args.server is not None:
        return
    import torch

    if torch.cuda.is_available():
        args.judge_device = f"cuda:{launched.local % torch.cuda.device_count()}"


def _run_settings(args: argparse.Namespace, reward: CaCReward | RemoteReward) -> dict[str, Any]:
    """Settings that the rows of a table depend on beside video, prompt and rate."""
    from cac_align.rewards.remote import RemoteReward
    from reward_model.digests import model_fingerprint

    if isinstance(reward, RemoteReward):
        mark = f"served {reward.opened['digest']}"
    else:
        model = str(reward.model)
        mark = model_fingerprint(model)[:16] if Path(model).is_dir() else model
    said = {name: value for name, value in vars(args).items() if name not in _OF_THE_RUN}
    # What was not given counts like an option that the earlier run did not know.
    return {"model": mark, **{k: v for k, v in said.items() if isinstance(v, str | int | float) and v is not False}}


def _judge_part(
    args: argparse.Namespace, job: CorpusJob, reward: CaCReward | RemoteReward, part: int, parts: int
) -> int:
    """Judges what is left of one part; returns how many videos it was."""
    from tqdm import tqdm

    from cac_align.corpus.job import keep_rows

    blocks = job.left(part, parts)
    count = sum(map(len, blocks))
    if not blocks:
        return 0
    shown = None if int(os.environ.get("RANK", "0")) == 0 else True
    with tqdm(total=count, desc="judging", unit="video", disable=shown, leave=False) as bar:
        for rows in keep_rows(job, _entries(args, reward, blocks), part, parts):
            bar.update(len(rows))
    return count


def _entries(
    args: argparse.Namespace, reward: CaCReward | RemoteReward, blocks: Sequence[Sequence[Asked]]
) -> Iterator[list[Entry]]:
    from cac_align.corpus.judging import judge_clips, judge_clips_elsewhere
    from cac_align.corpus.ray_pool import judge_with_ray
    from cac_align.rewards.remote import RemoteReward

    if isinstance(reward, RemoteReward):
        return judge_clips_elsewhere(reward, blocks, answers=args.answers, workers=args.workers or _REQUESTS)
    name, workers = f"{reward.name}@{args.revision}" if args.revision else reward.name, args.workers or _WORKERS
    if args.engine == "local":
        return judge_clips(reward, blocks, name, answers=args.answers, workers=workers)
    more = {"actors": args.actors, "address": args.ray_address}
    return judge_with_ray(reward, blocks, name, answers=args.answers, workers=workers, **more)


def _write(job: CorpusJob) -> int:
    from cac_align.corpus.job import merge_rows

    totals = merge_rows(job)
    print(f"{printable(job.table)}: {totals}")
    if totals.unjudged is None:
        return 0
    video, error = totals.unjudged
    print(f"cac-align: {printable(video)}: {printable(error)}", file=sys.stderr)
    return 1
