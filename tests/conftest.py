"""Tiny real pipelines with random weights, verdicts made from known truth, recipes as modules, and a browser."""

from __future__ import annotations

import functools
import gc
import importlib.util
import logging
import os
import shutil
import signal
import ssl
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

# As make does: test processes with several threads each slow each other tenfold. Must be set before torch loads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell that starts the tests in the background has them ignore Ctrl-C, and all they start as well; tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import numpy as np
import pytest

from reward_model.schema import FrameRange, Turn, TurnReport, Verdict, VerdictScore, VideoAnnotation
from reward_model.video.clip import native_window, sample_indices, zoom_indices
from tests.campaigns import Scale

# Tests make and drop objects by the million; with the usual threshold of 700 they are looked through all the time.
gc.set_threshold(20_000, 10, 10)
ROOT = Path(__file__).resolve().parents[1]
UNREAD_LOGS = pytest.StashKey[Any]()
TEXT = "a red green blue ball square moves right left bounces on black gray background dog catches nothing"
WORDS = TEXT.split()


@pytest.fixture(scope="module")
def one_thread():
    """Torch computes in one thread: small models are faster so, and their numbers do not depend on the machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def certificates_read_once() -> Iterator[None]:
    """Every HTTP client reads the certificates of all authorities, 30 ms; the servers of the tests speak plain HTTP."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", functools.cache(ssl.create_default_context))
        yield


@pytest.fixture(scope="module", autouse=True)
def settled_heap() -> None:
    """Takes what is alive before a file's tests, millions of objects of torch and its like, out of later garbage
    collections. Among them a full one takes half a second, and libraries ask for many: imageio with each video.
    """
    gc.collect()
    gc.freeze()


def pytest_configure(config: pytest.Config) -> None:
    Scale.whole = "not slow" not in config.option.markexpr


class FromTheEnd(pytest.Dir):
    """A folder whose files are collected last first."""

    def collect(self) -> Iterator[pytest.Item | pytest.Collector]:
        yield from reversed([*super().collect()])


def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Dir | None:
    """All workers of a parallel run collect the same files at the same time, and on a fresh clone each would rewrite
    the asserts of all. Every other worker begins at the end, and so finds half of them rewritten by its neighbour.
    """
    odd = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw") in "13579"
    return FromTheEnd.from_parent(parent, path=path) if odd and not (path / "__init__.py").exists() else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The usual order again, which has to be the same for all workers; and logs are caught where a test reads them."""
    items.sort(key=lambda item: item.path.parts)
    if not any(config.getoption(name) for name in ("log_level", "log_cli_level", "log_file")):
        config.stash[UNREAD_LOGS] = config.pluginmanager.unregister(name="logging-plugin")
        # What pytest's handlers did too: nothing reaches the terminal, and basicConfig() leaves the root logger alone.
        logging.getLogger().addHandler(logging.NullHandler())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[Any]:
    """Gives pytest's plugin for logs to the tests that ask for ``caplog``.

    For every test it would hang two handlers on ninety loggers of torch and its like, three times, and look through a
    thousand others: a tenth of the time of ``make test``. ``--log-level=INFO`` shows the logs of every test that fails.
    """
    plugins, logs = item.config.pluginmanager, item.config.stash.get(UNREAD_LOGS, None)
    if logs is None or "caplog" not in getattr(item, "fixturenames", ()):
        return (yield)
    plugins.register(logs, "logging-plugin")
    try:
        return (yield)
    finally:
        plugins.unregister(logs)


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {w: k for k, w in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=64
    )


def _text_encoder() -> Any:
    from transformers import UMT5Config, UMT5EncoderModel

    config = UMT5Config(
        vocab_size=len(WORDS) + 3, d_model=32, d_kv=8, d_ff=37, num_layers=1, num_heads=4, is_encoder_decoder=False
    )
    return UMT5EncoderModel(config).eval()


def _wan_parts(in_channels: int, num_layers: int = 1) -> dict[str, Any]:
    import torch
    from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanTransformer3DModel

    torch.manual_seed(0)
    vae = AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=0, temperal_downsample=[False, True, True]
    )
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=in_channels,
        out_channels=16,
        text_dim=32,
        freq_dim=256,
        ffn_dim=32,
        num_layers=num_layers,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )
    return {
        "vae": vae,
        "transformer": transformer,
        "text_encoder": _text_encoder(),
        "tokenizer": _tokenizer(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
    }


def _quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def wan_pipe() -> Any:
    """A WanPipeline of a few thousand weights: 16x16 px, 5 or 9 frames."""
    from diffusers import WanPipeline

    return _quiet(WanPipeline(**_wan_parts(16)))


@pytest.fixture(scope="session")
def wan_i2v_pipe() -> Any:
    """A WanImageToVideoPipeline of the kind without an image encoder (Wan 2.2)."""
    from diffusers import WanImageToVideoPipeline

    return _quiet(WanImageToVideoPipeline(**_wan_parts(36), image_processor=None, image_encoder=None))


@pytest.fixture(scope="session")
def ltx_pipe() -> Any:
    """An LTXPipeline: another family, whose text embeddings come with attention masks."""
    import torch
    from diffusers import (
        AutoencoderKLLTXVideo,
        FlowMatchEulerDiscreteScheduler,
        LTXPipeline,
        LTXVideoTransformer3DModel,
    )

    torch.manual_seed(0)
    transformer = LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        patch_size=1,
        patch_size_t=1,
        num_attention_heads=4,
        attention_head_dim=8,
        cross_attention_dim=32,
        num_layers=1,
        caption_channels=32,
    )
    vae = AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False, False, False, False, False),
        upsample_residual=(False, False, False, False),
        upsample_factor=(1, 1, 1, 1),
        timestep_conditioning=False,
        patch_size=1,
        patch_size_t=1,
        encoder_causal=True,
        decoder_causal=False,
    )
    vae.use_framewise_encoding = vae.use_framewise_decoding = False
    parts = {"vae": vae, "transformer": transformer, "text_encoder": _text_encoder(), "tokenizer": _tokenizer()}
    return _quiet(LTXPipeline(**parts, scheduler=FlowMatchEulerDiscreteScheduler()))


@pytest.fixture(scope="session")
def judge_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real Qwen3-VL checkpoint of random weights: it answers garbage, so every verdict is a forced one."""
    from reward_model.minis.model import build_judge

    folder = tmp_path_factory.mktemp("tiny-judge")
    model, processor = build_judge("tiny")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "judge.json").write_text('{"prompts": "compact", "max_scan_tokens": 8, "max_zoom_tokens": 8}')
    return folder


@pytest.fixture(scope="session")
def verdict_of() -> Callable[..., Verdict]:
    """What a perfect judge would say: the truth of a world video as a verdict, through the judge's own frame grids."""

    def make(truth: VideoAnnotation, log_odds: float, cot: str = "The outline changes.") -> Verdict:
        score = VerdictScore(-float(np.logaddexp(0, -log_odds)), -float(np.logaddexp(0, log_odds)))
        grid = sample_indices(truth.num_frames, truth.fps, 4)
        common = {
            "score": score.p_normal,
            "readout": "direct",
            "log_odds": log_odds,
            "num_frames": truth.num_frames,
            "fps": truth.fps,
            "provenance": {"model": {"model": "truth"}, "prompts": "none"},
        }
        if not truth.anomalies:
            report = TurnReport("normal", cot)
            turn = Turn(1, tuple(grid), 4.0, '{"status": "normal"}', "normal", report, direct_score=score)
            return Verdict(status="normal", turns=(turn,), **common)
        seen = truth.anomalies[0].on_grid(grid)
        assert seen is not None
        window = native_window(seen.frames, grid, truth.num_frames)
        zoom = zoom_indices(window, truth.num_frames, truth.fps, 8, max_frames=24)
        near = truth.anomalies[0].on_grid(zoom)
        assert near is not None
        turns = (
            Turn(1, tuple(grid), 4.0, "{}", "abnormal", TurnReport("abnormal", cot, (seen,)), direct_score=score),
            Turn(2, tuple(zoom), 8.0, "{}", "abnormal", TurnReport("abnormal", cot, (near,)), direct_score=score),
        )
        frames = FrameRange(zoom[near.frames.start], zoom[near.frames.end])
        native = replace(near, frames=frames, boxes={zoom[k]: v for k, v in near.boxes.items()})
        return Verdict(status="abnormal", turns=turns, window=window, anomalies=(native,), **common)

    return make


@pytest.fixture(scope="session")
def load_recipe() -> Callable[[str], ModuleType]:
    """Gives a file of ``recipes/`` as a module of its own, by its name without ``.py``."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"{name}_recipe", ROOT / "recipes" / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's Chromium, driven by playwright; tests are skipped where either is missing."""
    playwright = pytest.importorskip("playwright.sync_api")
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium on PATH")
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()
