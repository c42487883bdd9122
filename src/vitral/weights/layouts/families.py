"""Names of models that vitral does not have, by config.json or by their tensors.

A refusal names the family, so that the user knows which program reads the weights.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

from vitral.errors import WeightsError
from vitral.weights.checkpoint_facts import LayoutInput

MOST_NAMES = 20_000
"""Names of a file that are looked at."""
HAS = (
    "a ViT, DeiT, DINO, MAE, I-JEPA, CLIP, DINOv3, BEiT, EVA-02, AIMv2, BiT or hybrid, "
    "TNT, TimeSformer"
)
"""Families whose weights load."""
START = r"(?:^|[./])"
BY_TENSORS: tuple[tuple[str, str], ...] = (
    ("Swin Transformer V2", r"attn\.(cpb_mlp|meta_mlp)|continuous_position_bias_mlp"),
    ("MaxViT or CoAtNet", r"stages\.\d+\.blocks\.\d+\.(attn_grid|attn_block)\."),
    ("GCViT", r"\.global_block\."),
    ("Swin Transformer", r"(layers|features)\.\d+\.(blocks\.)?\d+\.attn.*relative_pos"),
    (
        "Swin Transformer",
        r"layers\.\d+\.blocks\.\d+\.attention\.self\.relative_position",
    ),
    ("ViT with relative positions", r"attn\.rel_pos\.mlp\.|shared_rel_pos\."),
    ("LeViT", r"attn_downsample\.|subsample.*attention_biases"),
    ("EfficientViT (MSRA)", r"mixer\.m\.attn\.attention_biases"),
    ("EfficientFormer", r"token_mixer\.attention_biases"),
    ("TinyViT", r"attn\.attention_biases"),
    ("CaiT", r"blocks_token_only\."),
    ("XCiT", r"cls_attn_blocks\.|\.local_mp\."),
    ("CoaT", r"factoratt_crpe"),
    ("ConViT", r"attn\.gating_param"),
    ("CrossViT", r"\.revert_projs\."),
    ("DaViT", r"stages\.\d+\.blocks\.\d+\.\d+\.cpe1"),
    ("EdgeNeXt", r"\.gamma_xca"),
    ("MViT", r"attn\.pool_[qk]|attn\.pool_skip"),
    ("Hiera of SAM 2", r"pos_embed_window"),
    ("Twins", r"pos_block\.\d"),
    ("SegFormer or PVT", r"(attn|attention\.self)\.sr\."),
    ("NesT", r"levels\.\d+\.transformer_encoder"),
    ("PiT", r"transformers\.\d+\.(blocks|pool)"),
    ("Visformer", START + r"stage\d\.\d+\.attn"),
    ("VOLO", r"post_network\."),
    ("MobileNetV5", r"msfa\.|\.pw_exp\.|attn\.query\.proj"),
    ("CSATv2", r"stem_dct\."),
    ("SAM", r"attn\.rel_pos_h"),
    ("vision encoder of Gemma", r"patch_embed\.input_proj|position_embedding_table"),
    ("NaFlexViT", START + r"embeds\.(proj|pos_embed)"),
    ("BEiT", r"attn\.relative_position_bias|relative_position_bias\.relative"),
    ("BEiT-3", r"blocks\.\d+\.attn\.norm\.weight"),
    ("ViT with differential attention", r"lambda_q1"),
    ("EVA or BEiT", r"blocks\.\d+\.attn\.(q_bias|q_proj\.weight|inner_attn_ln)"),
    ("AIMv2", r"blocks\.\d+\.mlp\.fc1_g\."),
    ("parallel ViT", r"blocks\.\d+\.(attns\.\d|attn_out_proj|in_proj\.)"),
    ("Eva, of rotary positions (DINOv3 among them)", r"blocks\.\d+\.gamma_[12]$"),
    (
        "DINOv3",
        r"^(model\.)?layer\.\d+\.layer_scale1\.lambda1|rope_embed|rope_embeddings",
    ),
    ("RepViT", r"channel_mixer|token_mixer\.conv\.c\."),
    ("SwiftFormer", r"local_representation"),
    ("FastViT or MobileCLIP", r"conv_kxk\.|token_mixer\.(mixer|norm)\."),
    ("iFormer", r"mixer\.module"),
    ("SHViT", r"mixer\.m\.(pre_norm|qkv)"),
    ("InceptionNeXt", r"token_mixer\.dwconv_hw"),
    ("MetaFormer", r"token_mixer\.|res_scale1"),
    ("EfficientViM", r"mixer\.BCdt_proj"),
    ("EfficientViT (MIT)", r"context_module\.main"),
    ("LowFormer", r"attn\.main\.\d+\.pwise"),
    ("ViTamin", r"patch_embed\.backbone\.stages\.\d+\.\d+\.pre_norm"),
    ("ViT on a stem of convolutions", r"patch_embed\.backbone\.\d+\.(conv|bn)\."),
    ("DETR", r"query_position_embeddings|query_embed\.|object_queries"),
    ("Mask2Former or MaskFormer", r"transformer_module|pixel_level_module"),
    (
        "a CLIP or SigLIP of images and texts",
        r"(^|\.)text_model\.|(^|\.)token_embedding\.|positional_embedding$|logit_scale$",
    ),
    (
        "vision encoder of CLIP",
        r"norm_pre\.|pre_layrnorm|visual\.ln_pre|vision_model\.encoder",
    ),
    ("Hiera", START + r"blocks\.\d+\.proj\.weight"),
    ("VideoMAE", r"videomae\."),
    ("ViViT", r"vivit\."),
    (
        "vision encoder of Qwen or DeepSeek",
        START + r"merger\.|aligner\.|encoder\.blocks\.\d+\.attn\.qkv",
    ),
    ("a vit-pytorch variant", r"to_qkv|to_q\.weight|to_patch_embedding"),
    ("ConvNeXt", r"stages\.\d+\.(blocks|layers)\.\d+\.(conv_dw|dwconv)\."),
    ("a language model", r"lm_head\.|embed_tokens\.|word_embeddings\."),
)
"""Family, and what one of its tensors is called; the first that applies counts."""
HAS_NAMES = (
    r"(vit|deit3?)_[a-z]+\d*(_distilled)?_patch\d+(_reg\d+)?(_dinov2|_siglip)?(_\d+)?"
    r"|beit(v2)?_(base|large)_patch16_\d+|eva_giant_patch14_\d+"
    r"|aimv2_(large|huge|1b|3b)_patch14_\d+|aimv2_vision_model"
    r"|eva02_(tiny|small|base|large)_patch14_\d+|(vit|deit|beit|dinov2|dinov2_with_registers|vit_mae|vit_msn|bit|timesformer)"
)
"""Architectures of timm and model types of Hugging Face that load."""
READABLE = (
    "a vit-pytorch variant",
    "vision encoder of CLIP",
    "a CLIP or SigLIP of images and texts",
    "DINOv3",
    "AIMv2",
    "BEiT",
    "EVA or BEiT",
    "Eva, of rotary positions (DINOv3 among them)",
)
"""Families of `BY_TENSORS` of which vitral reads some models."""
ATTENTION = r"attn\.|attention\.(?!fc)|qkv|q_proj|to_q|mixer"


def find_family(opened: LayoutInput) -> str:
    """Return the name of the model's family; empty where nothing tells it."""
    config_json = opened.config_json
    architecture = config_json.get("architecture")
    if isinstance(architecture, str) and architecture:
        return f"timm's {architecture}"
    model_type = config_json.get("model_type")
    if isinstance(model_type, str) and model_type:
        classes = config_json.get("architectures")
        listed = classes if isinstance(classes, list) else []
        which = f" ({listed[0]})" if listed else ""
        return f"Hugging Face's {model_type}{which}"
    names = list(islice(opened.file.names(), MOST_NAMES))
    if family := _family_of_tensors(names):
        return family
    if any(re.search(ATTENTION, name) for name in names):
        return ""
    kernels = any(len(opened.file.shape(name)) == 4 for name in names)
    return "a network of convolutions without attention" if kernels else ""


def _family_of_tensors(names: list[str]) -> str:
    for family, pattern in BY_TENSORS:
        found = re.compile(pattern)
        if any(found.search(name) for name in names):
            return family
    return ""


def unknown_family(opened: LayoutInput) -> WeightsError:
    """Return the error for weights in no layout: what they are, and what to do."""
    family = find_family(opened)
    what = f"holds {_with_article(family)}, which" if family else "holds a model that"
    library = "timm" if family.startswith("timm") else "the program that wrote it"
    if family.startswith("Hugging Face"):
        library = "transformers"
    return WeightsError(
        f"{opened.path} {what} vitral does not have. Use {library} for it, or give "
        f"weights of {HAS}; `vitral convert --help` lists their layouts. Its first "
        f"tensors are {opened.first_names()}."
    )


@contextmanager
def naming_the_family(opened: LayoutInput) -> Iterator[None]:
    """Add the name of the family to a refusal that has it not.

    Not of a model that vitral has: a damaged file of it is no other model. Where
    config.json names none, a tensor must be of a family that vitral does not have.
    """
    try:
        yield
    except WeightsError as error:
        family = find_family(opened)
        name = family.removeprefix("timm's ").removeprefix("Hugging Face's ")
        name = name.split(" (")[0]
        is_named = name != family
        foreign = _family_of_tensors(list(islice(opened.file.names(), MOST_NAMES)))
        if is_named and re.fullmatch(HAS_NAMES, name) and not foreign:
            raise
        if not is_named and foreign in ("", *READABLE):
            raise
        if name in str(error):
            raise
        says = "config.json says that it is" if is_named else "By its tensors it may be"
        raise WeightsError(f"{error} {says} {_with_article(family)}.") from error


def _with_article(family: str) -> str:
    if family.startswith(("a ", "timm's", "Hugging Face's")):
        return family
    return f"{'an' if family[0] in 'AEIOX' else 'a'} {family}"
