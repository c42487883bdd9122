"""The names of Hugging Face's Vision Transformers, as its files have them.

Files on the hub, old and new, have one set of names. Programs that store a model's
state dict themselves get those of transformers 5 in memory, which are read too.
"""

from typing import Literal, NamedTuple

from vitral.models import DeiTConfig, ModelConfig, ViTConfig
from vitral.weights.files import TensorFile
from vitral.weights.mapping import TensorMapping, concat, copy

Generation = Literal["hub", "memory"]

STEM = "embeddings.patch_embeddings.projection.weight"
PREFIXES = ("", "vit.", "deit.", "dinov2.", "dinov2_with_registers.")
"""What comes before the names: nothing for a bare model, its type under a head."""


class BlockNames(NamedTuple):
    """Where a block and its parts are."""

    block: str
    norms: tuple[str, str]
    qkv: tuple[str, str, str]
    proj: str
    fc1: tuple[str, ...]
    fc2: str


def mappings(
    config: ViTConfig, generation: Generation = "hub", prefix: str | None = None
) -> list[TensorMapping]:
    """Every tensor of a model.

    Args:
        prefix: what comes before the names; None for what is written.
    """
    before = written_prefix(config) if prefix is None else prefix
    made = [
        copy("patch_embed.proj.weight", f"{before}{STEM}"),
        copy(
            "patch_embed.proj.bias",
            f"{before}embeddings.patch_embeddings.projection.bias",
        ),
        copy("cls_token", f"{before}embeddings.cls_token"),
        copy("pos_embed", f"{before}embeddings.position_embeddings"),
    ]
    if isinstance(config, DeiTConfig):
        made.append(copy("dist_token", f"{before}embeddings.distillation_token"))
    if config.reg_tokens:
        made.append(copy("reg_token", f"{before}embeddings.register_tokens"))
    for number in range(config.depth):
        made += _block(config, generation, before, number)
    made += _layer("norm", f"{before}layernorm")
    if config.representation_size:
        made += _layer("pre_logits.fc", f"{before}pooler.dense")
    if config.num_classes:
        two = isinstance(config, DeiTConfig) and config.distillation_head
        made += _layer("head", "cls_classifier" if two else "classifier")
        if two:
            made += _layer("head_dist", "distillation_classifier")
    return made


def model_type(config: ModelConfig) -> str:
    """Hugging Face's word for the kind of model."""
    if isinstance(config, DeiTConfig):
        return "deit"
    if isinstance(config, ViTConfig) and config.init_values is not None:
        return "dinov2_with_registers" if config.reg_tokens else "dinov2"
    return "vit"


def written_prefix(config: ModelConfig) -> str:
    """What comes before the names in a file of ours."""
    return f"{model_type(config)}." if config.num_classes else ""


def find_prefix(file: TensorFile) -> str | None:
    """What comes before the names in a file; None if they are not Hugging Face's."""
    return next((name for name in PREFIXES if f"{name}{STEM}" in file), None)


def detect_generation(file: TensorFile, prefix: str) -> Generation:
    """Which of the two sets of names a file has."""
    places = (f"{prefix}encoder.layer.0.", f"{prefix}layers.0.")
    memory = any(f"{place}attention.q_proj.weight" in file for place in places)
    return "memory" if memory else "hub"


def block_names(dino: bool, generation: Generation, swiglu: bool) -> BlockNames:
    """Names inside a block; `dino` for LayerScale and all that comes with it."""
    hub = generation == "hub"
    words = ("query", "key", "value") if hub else ("q_proj", "k_proj", "v_proj")
    place = "attention.attention" if hub else "attention"
    fc1, fc2 = ("mlp.fc1",), "mlp.fc2"
    if swiglu:
        fc1 = ("mlp.weights_in",) if hub else ("mlp.gate_proj", "mlp.up_proj")  # type: ignore[assignment]
        fc2 = "mlp.weights_out" if hub else "mlp.down_proj"
    elif hub and not dino:
        fc1, fc2 = ("intermediate.dense",), "output.dense"
    return BlockNames(
        block="encoder.layer." if hub or dino else "layers.",
        norms=("norm1", "norm2") if dino else ("layernorm_before", "layernorm_after"),
        qkv=(f"{place}.{words[0]}", f"{place}.{words[1]}", f"{place}.{words[2]}"),
        proj="attention.output.dense" if hub else "attention.o_proj",
        fc1=fc1,
        fc2=fc2,
    )


def _block(
    config: ViTConfig, generation: Generation, before: str, number: int
) -> list[TensorMapping]:
    dino = config.init_values is not None
    names = block_names(dino, generation, config.mlp == "swiglu")
    ours, theirs = f"blocks.{number}.", f"{before}{names.block}{number}."
    made = []
    for at, name in enumerate(names.norms, 1):
        made += _layer(f"{ours}norm{at}", f"{theirs}{name}")
    for part in ("weight", "bias") if config.qkv_bias else ("weight",):
        qkv = [f"{theirs}{name}.{part}" for name in names.qkv]
        made.append(concat(f"{ours}attn.qkv.{part}", qkv))
    made += _layer(f"{ours}attn.proj", f"{theirs}{names.proj}")
    for part in ("weight", "bias"):
        first = [f"{theirs}{name}.{part}" for name in names.fc1]
        fc1 = f"{ours}mlp.fc1.{part}"
        made.append(concat(fc1, first) if len(first) > 1 else copy(fc1, first[0]))
    made += _layer(f"{ours}mlp.fc2", f"{theirs}{names.fc2}")
    if dino:
        made += [
            copy(f"{ours}ls{at}.gamma", f"{theirs}layer_scale{at}.lambda1")
            for at in (1, 2)
        ]
    return made


def _layer(ours: str, theirs: str) -> list[TensorMapping]:
    return [copy(f"{ours}.{part}", f"{theirs}.{part}") for part in ("weight", "bias")]
