"""How good is a judge? Measures one on held-out procedural videos whose truth is exact, with 95 % intervals.

    python recipes/evaluate_reward.py --model assets/cac-mini --videos 400 --output outputs/evaluation
    python recipes/evaluate_reward.py --model my-org/cac-8b --backend openai --base-url http://judge:8000/v1

Prints the table and writes evaluation.md and evaluation.json (which also holds one row per video). The 400 videos take
the mini judge a few minutes on two CPU cores. The world is what the mini judges were trained on, with other seeds;
a judge of real footage is measured here on an easy and unfamiliar subject.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path


def main() -> int:
    """Judges the bench and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default=None, help="folder, hub id or served name (default: the embedded mini judge)"
    )
    parser.add_argument("--backend", choices=("local", "openai", "replay"), default="local")
    parser.add_argument("--base-url", default=None, help="of the server, for --backend openai")
    parser.add_argument("--device", default=None, help="of the local model (default: CUDA if there is any)")
    parser.add_argument(
        "--readout", choices=("direct", "paper", "log_odds"), default="direct", help="what the score is"
    )
    parser.add_argument("--videos", type=int, default=400, help="even; half of them normal")
    parser.add_argument(
        "--seed", type=int, default=500_000, help="of the first video; training uses those below 100000"
    )
    parser.add_argument("--kinds", nargs="*", default=None, help="anomalies (default: all of the world)")
    parser.add_argument("--size", type=int, default=32, help="height and width of the videos in pixels")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--no-reasoning", action="store_true", help="verdicts without chain of thought")
    parser.add_argument("--output", type=Path, default=Path("outputs/evaluation"))
    args = parser.parse_args()

    from cac_align import CaCReward
    from cac_align.files import write_json, write_text
    from reward_model.backends.base import BackendError
    from reward_model.evaluation import WorldBench, evaluate
    from reward_model.world import KINDS

    warnings.filterwarnings("ignore", message="the embedded mini judge is demo-scale")
    try:
        bench = WorldBench(args.videos, args.seed, tuple(args.kinds or KINDS), args.size)
        reward = CaCReward(
            args.model,
            backend=args.backend,
            base_url=args.base_url,
            device=args.device,
            readout=args.readout,
            reasoning=False if args.no_reasoning else None,
            batch_size=args.batch_size,
            all_readouts=not args.no_reasoning,
        )
        reward.judge_model  # noqa: B018  loads here, so that the time per video is that of judging
        result = evaluate(reward, bench, batch_size=args.batch_size)
    except (ValueError, BackendError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    text = f"# {reward.name} on {args.videos} procedural videos\n\n{result.to_markdown()}"
    write_json(args.output / "evaluation.json", result.to_dict())
    write_text(args.output / "evaluation.md", text)
    print(f"\n{text}\nwritten: {args.output / 'evaluation.md'}, {args.output / 'evaluation.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
