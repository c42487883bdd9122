"""Pre-processing as a graph: `Preprocess` by matrix products, from pixels of any size.

With antialias it rounds to 8 bits after each pass, as Pillow, the width first. Pillow
takes the height first for some sizes, and computes in fixed point: then one pixel in
ten, or in a thousand, is one step of 255 away.
"""

from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from vitral.data import Preprocess
from vitral.data.images import Size
from vitral.errors import ConfigError
from vitral.export.to_onnx import MAX_SIDE, trace_onnx
from vitral.layers import resampling
from vitral.weights.exported import IMAGE, LOGITS, PIXELS, import_onnx

_ANY = Size(1, 1)
MATRICES = {
    ("nearest", False): resampling.nearest_exact,
    ("nearest", True): resampling.nearest_exact,
    ("bilinear", False): resampling.linear,
    ("bilinear", True): resampling.linear_antialias,
    ("bicubic", False): resampling.cubic,
    ("bicubic", True): resampling.cubic_antialias,
}
"""Builder of the matrix by (interpolation, antialias)."""


class PixelsToImage(nn.Module):
    """Convert uint8 pixels [batch, height, width, 3] to the model's input."""

    mean: Tensor
    std: Tensor

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        preprocess.require_images(
            "`with_preprocess` is for single images: which frames of a clip are "
            "taken is decided before decoding. Leave it out."
        )
        if not preprocess.is_rgb8:
            raise ConfigError(
                "`with_preprocess` takes red, green and blue of 8 bits, and the "
                f"model {preprocess.channels} channel(s) of values from "
                f"{preprocess.value_range or (0, 255)}. Leave it out: the file's "
                "metadata says how to scale."
            )
        self.preprocess = preprocess
        mean, std = (torch.tensor(v) for v in (preprocess.mean, preprocess.std))
        self.register_buffer("mean", mean[:, None, None], persistent=False)
        self.register_buffer("std", std[:, None, None], persistent=False)

    def forward(
        self, pixels: UInt8[Tensor, "batch height width 3"]
    ) -> Float[Tensor, "batch 3 new_height new_width"]:
        image = pixels.permute(0, 3, 1, 2).float()
        height, width = pixels.shape[1], pixels.shape[2]
        resized = self._size_before_crop(height, width)
        rows = self._matrix(height, resized[0], self.preprocess.image_size[0])
        columns = self._matrix(width, resized[1], self.preprocess.image_size[1])
        image = self._round_to_uint8(image @ columns.transpose(0, 1))
        image = self._round_to_uint8(rows @ image).clamp(0, 255)
        return (image / 255 - self.mean) / self.std

    def _size_before_crop(self, height: int, width: int) -> tuple[int, int]:
        """Compute the size before the crop without a branch on the source's size."""
        config = self.preprocess
        if config.resize == "squash":
            return config.size_before_crop(_ANY)
        target = Preprocess(
            image_size=config.image_size, crop_fraction=config.crop_fraction
        ).size_before_crop(_ANY)
        return (
            resampling.symbolic_max(target.height, height * target.width // width),
            resampling.symbolic_max(target.width, width * target.height // height),
        )

    def _matrix(self, old: int, new: int, cropped: int) -> Float[Tensor, "cropped old"]:
        """Return the weights of the `cropped` cells in the center of `new`."""
        margin = new - cropped
        # Half of it, rounded to even as by `round`.
        first = margin // 2 + (margin % 2) * ((margin // 2) % 2)
        cells = torch.arange(cropped, device=self.mean.device) + first
        method = (self.preprocess.interpolation, self.preprocess.antialias)
        return MATRICES[method](cells, old, new, torch.float32)

    def _round_to_uint8(self, image: Tensor) -> Tensor:
        if not self.preprocess.antialias:
            return image
        return (image + 0.5).floor().clamp(0, 255)


def build_preprocess_graph(preprocess: Preprocess) -> Any:
    """Build an onnx.ModelProto from `pixels` to `image`."""
    sizes = {
        0: torch.export.Dim("batch", min=1, max=MAX_SIDE),
        1: torch.export.Dim("height", min=1, max=MAX_SIDE),
        2: torch.export.Dim("width", min=1, max=MAX_SIDE),
    }
    example = torch.zeros(2, 61, 83, 3, dtype=torch.uint8)
    return trace_onnx(PixelsToImage(preprocess), example, sizes, names=(PIXELS, IMAGE))


def prepend_preprocess(proto: Any, preprocess: Preprocess) -> Any:
    """Return `proto` with its pre-processing in front."""
    module = import_onnx()
    before = module.compose.add_prefix(
        build_preprocess_graph(preprocess),
        "preprocess/",
        rename_inputs=False,
        rename_outputs=False,
    )
    before.ir_version = proto.ir_version
    joined = module.compose.merge_models(
        before, proto, io_map=[(IMAGE, IMAGE)], outputs=[LOGITS]
    )
    # Names the tensor at which the model can be separated from its pre-processing.
    shape = ["batch", 3, *preprocess.image_size]
    joined.graph.value_info.append(
        module.helper.make_tensor_value_info(IMAGE, module.TensorProto.FLOAT, shape)
    )
    return joined
