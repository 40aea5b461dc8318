"""3x3 convolutions on the CPU with a quarter of the products (Winograd's minimal filtering).

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016), F(4 x 4, 3 x 3): a tile
of 4 x 4 outputs takes 36 products of input and output channels instead of 144,

    y = A^T [ (G w G^T) * (B^T d B) ] A,    d: the 6 x 6 inputs, w: the 3 x 3 weights,

where * multiplies place by place and sums over input channels. These 36 matrix products are one
grouped 1x1 convolution. Everything is float32, for bfloat16 features too. Rounding errors are
4e-6 of the output's standard deviation at 256 channels; those of oneDNN's convolutions are 0.2e-6
to 1e-6. Results do not depend on the number of threads.

Shapes: N images, C input and O output channels, H x W feature map, T tiles.
"""

from __future__ import annotations

import numpy as np
import torch

from mask_rcnn_repro.modeling.accel.onednn import Conv, fused_conv
from mask_rcnn_repro.utils import compiled

SIDE = 4  # outputs of a tile along an axis

# Where it is faster than oneDNN's convolution, by type: least input and output channels, products
# of the usual sum, and share of the tiles' outputs that is inside the map. Measured on a CPU whose
# bfloat16 products cost half of float32's. With 64 channels it is faster alone, but not in a
# network, where its buffers displace other data from the cache.
_LEAST = {torch.float32: (128, 100e6, 0.5), torch.bfloat16: (128, 300e6, 0.8)}

# Tiles per block: enough for fast products, and few enough to stay in the cache. Fixed, because
# weights packed for one number can be slow to repack for another.
_BLOCKS = (256, 64)
_MIN_TILES = 16  # the fewest per thread

_FILTER = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)


class WinogradWeights:
    """The transformed weights of a convolution: 3x3, stride 1, padding 1, one group.

    Args:
        weight: (O, C, 3, 3).
        bias: (O,) or None.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.out_channels, self.in_channels = weight.shape[:2]
        self._weight = weight
        self._products: dict[int, Conv] = {}
        bias = torch.zeros(self.out_channels) if bias is None else bias.float()
        self.bias: np.ndarray = bias.numpy()

    @staticmethod
    def fits(
        weight: torch.Tensor,
        stride: tuple[int, ...],
        padding: tuple[int, ...],
        dilation: tuple[int, ...],
        groups: int,
    ) -> bool:
        """Whether a convolution is of this kind and wide enough to gain."""
        return (
            weight.device.type == "cpu"
            and weight.dtype in _LEAST
            and tuple(weight.shape[2:]) == (3, 3)
            and tuple(stride) == tuple(padding) == tuple(dilation) == (1, 1)
            and groups == 1
            and min(weight.shape[:2]) >= _LEAST[weight.dtype][0]
            and compiled.HAVE_NUMBA
        )

    def gains(self, x: torch.Tensor) -> bool:
        """Whether :meth:`convolve` is faster on these features than the usual convolution."""
        images, _, height, width = x.shape
        outputs = images * height * width
        tiles = self._count(x)
        inside = outputs / max(1, max(tiles, _BLOCKS[1]) * SIDE**2)
        _, products, part = _LEAST[x.dtype]
        return outputs * 9 * self.in_channels * self.out_channels >= products and inside >= part

    def convolve(self, x: torch.Tensor, relu: bool) -> torch.Tensor:
        """Convolves, adds the bias and optionally applies ReLU.

        Args:
            x: (N, C, H, W), float32 or bfloat16, on the CPU.
            relu: Whether a ReLU comes last.

        Returns:
            (N, O, H, W), channels-last, of the features' type.
        """
        images, _, height, width = x.shape
        total = self._count(x)
        rows = x.detach().permute(0, 2, 3, 1).contiguous()
        features = (rows.view(torch.uint16) if x.dtype == torch.bfloat16 else rows).numpy()
        # NumPy asks for huge pages if an array is large
        y = np.empty((images, height, width, self.out_channels), features.dtype)
        first = 0
        tiles: np.ndarray = np.empty((0, 36, self.in_channels), np.float32)
        while first < total:
            left = total - first
            size = _BLOCKS[0] if left > 2 * _BLOCKS[1] else _BLOCKS[1]
            if len(tiles) != size:  # zeros in unused rows
                tiles = np.zeros((size, 36, self.in_channels), np.float32)
            self._convolve_block(features, y, tiles, range(first, first + min(size, left)), relu)
            first += size
        out = torch.from_numpy(y)
        return (out.view(torch.bfloat16) if x.dtype == torch.bfloat16 else out).permute(0, 3, 1, 2)

    def _convolve_block(
        self, features: np.ndarray, y: np.ndarray, tiles: np.ndarray, numbers: range, relu: bool
    ) -> None:
        """Computes the tiles of the given numbers; overwrites `tiles`."""
        from mask_rcnn_repro.modeling.accel import winograd_kernels as kernels

        def cut(start: int, stop: int) -> None:
            kernels.cut_tiles(features, numbers.start, start, stop, tiles)

        def join(start: int, stop: int) -> None:
            kernels.join_tiles(products, numbers.start, start, stop, self.bias, relu, y)

        compiled.run_in_threads(cut, len(numbers), min_items=_MIN_TILES)
        products = self._multiply(torch.from_numpy(tiles)).numpy()
        compiled.run_in_threads(join, len(numbers), min_items=_MIN_TILES)

    def _count(self, x: torch.Tensor) -> int:
        images, _, height, width = x.shape
        return images * -(-height // SIDE) * -(-width // SIDE)

    def _multiply(self, tiles: torch.Tensor) -> torch.Tensor:
        """Multiplies (T, 36, C) by the weights: (T, 36, O)."""
        count = len(tiles)
        if count not in self._products:
            self._products[count] = self._grouped_convolution(count)
        # a channels-last map of one row, its channels in 36 groups
        x = tiles.view(1, 1, count, -1).permute(0, 3, 1, 2)
        out = self._products[count](x, False, None)
        return out.permute(0, 2, 3, 1).reshape(count, 36, self.out_channels)

    def _grouped_convolution(self, count: int) -> Conv:
        """Returns the products for a number of tiles."""
        transform = torch.tensor(_FILTER, dtype=torch.float64)
        places = torch.einsum("ai,ocij,bj->aboc", transform, self._weight.double(), transform)
        places = places.float().reshape(-1, self.in_channels, 1, 1)  # (36 O, C, 1, 1)
        size = (1, 36 * self.in_channels, 1, count)
        return fused_conv(places, None, groups=36, input_size=size)
