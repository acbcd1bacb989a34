"""The plan: the 8B model counted to the last parameter without memory, LoRA where it belongs, arithmetic that holds."""

import resource
from dataclasses import replace

import pytest
import torch

from reward_model.config import answer_limit
from reward_model.minis.model import build_judge, build_processor
from reward_model.minis.stages import MINI
from reward_model.training.lora import PARTS, describe_trainable, lora_config, lora_modules, part_of
from reward_model.training.plan import (
    QWEN3_VL_8B_PARAMETERS,
    PlanConfig,
    forward_flops,
    make_plan,
    meta_model,
    model_config,
    print_plan,
    qwen3_vl_8b_config,
    tokens_per_frame,
)

VIT, ADAPTER, LLM = PARTS


@pytest.fixture(scope="module")
def full():
    return make_plan(PlanConfig())


@pytest.fixture(scope="module")
def lora():
    return make_plan(PlanConfig(stage="stage1", lora_r=32, steps=9_330, num_frames=1))


def test_the_8b_model_has_the_published_size_and_no_storage(full):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model = meta_model(qwen3_vl_8b_config())
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert sum(p.numel() for p in model.parameters()) == QWEN3_VL_8B_PARAMETERS
    assert all(p.device.type == "meta" for p in model.parameters())
    assert grown < 200_000  # KiB; the weights would be 17 GiB
    assert full.parameters == full.trainable == QWEN3_VL_8B_PARAMETERS


def test_counts_that_are_known_belong_to_their_own_plan(full):
    """A model is counted once for all plans: what one of them does with its counts is its own affair."""
    again = make_plan(PlanConfig(num_gpus=16))
    assert again.parts == full.parts
    again.parts.clear()
    assert make_plan(PlanConfig(num_gpus=16)).parts == full.parts


def test_parts_add_up_to_independent_counts(full):
    h, f, v = 4096, 12_288, 151_936
    layer = h * (32 + 8 + 8) * 128 + 32 * 128 * h + 3 * h * f + 2 * h + 2 * 128
    assert full.parts[LLM][0] == 36 * layer + h + 2 * v * h
    d, g = 1152, 4304
    block = 3 * d * d + 3 * d + d * d + d + 2 * d * g + g + d + 4 * d
    assert full.parts[VIT][0] == 27 * block + 3 * 2 * 16 * 16 * d + d + 2304 * d
    wide = 4 * d
    merger = wide * wide + wide + wide * h + h
    assert full.parts[ADAPTER][0] == 4 * merger + 2 * d + 3 * 2 * wide


def test_lora_reaches_all_three_parts_of_the_8b(lora):
    assert lora.lora == {VIT: 27 * 4, ADAPTER: 4 * 2, LLM: 36 * 7}
    r, h, f, kv = 32, 4096, 12_288, 1024
    llm = 36 * r * ((h + h) * 2 + (h + kv) * 2 + (h + f) * 3)
    assert lora.parts[LLM][1] == llm
    d, g, wide = 1152, 4304, 4608
    assert lora.parts[VIT][1] == 27 * r * ((d + 3 * d) + (d + d) + (d + g) * 2)
    assert lora.parts[ADAPTER][1] == 4 * r * (wide + wide + wide + h)


def test_the_same_pattern_fits_the_mini_judge():
    from peft import get_peft_model

    model = get_peft_model(build_judge("tiny")[0], lora_config(r=4))
    assert lora_modules(model) == {VIT: 3 * 4, ADAPTER: 2 * 2, LLM: 2 * 7}
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in n for n in trained)
    assert "LoRA on 12 linear layers" in describe_trainable(model)


def test_lora_on_the_language_model_alone_is_refused():
    from peft import get_peft_model

    model = get_peft_model(build_judge("tiny")[0], lora_config(r=4, targets=r".*language_model.*\.q_proj"))
    with pytest.raises(ValueError, match="LoRA reaches no module of"):
        lora_modules(model)


def test_a_foreign_module_is_not_counted_silently():
    with pytest.raises(ValueError, match="belongs to no part"):
        part_of("transformer.h.0.attn")


@pytest.mark.parametrize(("height", "width"), [(480, 832), (720, 1280), (100, 333)])
def test_tokens_per_frame_are_those_of_the_processor(height, width):
    processor = build_processor().image_processor
    side = processor.patch_size * processor.merge_size
    limits = {"min_pixels": side**2, "max_pixels": 200_000}
    processor.size = {"shortest_edge": side**2, "longest_edge": 200_000}
    counted = processor.get_number_of_image_patches(height, width, limits) // processor.merge_size**2
    sizes = {"patch": processor.patch_size, "merge": processor.merge_size}
    assert tokens_per_frame(height, width, **sizes, max_pixels=200_000) == counted


def test_forward_flops_agree_with_torchs_counter_on_a_real_forward():
    """The formula is held against every matrix product that a real tiny model runs."""
    from torch.utils.flop_counter import FlopCounterMode

    from reward_model.conversation import Message
    from reward_model.data.example import Example
    from reward_model.training.sft.trainer import AnswerCollator

    model, processor = build_judge("tiny")
    model.set_attn_implementation("eager")  # torch counts plain matrix products, not the CPU's fused attention
    side = processor.image_processor.size["longest_edge"]
    frames = torch.randint(0, 255, (6, int(side**0.5), int(side**0.5), 3), dtype=torch.uint8).numpy()
    example = Example((Message("user", (*frames, "Scan.")),), "x" * 40)
    batch = AnswerCollator(processor, lambda row: example)([{}])
    labels = batch.pop("labels")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**batch)
    merged = processor.image_processor.merge_size**2
    frame_tokens = int(batch["image_grid_thw"][0].prod()) // merged
    tokens = batch["input_ids"].shape[1]
    shape = model.config
    ours = forward_flops(shape, num_frames=6, frame_tokens=frame_tokens, tokens=tokens, answer_tokens=tokens)
    # torch counts the whole attention matrix of the LLM where the formula counts the causal half, and the patch
    # embedding, which the formula leaves out.
    text, vision = shape.text_config, shape.vision_config
    ours += 2 * tokens**2 * text.num_attention_heads * text.head_dim * text.num_hidden_layers
    patches = 6 * frame_tokens * merged
    ours += 2 * patches * 3 * 2 * vision.patch_size**2 * vision.hidden_size
    assert (labels != -100).any()
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_six_flops_per_parameter_and_token(full):
    """The rule of thumb, for the part it is meant for: the decoder body of a text-only sample."""
    shape = qwen3_vl_8b_config()
    once = forward_flops(shape, num_frames=0, frame_tokens=0, tokens=100, answer_tokens=100)
    body = full.parts[LLM][0] - 151_936 * 4096  # the embedding is a look-up
    assert once == pytest.approx(2 * body * 100, rel=0.01)


def test_memory_follows_the_layout(full, lora):
    sharded, whole = full.memory["FSDP / ZeRO-3"], full.memory["DDP"]
    states = QWEN3_VL_8B_PARAMETERS * 16 / 2**30
    assert whole["sum"] > states > 8 * sharded["optimiser"]
    assert sharded["optimiser"] * 8 == pytest.approx(whole["optimiser"])
    assert lora.memory["DDP"]["sum"] < 60 < whole["sum"]
    bare = make_plan(replace(full.config, gradient_checkpointing=False))
    assert bare.memory["DDP"]["activations"] > 3 * whole["activations"]
    assert bare.flops_per_step == pytest.approx(full.flops_per_step * 3 / 4)


def test_what_stage_three_holds_besides(full):
    """The reference is whole unless weights are sharded; caches of drawing and activations are not there at once."""
    stage = make_plan(replace(full.config, reference=True, drawn_at_once=32))
    for layout, row in stage.memory.items():
        before = full.memory[layout]
        whole = QWEN3_VL_8B_PARAMETERS * 4 / 2**30
        assert row["reference"] == pytest.approx(whole / 8 if layout == "FSDP / ZeRO-3" else whole)
        # Keys and values of 8 heads of 128 in 36 layers, in bf16.
        assert row["drawing"] == pytest.approx(32 * full.tokens * 36 * 2 * 8 * 128 * 2 / 2**30)
        assert row["drawing"] > row["activations"] == before["activations"]
        assert row["sum"] == pytest.approx(before["sum"] - row["activations"] + row["drawing"] + row["reference"])
    few = make_plan(replace(full.config, drawn_at_once=1)).memory["DDP"]
    assert few["sum"] == full.memory["DDP"]["sum"], "the backward pass needs more"
    engine = make_plan(replace(full.config, vllm_share=0.35)).memory["DDP"]
    assert engine["sum"] - full.memory["DDP"]["sum"] == pytest.approx(engine["vLLM"]) == pytest.approx(0.35 * 141)
    assert "take turns" in stage.to_text() and "take turns" not in full.to_text()


def test_hours_scale_with_steps_and_gpus_share_the_work(full):
    double = make_plan(replace(full.config, steps=14_000, num_gpus=16))
    assert double.hours[0.5] == pytest.approx(2 * full.hours[0.5])
    assert full.hours[0.2] == pytest.approx(2.5 * full.hours[0.5])


def test_the_page_says_estimate_and_counts(capsys):
    config = PlanConfig(model="mini", num_frames=21, height=32, width=32, steps=10, num_gpus=1)
    plan = print_plan(config, MINI.shape("mini"))
    text = capsys.readouterr().out
    assert text == plan.to_text()
    assert text.count("ESTIMATE") == 3
    assert f"{plan.parameters:,}" in text


def test_the_page_of_a_cpu_says_nothing_of_gpus_and_hours():
    shape = MINI.shape("tiny")
    plan = make_plan(PlanConfig(model="tiny", height=48, width=48, steps=10, per_device_batch=4, num_gpus=0), shape)
    text = plan.to_text()
    assert plan.hours == {} and "4 samples a step x 10 steps = 40 samples" in text
    assert "GPU" not in text and "TFLOP" not in text and "of peak" not in text and " h\n" not in text
    one = make_plan(replace(plan.config, num_gpus=1), shape).memory["DDP"]
    [row] = plan.memory.values()
    assert row["weights"] == pytest.approx(plan.parameters * 4 / 2**30), "float32, no copy in bf16"
    assert row["optimiser"] == one["optimiser"] and one["activations"] < row["activations"] < 2 * one["activations"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"num_gpus": -1}, "num_gpus=-1 must be a whole number of at least 0"),
        ({"num_frames": 0}, "num_frames=0 must be a whole number of at least 1"),
        ({"peak_tflops": 0}, "peak_tflops=0 must be a finite number above 0"),
        ({"utilisations": (0.5, 1.5)}, "utilisations=.* must be a list of numbers above 0 and at most 1"),
        ({"height": "480"}, "height='480' must be a whole number of at least 1"),
    ],
)
def test_a_plan_of_something_that_cannot_be_is_refused(given, said):
    with pytest.raises(ValueError, match=f"^{said}$"):
        PlanConfig(**given)


def test_an_unknown_model_is_named():
    with pytest.raises(ValueError, match="cannot plan 'gpt-nothing' offline"):
        model_config("gpt-nothing")


def test_answers_are_reckoned_at_their_limit_unless_told(full):
    assert full.tokens == 21 * full.frame_tokens + 1_200 + answer_limit(21)
    assert make_plan(replace(full.config, answer_tokens=900)).tokens == full.tokens - answer_limit(21) + 900


def test_memory_is_for_the_longest_sample_and_time_for_the_usual_one(full):
    plan = make_plan(replace(full.config, drawn_at_once=32, longest_frames=48))
    longest = 48 * full.frame_tokens + 1_200 + answer_limit(48)
    assert f"{longest:,} tokens; memory is for it" in plan.to_text() and "the longest" not in full.to_text()
    assert plan.memory["DDP"]["drawing"] == pytest.approx(32 * longest * 36 * 2 * 8 * 128 * 2 / 2**30)
    assert plan.hours == full.hours and plan.memory["DDP"]["sum"] > full.memory["DDP"]["sum"]


def test_the_plan_says_what_the_host_holds_and_what_drawing_costs(full):
    config = replace(full.config, stage="stage3", num_gpus=16, steps=250, host_copies=2, drawn_tokens=24_000)
    text = make_plan(config).to_text()
    # Two float32 copies of 8.77 G parameters in each of a node's eight processes.
    assert f"{2 * 4 * QWEN3_VL_8B_PARAMETERS * 8 / 2**30:,.0f} GiB" in text
    hours = 24_000 * 250 * 2 * QWEN3_VL_8B_PARAMETERS / 200e9 / 3600
    assert f"up to {hours:,.0f} h" in text and "use_vllm: true is recommended" in text and hours > 100
    engine = make_plan(replace(config, vllm_share=0.3)).to_text()
    assert "drawn by vLLM" in engine and "recommended" not in engine


def test_the_2b_model_is_as_large_as_it_was_published():
    from reward_model.training.shapes import QWEN3_VL_2B_PARAMETERS, qwen3_vl_config

    model = meta_model(qwen3_vl_config("2b"))
    assert sum(p.numel() for p in model.parameters()) == QWEN3_VL_2B_PARAMETERS
    assert model.config.tie_word_embeddings
