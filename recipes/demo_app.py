"""A page to try the judge and best-of-n on, in a browser, with the two embedded mini models. CPU is enough.

    pip install "cac-align[demo]"
    python recipes/demo_app.py
    python recipes/demo_app.py --model outputs/stage3 --port 7861

Upload a video, or have the procedural world draw one with an anomaly of your choice: the page shows the verdict, the
suspicious window, the boxes and the reasoning. Nothing is downloaded, and uploads are deleted when the page is stopped.
As a hosted Space this file is the app: docs/how_to/demo_app.md has the folder.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward_model.extras import need
from reward_model.shipped import located
from reward_model.terminal.parser import CommandParser, names_as_typed
from reward_model.terminal.program import quiet_bars, run_program

if TYPE_CHECKING:
    from cac_align.demo.desk import DemoDesk

# One thread for the minis: more of them spend their time waiting for each other. Must be set before torch loads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

TITLE = "cac-align: find what is wrong in a generated video"
INTRO = """# Find what is wrong in a generated video
The judge scans a video for a suspicious moment, looks into it again, draws boxes around what is wrong, and only then
decides. The models of this page are demonstrations: they know drawn shapes and nothing of real footage."""
PROMPTS = ["a yellow triangle moves right on a brown background", "a blue square circles on a black background"]
VOCABULARY = """The mini generator knows: *a* red, green, blue, yellow, purple or white ball, square or triangle *that*
moves right, left, up or down, bounces or circles *on a* black, gray, brown or teal background. Best of 4 takes about
half a minute."""


def main(arguments: list[str] | None = None) -> int:
    """Loads the models and serves the page until it is stopped."""
    args = parser().parse_args(arguments)
    for name in ("model", "pipe"):
        if not Path(located(getattr(args, name))).is_dir():
            raise ValueError(f"--{name} {getattr(args, name)!r} must be a folder: this page downloads nothing")
    with tempfile.TemporaryDirectory(prefix="cac-align-demo-") as folder:
        os.environ.setdefault("GRADIO_TEMP_DIR", str(Path(folder) / "uploads"))
        os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
        gradio = need("gradio", "the demo page")
        print("Loading the generator and the judge ...", flush=True)
        desk = open_desk(Path(folder) / "answers", args.model, args.pipe)
        build_page(gradio, desk).queue(max_size=20).launch(**launch_options(gradio, args.host, args.port))
    return 0


def open_desk(folder: Path, model: str, pipe: str) -> DemoDesk:
    """The models, loaded."""
    from cac_align import CaCReward
    from cac_align.demo.desk import DemoDesk
    from cac_align.pipelines import open_pipeline

    quiet_bars("transformers", "diffusers")
    warnings.filterwarnings("ignore", message=".*demo-scale")
    generator = open_pipeline(located(pipe))
    generator.set_progress_bar_config(disable=True)
    reward = CaCReward(located(model), all_readouts=True)
    _ = reward.judge_model  # a checkpoint that does not load is said before the first visitor comes
    return DemoDesk(folder, reward, generator)


def build_page(gradio: Any, desk: DemoDesk) -> Any:
    """The page: three tabs, each with what goes in, a button, a video and the answer."""
    from cac_align.demo.desk import scene_kinds
    from cac_align.demo.uploads import MAX_CANDIDATES, MAX_MEGABYTES, MAX_PROMPT, MAX_SECONDS, MAX_SEED

    with gradio.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gradio.Markdown(INTRO)
        with gradio.Tab("Judge a video"):
            upload = gradio.Video(sources=["upload"], label=f"Video, up to {MAX_MEGABYTES} MB and {MAX_SECONDS} s")
            prompt = gradio.Textbox(label="Prompt it was made from (optional)", max_length=MAX_PROMPT)
            _answers(gradio, desk.judge_upload, [upload, prompt], "Judge")
        with gradio.Tab("Draw one"):
            kinds = [(name.replace("_", " "), name) for name in scene_kinds()]
            kind = gradio.Dropdown(kinds, value="missing_limb", label="What goes wrong")
            scene = gradio.Slider(0, 9999, value=7, step=1, label="Scene")
            _answers(gradio, desk.judge_drawn, [kind, scene], "Draw and judge")
        with gradio.Tab("Best of n"):
            gradio.Markdown(VOCABULARY)
            text = gradio.Textbox(value=PROMPTS[0], label="Prompt", max_length=MAX_PROMPT)
            number = gradio.Slider(1, MAX_CANDIDATES, value=4, step=1, label="Candidates")
            seed = gradio.Number(value=0, minimum=0, maximum=MAX_SEED, precision=0, label="Seed")
            _answers(gradio, desk.best_of, [text, number, seed], "Draw, judge, choose")
            gradio.Examples([[p] for p in PROMPTS], inputs=[text], cache_examples=False)
    return page


def _answers(gradio: Any, answer: Any, inputs: list[Any], label: str) -> None:
    """A button and what it fills; the models answer one visitor at a time."""
    button = gradio.Button(label, variant="primary")
    video = gradio.Video(label="What was found", interactive=False, height=420, autoplay=True, loop=True)
    said = gradio.HTML()

    def run(*values: Any) -> tuple[str | None, str]:
        shown = answer(*values)
        return None if shown.video is None else str(shown.video), shown.html

    button.click(run, inputs, [video, said], concurrency_id="models", concurrency_limit=1, api_visibility="private")


def launch_options(gradio: Any, host: str | None, port: int | None) -> dict[str, Any]:
    """Options of the server: fonts of the reader's system, no second server, files of the page alone."""
    from cac_align.demo.uploads import MAX_MEGABYTES

    theme = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    return {
        "server_name": host,
        "server_port": port,
        "max_file_size": MAX_MEGABYTES * 1_000_000,
        "theme": theme,
        "ssr_mode": False,
        "share": False,
        "footer_links": [],
    }


def parser() -> CommandParser:
    """The command line."""
    found = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--model", default="assets/cac-mini", help="folder of the judge (default: the embedded mini)")
    found.add_argument(
        "--pipe", default="assets/wan-mini", help="folder of a generator of 32x32 pixels (default: the embedded mini)"
    )
    found.add_argument(
        "--host", default=None, help="address to listen on (default: $GRADIO_SERVER_NAME, else this machine only)"
    )
    found.add_argument("--port", type=int, default=None, help="port (default: the first free one from 7860)")
    return found


if __name__ == "__main__":
    sys.exit(run_program(main, "demo_app", options=names_as_typed(parser())))
