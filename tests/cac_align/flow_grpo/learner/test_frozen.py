"""A frozen adapter under the trained one: part of the base model everywhere, in no file of the run."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from cac_align.flow_grpo.learner.checkpoint import TrainingCheckpointError
from cac_align.flow_grpo.learner.frozen import put_frozen, read_frozen
from cac_align.flow_grpo.learner.lora import adapter_off, add_lora, lora_parameters, matching_modules
from cac_align.flow_grpo.learner.lora_convert import convert_lora
from cac_align.flow_grpo.learner.lora_files import load_lora
from tests.cac_align.flow_grpo.learner.adapters import answer, export_trained
from tests.cac_align.flow_grpo.runs import build, equal, shallow_pipe, tiny_pipe, weights
from tests.campaigns import slow_but

RVM = {"objective": "rvm", "kernel": "ode", "noise_level": None, "guidance_scale": 1.0, "batch": "1x4"}


@pytest.fixture(scope="module")
def distilled(tmp_path_factory):
    """An adapter of rank 4 and alpha 12 on attention and feed-forward, in a folder, for one block and for two."""
    folder = tmp_path_factory.mktemp("distilled")
    export_trained(folder / "one", shallow_pipe(), ["to_q", "to_v", "ffn.net.2"])
    export_trained(folder / "two", tiny_pipe())
    return folder


def frozen_weights(trainer):
    return {k: v.detach().clone() for k, v in trainer.transformer.named_parameters() if ".frozen." in k}


def test_it_is_the_model_that_load_lora_makes(distilled):
    pipe, other = shallow_pipe(), shallow_pipe()
    base = answer(pipe)
    put_frozen(pipe.transformer, read_frozen(str(distilled / "one"), pipe.transformer))
    load_lora(other, distilled / "one")
    assert torch.equal(answer(pipe), answer(other)) and not torch.equal(answer(pipe), base)
    assert not any(p.requires_grad for n, p in pipe.transformer.named_parameters() if "lora_" in n)
    found = read_frozen(str(distilled / "one"), pipe.transformer)
    assert (
        found.ranks == (4,)
        and found.num_modules == 5
        and found.num_parameters == sum(p.numel() for n, p in pipe.transformer.named_parameters() if "lora_" in n)
    )


def test_strength_and_the_original_names(distilled, tmp_path):
    """Half as strong is half the change of the first linear module; ComfyUI's names say the same."""
    convert_lora(distilled / "one", tmp_path / "comfy.safetensors", "comfyui")
    pipe = shallow_pipe()
    plain, half = (read_frozen(str(distilled / "one"), pipe.transformer, weight) for weight in (1.0, 0.5))
    comfy = read_frozen(str(tmp_path / "comfy.safetensors"), pipe.transformer)
    assert equal(plain.tensors, comfy.tensors)
    for name, value in plain.tensors.items():
        assert torch.equal(half.tensors[name], value * (0.5 if ".lora_B." in name else 1)), name


def test_the_trained_adapter_lies_on_top(distilled):
    pipe = shallow_pipe()
    names = matching_modules(pipe.transformer, ["to_q", "to_out.0"])
    put_frozen(pipe.transformer, read_frozen(str(distilled / "one"), pipe.transformer))
    under = answer(pipe)
    assert add_lora(pipe.transformer, r=2, alpha=4, targets=["to_q", "to_out.0"]) == names
    assert torch.equal(answer(pipe), under), "B is zero at first"
    trained = lora_parameters(pipe.transformer)
    assert len(trained) == 2 * len(names) and all(p.requires_grad for p in trained.values())
    assert {n for n, p in pipe.transformer.named_parameters() if p.requires_grad} == set(trained)
    with torch.no_grad():
        for parameter in trained.values():
            parameter.add_(0.3)
    on = answer(pipe)
    with adapter_off(pipe.transformer):
        assert torch.equal(answer(pipe), under) and not torch.equal(on, under)
    assert torch.equal(answer(pipe), on)
    assert {n for n, p in pipe.transformer.named_parameters() if p.requires_grad} == set(trained)
    with pytest.raises(ValueError, match="has an adapter already"):
        add_lora(pipe.transformer, r=2, alpha=4, targets=["to_q"])
    with pytest.raises(ValueError, match="must be the first adapter of the transformer, which has frozen, default"):
        put_frozen(pipe.transformer, read_frozen(str(distilled / "one"), pipe.transformer))


@pytest.mark.parametrize("beta", slow_but([0.0, 0.1], 0.1))
def test_only_the_trained_adapter_learns(distilled, tmp_path, beta):
    trainer = build(tmp_path, frozen_adapter=str(distilled / "one"), beta=beta, **RVM)
    frozen, before = frozen_weights(trainer), weights(trainer)
    assert len(frozen) == 10 and len(before) == 16
    trainer.run_step()
    trainer.run_step()
    after = weights(trainer)
    assert {k for k in before if not torch.equal(before[k], after[k])} == set(before)
    assert equal(frozen_weights(trainer), frozen)
    assert all(p.grad is None for n, p in trainer.transformer.named_parameters() if ".frozen." in n)
    on = answer(trainer.pipe)
    base = shallow_pipe()
    load_lora(base, distilled / "one")
    with adapter_off(trainer.transformer):
        assert torch.equal(answer(trainer.pipe), answer(base))
    assert torch.equal(answer(trainer.pipe), on) and not torch.equal(on, answer(base))


@pytest.mark.parametrize("objective", slow_but(["grpo", "nft"]))
def test_reference_and_old_policy_have_it(distilled, tmp_path, objective):
    """At the start nothing has moved: every policy is the few-step model, and the KL to the reference is 0."""
    other = {**RVM, "objective": "nft"} if objective == "nft" else {"batch": "1x4"}
    trainer = build(tmp_path, frozen_adapter=str(distilled / "one"), beta=0.1, **other)
    _, numbers = trainer.run_step()
    assert numbers["policy/kl"] == pytest.approx(0, abs=1e-12)
    if objective == "grpo":
        assert trainer.self_check()["floor"] == 0.0
        assert numbers["ratio/log_ratio_abs_max"] == 0.0


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")  # diffusers alone, with both adapters
def test_files_hold_the_trained_adapter_and_the_card_names_both(distilled, tmp_path):
    trainer = build(tmp_path / "run", frozen_adapter=str(distilled / "one"), max_steps=1, ema_decay=0.0, **RVM)
    trainer.train()
    parts = [load_file(f) for f in (tmp_path / "run/checkpoint-1").glob("*.safetensors") if "random" not in f.name]
    assert len(parts) == 2 and not any("frozen" in name for part in parts for name in part)
    folder = trainer.export(tmp_path / "lora")
    exported = load_file(folder / "pytorch_lora_weights.safetensors")
    assert len(exported) == len(weights(trainer)) and not any("frozen" in name for name in exported)
    card = (folder / "README.md").read_text()
    frozen = str(distilled / "one")
    assert f"on top of the frozen adapter `{frozen}` at strength 1" in card.replace("\n", " ")
    assert f'pipe.load_lora_weights("{frozen}", adapter_name="frozen")' in card and str(folder) in card
    expected = answer(trainer.pipe)
    fresh = shallow_pipe()
    load_lora(fresh, frozen)
    load_lora(fresh, folder)
    assert torch.equal(answer(fresh), expected)
    plain = shallow_pipe()  # as the card has it, with diffusers alone
    plain.load_lora_weights(frozen, adapter_name="frozen")
    plain.load_lora_weights(str(folder), adapter_name="trained")
    plain.set_adapters(["frozen", "trained"], [1.0, 1.0])
    assert torch.equal(answer(plain), expected)


@pytest.mark.slow
def test_a_stopped_run_goes_on_bit_for_bit(distilled, tmp_path):
    """From a copy of the frozen adapter elsewhere as well; with another one it is another run."""
    options = {**RVM, "beta": 0.1, "save_every": 2}
    straight = build(tmp_path / "run", frozen_adapter=str(distilled / "one"), max_steps=4, **options)
    straight.train()
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    shutil.copytree(distilled / "one", tmp_path / "moved")
    again = build(tmp_path / "run", frozen_adapter=str(tmp_path / "moved"), max_steps=4, **options)
    again.train()
    assert equal(weights(again), weights(straight)) and equal(frozen_weights(again), frozen_weights(straight))
    other = load_file(distilled / "one" / "pytorch_lora_weights.safetensors")
    save_file({k: v * 2 for k, v in other.items()}, tmp_path / "other.safetensors")
    with pytest.raises(TrainingCheckpointError, match="frozen_adapter was"):
        build(tmp_path / "run", frozen_adapter=str(tmp_path / "other.safetensors"), max_steps=5, **options).train()
    with pytest.raises(TrainingCheckpointError, match="frozen_adapter was"):
        build(tmp_path / "run", max_steps=5, **options).train()


@pytest.mark.slow
def test_a_run_without_one_opens_checkpoints_from_before_the_setting(tmp_path):
    build(tmp_path, max_steps=1, save_every=1, batch="1x4").train()
    file = tmp_path / "checkpoint-1" / "grpo_state.json"
    state = json.loads(file.read_text())
    later = ("frozen_adapter", "frozen_adapter_weight", "data_regulariser", "data_weight", "data_batch", "anchor")
    later = (*later, "anchor_disagreement")
    file.write_text(json.dumps({k: v for k, v in state.items() if k not in later}))
    again = build(tmp_path, max_steps=2, batch="1x4")
    again.train()
    assert again.step == 2


def test_another_rank_is_taken_and_another_model_refused(distilled, tmp_path):
    class Untouched:
        def __call__(self, *args, **kwargs):
            raise AssertionError("something was judged")

    trainer = build(tmp_path / "a", frozen_adapter=str(distilled / "one"), lora_r=2, **RVM)
    assert {v.shape[0] for k, v in weights(trainer).items() if "lora_A" in k} == {2}
    with pytest.raises(ValueError, match=r"is one of another model: the transformer has no linear module 'blocks\.1"):
        build(tmp_path / "b", reward=Untouched(), frozen_adapter=str(distilled / "two"), **RVM)
    narrow = {
        k: v[:, :-2].contiguous() if k.endswith("to_q.lora_A.weight") else v
        for k, v in load_file(distilled / "one" / "pytorch_lora_weights.safetensors").items()
    }
    save_file(narrow, tmp_path / "narrow.safetensors")
    with pytest.raises(ValueError, match=r"lora_A.weight has the shape \(4, 22\), this one needs \(4, 24\)"):
        build(tmp_path / "c", reward=Untouched(), frozen_adapter=str(tmp_path / "narrow.safetensors"), **RVM)
    with pytest.raises(ValueError, match=r"frozen adapter: none.safetensors \(no LoRA\)"):
        build(tmp_path / "d", reward=Untouched(), frozen_adapter="none.safetensors", **RVM)


@pytest.mark.slow
def test_gradients_pass_through_it(distilled, tmp_path):
    """The gradient of the trained adapter is that of the few-step model, not of the plain one."""
    from tests.cac_align.flow_grpo.test_trainer import gradients

    trainer = build(tmp_path / "a", frozen_adapter=str(distilled / "one"), **RVM)
    plain = build(tmp_path / "b", **RVM)
    experience = trainer.collect()
    found, other = gradients(trainer, experience), gradients(plain, experience)
    assert found.keys() == other.keys() and max(float((found[k] - other[k]).abs().max()) for k in found) > 1e-9


@pytest.mark.slow
def test_best_of_n_and_evaluation_draw_with_both(distilled, tmp_path):
    """The command's --lora twice, and the table's pipelines: each is the frozen adapter with the other one on top."""
    from types import SimpleNamespace

    from cac_align.cli import build_parser
    from cac_align.commands.best_of_n import load_any_pipeline
    from cac_align.flow_grpo.loading import drawing_pipeline
    from cac_align.table2.draws import Source, source_pipeline
    from tests.cac_align.flow_grpo.runs import settings

    frozen, model = str(distilled / "one"), str(tmp_path / "pipe")
    shallow_pipe().save_pretrained(model)
    export_trained(tmp_path / "lora", shallow_pipe(), ["to_v", "to_out.0"])
    expected = shallow_pipe()
    put_frozen(expected.transformer, read_frozen(frozen, expected.transformer))
    under = answer(expected)
    load_lora(expected, tmp_path / "lora")
    both = answer(expected)
    assert not torch.equal(both, under)
    words = ["best-of-n", "--pipe", model, "--prompt", "x", "--lora", frozen, "--lora", str(tmp_path / "lora")]
    args = build_parser().parse_args(words)
    assert torch.equal(answer(load_any_pipeline(args.pipe, "cpu", lora=args.lora)), both)
    config = settings(tmp_path, model=model, frozen_adapter=frozen)
    with drawing_pipeline(config, "cpu") as pipe:
        assert torch.equal(answer(pipe), under)
    training = SimpleNamespace(lora=tmp_path / "lora")
    with source_pipeline(config, Source("row/seed-0", 1, training), "cpu") as pipe:
        assert torch.equal(answer(pipe), both)


def test_videos_and_calibrations_of_other_adapters_are_others(distilled, tmp_path):
    from cac_align.flow_grpo.needs import bank_of
    from cac_align.table2.draws import Draws, Source
    from cac_align.table2.settings import TableSettings
    from tests.cac_align.flow_grpo.runs import settings
    from tests.cac_align.table2 import tables

    frozen = str(distilled / "two")
    tables.write_inputs(tmp_path)
    plain = Draws(TableSettings(**tables.settings(tmp_path, tmp_path / "a")))
    few = Draws(TableSettings(**tables.settings(tmp_path, tmp_path / "a", overrides={"frozen_adapter": frozen})))
    made = [draws.made_by(Source("base", 1), draws.items[0], 0) for draws in (plain, few)]
    assert "frozen_adapter" not in made[0] and {**made[0], "frozen_adapter": few.frozen} == made[1]
    banks = [bank_of(settings(tmp_path, frozen_adapter=f)) for f in (None, frozen, str(distilled / "one"))]
    assert len({json.dumps(bank, sort_keys=True) for bank in banks}) == 3 and "frozen_adapter" not in banks[0]
    gone = Draws(TableSettings(**tables.settings(tmp_path, tmp_path / "a", overrides={"frozen_adapter": "gone"})))
    with pytest.raises(ValueError, match="frozen_adapter='gone': there is no LoRA"):
        _ = gone.frozen
