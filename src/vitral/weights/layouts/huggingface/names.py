"""Names of tensors in Hugging Face's Vision Transformers.

Files on the hub, old and new, have one set of names. Programs that store a state dict
themselves write those of transformers 5 in memory, which are read too.
"""

from dataclasses import dataclass
from typing import Literal

from vitral.models import DeiTConfig, ModelConfig, ViTConfig
from vitral.weights.files import TensorFile
from vitral.weights.mapping import TensorMapping, concat, copy, copy_layer

Generation = Literal["hub", "memory"]

STEM = "embeddings.patch_embeddings.projection.weight"
PREFIXES = ("", "vit.", "deit.", "ijepa.", "dinov2.", "dinov2_with_registers.")
"""Prefixes of the names: none for a bare model, its type under a head."""


@dataclass(frozen=True, slots=True)
class BlockNames:
    """Foreign names of a block and its parts."""

    block: str
    norms: tuple[str, str]
    qkv: tuple[str, ...]
    proj: str
    fc1: tuple[str, ...]
    fc2: str


def mappings(
    config: ViTConfig,
    generation: Generation = "hub",
    prefix: str | None = None,
    block_prefix: str | None = None,
) -> list[TensorMapping]:
    """Return the mapping of every tensor of a model.

    Args:
        prefix: prefix of the names; None for the one that is written.
        block_prefix: that of the blocks' names; None for the same.
    """
    name_prefix = written_prefix(config) if prefix is None else prefix
    rules = [
        *copy_layer("patch_embed.proj", f"{name_prefix}{STEM.removesuffix('.weight')}"),
        copy("pos_embed", f"{name_prefix}embeddings.position_embeddings"),
    ]
    if config.class_token:
        rules.append(copy("cls_token", f"{name_prefix}embeddings.cls_token"))
    if isinstance(config, DeiTConfig):
        rules.append(copy("dist_token", f"{name_prefix}embeddings.distillation_token"))
    if config.reg_tokens:
        rules.append(copy("reg_token", f"{name_prefix}embeddings.register_tokens"))
    for index in range(config.depth):
        outer = name_prefix if block_prefix is None else block_prefix
        rules += _block(config, generation, outer, index)
    rules += copy_layer("norm", f"{name_prefix}layernorm")
    if config.representation_size:
        rules += copy_layer("pre_logits.fc", f"{name_prefix}pooler.dense")
    if config.num_classes:
        two = isinstance(config, DeiTConfig) and config.distillation_head
        rules += copy_layer("head", "cls_classifier" if two else "classifier")
        if two:
            rules += copy_layer("head_dist", "distillation_classifier")
    return rules


def model_type(config: ModelConfig) -> str:
    """Return Hugging Face's `model_type`."""
    if isinstance(config, DeiTConfig):
        return "deit"
    if isinstance(config, ViTConfig) and config.init_values is not None:
        return "dinov2_with_registers" if config.reg_tokens else "dinov2"
    if isinstance(config, ViTConfig) and not config.class_token:
        return "ijepa"
    return "vit"


def written_prefix(config: ModelConfig) -> str:
    """Return the prefix of the names in written files."""
    return f"{model_type(config)}." if config.num_classes else ""


def find_prefix(file: TensorFile) -> str | None:
    """Return the prefix of a file's names; None if they are not Hugging Face's."""
    return next((name for name in PREFIXES if f"{name}{STEM}" in file), None)


def find_block_prefix(file: TensorFile, prefix: str) -> str:
    """Return the prefix of the blocks' names.

    transformers 5 writes a ViTMSN with a head with the prefix at the stem alone.
    """
    bare = "encoder.layer.0.layernorm_before.weight"
    return "" if bare in file and f"{prefix}{bare}" not in file else prefix


def detect_generation(file: TensorFile, prefix: str) -> Generation:
    """Return which of the two sets of names a file has."""
    blocks = (f"{prefix}encoder.layer.0.", f"{prefix}layers.0.")
    memory = any(f"{block}attention.q_proj.weight" in file for block in blocks)
    return "memory" if memory else "hub"


def block_names(dino: bool, generation: Generation, swiglu: bool) -> BlockNames:
    """Return the names inside a block; `dino` for DINOv2's, with LayerScale."""
    hub = generation == "hub"
    projections = ("query", "key", "value") if hub else ("q_proj", "k_proj", "v_proj")
    attention = "attention.attention" if hub else "attention"
    fc1: tuple[str, ...] = ("mlp.fc1",)
    fc2 = "mlp.fc2"
    if swiglu:
        fc1 = ("mlp.weights_in",) if hub else ("mlp.gate_proj", "mlp.up_proj")
        fc2 = "mlp.weights_out" if hub else "mlp.down_proj"
    elif hub and not dino:
        fc1, fc2 = ("intermediate.dense",), "output.dense"
    return BlockNames(
        block="encoder.layer." if hub or dino else "layers.",
        norms=("norm1", "norm2") if dino else ("layernorm_before", "layernorm_after"),
        qkv=tuple(f"{attention}.{name}" for name in projections),
        proj="attention.output.dense" if hub else "attention.o_proj",
        fc1=fc1,
        fc2=fc2,
    )


def _block(
    config: ViTConfig, generation: Generation, prefix: str, index: int
) -> list[TensorMapping]:
    dino = config.init_values is not None
    names = block_names(dino, generation, config.mlp == "swiglu")
    ours, theirs = f"blocks.{index}.", f"{prefix}{names.block}{index}."
    rules = []
    for position, name in enumerate(names.norms, 1):
        rules += copy_layer(f"{ours}norm{position}", f"{theirs}{name}")
    for part in ("weight", "bias") if config.qkv_bias else ("weight",):
        qkv = [f"{theirs}{name}.{part}" for name in names.qkv]
        rules.append(concat(f"{ours}attn.qkv.{part}", qkv))
    rules += copy_layer(f"{ours}attn.proj", f"{theirs}{names.proj}")
    for part in ("weight", "bias"):
        first = [f"{theirs}{name}.{part}" for name in names.fc1]
        fc1 = f"{ours}mlp.fc1.{part}"
        rules.append(concat(fc1, first) if len(first) > 1 else copy(fc1, first[0]))
    rules += copy_layer(f"{ours}mlp.fc2", f"{theirs}{names.fc2}")
    if dino:
        rules += [
            copy(f"{ours}ls{position}.gamma", f"{theirs}layer_scale{position}.lambda1")
            for position in (1, 2)
        ]
    return rules
