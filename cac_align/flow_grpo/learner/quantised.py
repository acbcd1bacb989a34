"""The frozen base in 8 or 4 bits: the linear weights of its blocks, which are nearly all of a Wan transformer.

Embeddings of text, time and patches, norms and the output layer stay as they are: they are a few parts in a hundred of
the weights, and what goes wrong in them goes wrong everywhere. The forward pass turns a layer's weights into the
precision of the run as it needs them; the adapter on top is float32 as ever, and only it has gradients.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from cac_align.flow_grpo.learner.lora import linear_modules
from reward_model.engine.processes import is_sharded
from reward_model.extras import need

if TYPE_CHECKING:
    from accelerate import Accelerator
    from diffusers import ModelMixin

    from cac_align.flow_grpo.training_settings import TrainingSettings

#: Package that stores each precision.
PACKAGES = {"fp8": "torchao", "int8": "torchao", "nf4": "bitsandbytes"}
#: Lowest CUDA compute capability with fp8 arithmetic: Ada (RTX 40) and Hopper.
FP8_CAPABILITY = (8, 9)
#: Bytes a weight of nf4 takes: half for itself; a byte of scale for each 64; a float for each 256 of those.
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
#: Where the layers are that are quantised.
BLOCKS = "blocks."


def block_linears(transformer: nn.Module) -> dict[str, tuple[int, int]]:
    """Outputs and inputs of the linear modules that are quantised, by name, whether they are already or not."""
    return {name: shape for name, shape in linear_modules(transformer).items() if name.startswith(BLOCKS)}


def stored_bytes(transformer: nn.Module, precision: str, scale_bytes: int) -> float:
    """Bytes of the weights that are quantised, with their scales; reckoned from their shapes.

    Args:
        transformer: on any device, meta too.
        precision: fp8, int8 or nf4.
        scale_bytes: of one number in the precision of the run, of which int8 has one for each output.
    """
    shapes = block_linears(transformer).values()
    weights = sum(outputs * inputs for outputs, inputs in shapes)
    if precision == "nf4":
        return weights * NF4_BYTES
    return weights + sum(outputs for outputs, _ in shapes) * (4 if precision == "fp8" else scale_bytes)


#: What the weights of a quantised layer are -> the setting that makes them so.
_KINDS = {"Float8Tensor": "fp8", "Int8Tensor": "int8", "Params4bit": "nf4"}


def stored_as(transformer: nn.Module) -> str | None:
    """The storage of the blocks' linear weights: fp8, int8, nf4, or the name of another type; None: unquantised."""
    for name in block_linears(transformer):
        layer: Any = transformer.get_submodule(name)
        weight = getattr(layer, "base_layer", layer).weight
        if is_quantised(weight):
            kind = type(weight).__name__
            return _KINDS.get(kind, kind) if getattr(weight, "quant_type", "nf4") == "nf4" else str(weight.quant_type)
    return None


def is_quantised(weight: torch.Tensor) -> bool:
    """True for the weight of a quantised layer, of torchao or bitsandbytes."""
    return type(weight).__module__.partition(".")[0] in ("torchao", "bitsandbytes")


def num_weights(parameter: torch.Tensor) -> int:
    """Number of weights a parameter stands for; bitsandbytes packs two into a byte."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else int(torch.Size(state.shape).numel())


def check_storage(config: TrainingSettings, device: torch.device, accelerator: Accelerator | None = None) -> None:
    """Raises ValueError where a device or a kind of training cannot keep the base as the settings say, and ImportError
    where the package for it is missing; nothing is loaded before.

    Args:
        config: settings.
        device: where the transformer computes.
        accelerator: of a training; None: videos are only drawn.
    """
    precision, sharded = config.base_precision, accelerator is not None and is_sharded(accelerator)
    if config.offload_blocks and accelerator is not None and (sharded or accelerator.num_processes > 1):
        raise ValueError(
            f"offload_blocks=True is for one process, and there are {accelerator.num_processes}; set it to false, and "
            "for weights spread over GPUs use recipes/configs/accelerate/fsdp2.yaml"
        )
    if precision is None:
        return
    if sharded:
        raise ValueError(
            f"base_precision={precision!r} does not fit FSDP2 or DeepSpeed, which spread weights that they can cut; "
            "use recipes/configs/accelerate/ddp.yaml, or set base_precision to null"
        )
    if device.type not in ("cuda", "cpu"):
        raise ValueError(
            f"base_precision={precision!r} is for CUDA, and for trials on a CPU; the device is {device.type!r}: set it "
            "to null"
        )
    if precision == "fp8" and device.type == "cuda":
        have = torch.cuda.get_device_capability(device)
        if have < FP8_CAPABILITY:
            raise ValueError(
                f"base_precision='fp8' needs compute capability {'.'.join(map(str, FP8_CAPABILITY))} (RTX 40, L4, H100 "
                f"and later), and {torch.cuda.get_device_name(device)} has {'.'.join(map(str, have))}; use int8, which "
                "is of the same size, or nf4"
            )
    need(PACKAGES[precision], f"base_precision={precision!r}")


def quantise_base(transformer: ModelMixin, precision: str | None) -> None:
    """Stores the linear weights of the blocks in 8 or 4 bits, in place, layer by layer, on the device where they are.

    A transformer that is stored so already is left alone.

    Args:
        transformer: without an adapter.
        precision: fp8, int8, nf4, or None: unquantised.

    Raises:
        ValueError: if it is quantised in another way, or has an adapter.
        ImportError: if the package is missing.
    """
    have = stored_as(transformer)
    if have == precision:
        return
    if have is not None:
        wanted = "null" if precision is None else precision
        raise ValueError(
            f"base_precision={wanted} is not how the transformer that was passed is stored ({have}); set it to that, "
            "or pass an unquantised one"
        )
    assert precision is not None
    if getattr(transformer, "peft_config", None):
        raise ValueError(f"base_precision={precision!r} comes before adapters; fuse or unload those of the transformer")
    library: Any = need(PACKAGES[precision], f"base_precision={precision!r}")
    dtype = transformer.dtype
    for name in block_linears(transformer):
        parent, _, last = name.rpartition(".")
        layer: Any = transformer.get_submodule(name)
        if precision == "nf4":
            setattr(transformer.get_submodule(parent), last, _nf4(library, layer, dtype))
        else:
            _torchao(layer, precision)
    transformer.requires_grad_(False)


def _torchao(layer: nn.Linear, precision: str) -> None:
    """Quantises the weight of one layer, a scale for each output."""
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

    # Their default changes torch.compile's settings for the whole process.
    kind = Float8WeightOnlyConfig if precision == "fp8" else Int8WeightOnlyConfig
    quantize_(layer, kind(set_inductor_config=False))


def _nf4(library: Any, layer: nn.Linear, dtype: torch.dtype) -> nn.Module:
    """A layer of bitsandbytes with the weight of ``layer``."""
    new = library.nn.Linear4bit(
        layer.in_features,
        layer.out_features,
        bias=layer.bias is not None,
        compute_dtype=dtype,
        compress_statistics=True,
        quant_type="nf4",
        device="meta",
    )
    device = layer.weight.device
    given = {"requires_grad": False, "compress_statistics": True, "quant_type": "nf4", "module": new}
    new.weight = library.nn.Params4bit(layer.weight.detach(), **given).to(device)
    new.bias = layer.bias
    # On some CPUs it would pack weights anew for calls without gradient: other numbers in sampling than in training.
    new.support_avx512bf16_for_cpu = False
    return new


def quantised_names(module: nn.Module) -> list[str]:
    """Names of the quantised parameters: equal on all processes, and nothing that DDP could broadcast."""
    return [name for name, parameter in module.named_parameters() if is_quantised(parameter)]
