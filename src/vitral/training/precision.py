"""Choice of the precision that this machine computes fastest."""

from typing import Literal

import torch


def fast_precision() -> Literal["fp32", "bf16"]:
    """Return `bf16` where the hardware multiplies in it, else `fp32`.

    A processor without such instructions takes four times as long in bfloat16 as in
    float32: it is emulated there.
    """
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    cpu = torch.cpu
    has_bf16 = cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported()
    return "bf16" if has_bf16 else "fp32"
