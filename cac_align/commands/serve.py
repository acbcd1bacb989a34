"""``cac-align serve``: any reward over HTTP, for trainings and people on other machines."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cac_align.commands.judge_options import add_judge_arguments, build_judge_reward
from reward_model.extras import need

if TYPE_CHECKING:
    from cac_align.rewards.base import Reward
    from reward_model.backends.secret import Secret

NAME, HELP = "serve", "Serve a reward over HTTP, so that trainings on other machines can ask it."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rewards",
        metavar="YAML",
        help="rewards as a settings file names them: a file with a list 'rewards', or the list itself, such as "
        "'[cac, motion]' (default: the judge of the options below)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine)")
    parser.add_argument("--port", type=int, default=8809, help="port; 0 takes any free one (default: 8809)")
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="name by which clients reach this machine"
    )
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="file with the token clients must bring (default: $CAC_SERVE_TOKEN)",
    )
    parser.add_argument("--root", type=Path, metavar="DIR", help="folder whose videos may be named by path")
    parser.add_argument("--urls", action="store_true", help="fetch videos from URLs at public addresses")
    group = parser.add_argument_group("limits")
    group.add_argument("--max-body", type=int, default=512, metavar="MIB", help="largest request in MiB (default: 512)")
    group.add_argument(
        "--max-waiting", type=int, default=256, metavar="N", help="videos that may wait, more get 503 (default: 256)"
    )
    group.add_argument(
        "--max-batch",
        type=int,
        metavar="N",
        help="videos of all clients judged in one call (default: 8 on a GPU, else 1, which keeps last digits apart)",
    )
    group.add_argument("--timeout", type=float, default=600.0, metavar="S", help="seconds to an answer (default: 600)")
    add_judge_arguments(parser)


def run(args: argparse.Namespace) -> int:
    need("fastapi", "cac-align serve")
    need("uvicorn", "cac-align serve")
    from cac_align.rewards.base import make_ready, reward_name
    from cac_align.serving.app import serving_app
    from cac_align.serving.listening import bound_socket, listen

    settings = _settings(args)
    if settings.max_batch == 1 and args.backend == "local" and args.judge_batch_size is None:
        args.judge_batch_size = 1  # neither the parts of a long video: an answer depends on its video alone
    reward = _reward(args)
    app = serving_app(reward, settings)
    listener = bound_socket(args.host, args.port)  # before the model loads, which takes minutes
    try:
        make_ready(reward)
        host, port = listener.getsockname()[:2]
        print(
            f"{reward_name(reward)} at http://{f'[{host}]' if ':' in host else host}:{port}; Ctrl-C stops", flush=True
        )
        listen(app, listener)
    except KeyboardInterrupt:
        pass
    finally:
        listener.close()
    print("stopped", flush=True)
    return 0


def _settings(args: argparse.Namespace) -> Any:
    from cac_align.serving.settings import MIB, OWN_NAMES, ServeSettings

    token = _token(args.token_file)
    if args.host not in OWN_NAMES and token is None:
        raise ValueError(
            f"--host {args.host} is reached from other machines, so clients must bring a token: set $CAC_SERVE_TOKEN "
            "or pass --token-file, with what openssl rand -hex 32 prints"
        )
    if args.max_body < 1:
        raise ValueError(f"--max-body {args.max_body} must be at least 1 MiB")
    return ServeSettings(
        root=args.root,
        token=token,
        hosts=frozenset({name.lower() for name in (args.host, *args.allow_host)} - {"0.0.0.0", "::"}),
        urls=args.urls,
        max_body=args.max_body * MIB,
        max_bytes=4 * args.max_body * MIB,
        max_waiting=args.max_waiting,
        max_batch=args.max_batch if args.max_batch is not None else _batch(),
        timeout_s=args.timeout,
    )


def _token(path: Path | None) -> Secret | None:
    from cac_align.rewards.remote import TOKEN_VARIABLE
    from reward_model.backends.secret import Secret

    if path is None:
        value = os.environ.get(TOKEN_VARIABLE, "").strip()
        return Secret.of(value) if value else None
    try:
        value = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--token-file {path}: {error}") from None
    if not value:
        raise ValueError(f"--token-file {path} is empty; write a token into it: openssl rand -hex 32")
    return Secret.of(value)


def _batch() -> int:
    import torch

    return 8 if torch.cuda.is_available() else 1


def _reward(args: argparse.Namespace) -> Reward:
    if args.rewards is None:
        return build_judge_reward(args)
    if args.model is not None:
        raise ValueError("--rewards and --model both say what is served; give one of them")
    from cac_align.flow_grpo.judging.reward_specs import build_reward
    from cac_align.rewards.base import check_reward

    reward = build_reward(_entries(args.rewards))
    check_reward(reward)
    return reward


def _entries(given: str) -> Any:
    """The list of rewards that a text or a file holds."""
    import yaml

    path = Path(given)
    inline = re.match(r"\s*[\[{]", given) is not None
    try:
        found = yaml.safe_load(given if inline else path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--rewards {given}: {error}; give a YAML file, or a list such as '[cac, motion]'") from None
    except yaml.YAMLError:
        raise ValueError("--rewards is not YAML; give a file, or a list such as '[cac, motion]'") from None
    return found.get("rewards") if isinstance(found, dict) and "rewards" in found else found
