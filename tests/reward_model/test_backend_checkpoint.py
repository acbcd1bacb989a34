"""Checkpoints that are absent, foreign or broken are refused in one line, before or while they load."""

import json
import shutil
import socket
import threading

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from reward_model.backends.base import BackendError, CheckpointError
from reward_model.backends.checkpoint import locate
from reward_model.backends.devices import check_precision, torch_device
from reward_model.backends.local import LocalBackend


@pytest.fixture
def copy(judge_folder, tmp_path):
    """A copy of the tiny judge that may be broken."""
    return shutil.copytree(judge_folder, tmp_path / "judge")


def rewrite(folder, change):
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: dict(list(d.items())[::2]), "missing"),
        (lambda d: {f"x.{k}": t for k, t in d.items()}, r"missing.*unknown"),
        (lambda d: {k: t for k, t in d.items() if ".layers.1." not in k}, r"missing \(.*layers\.1\."),
        (
            lambda d: {k: np.tile(t, 2) if k.endswith("norm.weight") else t for k, t in d.items()},
            "of another shape",
        ),
        (
            lambda d: {k: np.full_like(t, np.nan) if ".layers.1.mlp" in k else t for k, t in d.items()},
            r"3 of the weights .* infinite or none \(NaN\).*layers\.1\.mlp",
        ),
    ],
    ids=["every second", "renamed", "one layer", "other shapes", "not a number"],
)
def test_a_judge_without_its_weights_is_refused(copy, change, words):
    rewrite(copy, change)
    with pytest.raises(CheckpointError, match=words) as caught:
        LocalBackend(copy, device="cpu")
    assert str(copy) in str(caught.value) and "\n" not in str(caught.value)


def test_tied_weights_are_not_missing(copy):
    backend = LocalBackend(copy, device="cpu")
    assert backend.model.config.get_text_config().tie_word_embeddings
    assert "lm_head.weight" not in load_file(copy / "model.safetensors")


def test_a_cut_weight_file_is_refused(copy):
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged or was cut"):
        LocalBackend(copy, device="cpu")


def test_a_missing_shard_is_named(copy):
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"1 of the 2 weight files .*model-00002-of-00002"):
        LocalBackend(copy, device="cpu")


@pytest.mark.parametrize(
    ("part", "name", "value", "words"),
    [
        ("text_config", "num_hidden_layers", 100_000, "do not belong together"),
        ("text_config", "vocab_size", 10**9, "do not belong together"),
        ("vision_config", "hidden_size", 10**7, "do not belong together"),
        ("text_config", "num_hidden_layers", "many", "must be a whole number"),
        ("text_config", "hidden_size", -4, "must be a whole number"),
        ("text_config", "num_attention_heads", "x", "cannot load the processor"),
        (None, "model_type", "llama", "needs a Qwen3-VL"),
        (None, "model_type", "qwen2_5_vl", "backend='openai'"),
    ],
)
def test_impossible_configurations_are_refused_before_memory_is_taken(copy, part, name, value, words):
    path = copy / "config.json"
    config = json.loads(path.read_text())
    (config[part] if part else config)[name] = value
    path.write_text(json.dumps(config))
    with pytest.raises(BackendError, match=words):
        LocalBackend(copy, device="cpu")


@pytest.mark.parametrize("text", ["[1]", "{", "[" * 5000, ""])
def test_a_configuration_that_is_none(copy, text):
    (copy / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json is not the configuration"):
        LocalBackend(copy, device="cpu")


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("tokenizer.json", "{", "cannot load the processor"),
        ("chat_template.jinja", None, "no chat template"),
        ("judge.json", '{"frame_size": 20000}', "frame_size=20000"),
    ],
)
def test_broken_companions(copy, file, text, words):
    if text is None:
        (copy / file).unlink()
    else:
        (copy / file).write_text(text)
    with pytest.raises(ValueError, match=words):
        _ = LocalBackend(copy, device="cpu").config


def test_code_in_a_folder_is_not_run(copy, tmp_path, monkeypatch):
    """A folder that asks for its own classes: they are neither run nor offered at a prompt."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked whether to run foreign code"))
    (copy / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    for name, key in (("config.json", "AutoModelForImageTextToText"), ("processor_config.json", "AutoProcessor")):
        data = json.loads((copy / name).read_text())
        data["auto_map"] = {key: "own.Thing", "AutoConfig": "own.Thing"}
        (copy / name).write_text(json.dumps(data))
    with_code = LocalBackend(copy, device="cpu")
    assert type(with_code.model).__module__.startswith("transformers.")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nosuch", "there is no folder 'nosuch'"),
        ("outputs/stage3/judge", "there is no folder 'outputs/stage3/judge'"),
        ("./judge", "there is no folder './judge'"),
        ("/nowhere/judge", "there is no folder '/nowhere/judge'"),
        ("some-owner/some-model", r"HF_HUB_OFFLINE=1 forbids.*unset HF_HUB_OFFLINE.*hf download some-owner/some-model"),
        ("some owner/so,me", "not a hub id"),
    ],
)
def test_names_that_lead_nowhere(name, words, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=words):
        LocalBackend(name, device="cpu")


def test_a_hub_out_of_reach_is_tried_once(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.chdir(tmp_path)
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                asked.append(1)
                connection.close()

        threading.Thread(target=hang_up, daemon=True).start()
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        with pytest.raises(CheckpointError, match="the hub cannot be reached") as caught:
            locate("some-owner/some-model", kind="judge")
        server.shutdown(socket.SHUT_RDWR)
    assert len(asked) == 1 and "some-owner/some-model" in str(caught.value)


def test_a_parent_folder_and_an_adapter_are_told_apart(judge_folder, tmp_path):
    shutil.copytree(judge_folder, tmp_path / "judge")
    with pytest.raises(CheckpointError, match="there is one in 'judge'"):
        LocalBackend(tmp_path, device="cpu")
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="LoRA adapter"):
        LocalBackend(tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("bf16", "bfloat16"),
        ("BF16", "bfloat16"),
        ("torch.float16", "float16"),
        ("fp16", "float16"),
        ("half", "float16"),
        ("fp32", "float32"),
        ("auto", "auto"),
        (None, None),
    ],
)
def test_precisions_as_people_write_them(written, name):
    assert check_precision(written) == name


def test_precisions_and_devices_that_are_none(monkeypatch):
    import torch

    assert check_precision(torch.bfloat16) == "bfloat16"
    for wrong in ("int8", "bf-16", torch.int8, 16):
        with pytest.raises(ValueError, match=r"not a precision.*'bf16'"):
            check_precision(wrong)
    with pytest.raises(ValueError, match="use 'cuda'"):
        torch_device("gpu")
    with pytest.raises(ValueError, match="'cuda', 'cpu' or 'mps'"):
        torch_device("npux")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for cuda in ("cuda", "cuda:1", 0):
        with pytest.raises(ValueError, match=r"use device='cpu'.*nvidia-smi"):
            torch_device(cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="the last CUDA device here is 'cuda:0'"):
        torch_device("cuda:3")


def test_short_names_reach_the_model(judge_folder):
    import torch

    assert LocalBackend(judge_folder, device="cpu", dtype="bf16").model.dtype is torch.bfloat16
