"""How wide MONAI's 2-D U-Nets are to be, beside ours.

Widths follow from ours, so that a slice costs about as many multiplications. With 24 filters, 28
classes and slices of 96 × 96, and seconds of one thread for a training step of four slices:

| network | filters | parameters, million | multiplications, 10⁹ | seconds |
|---|---|---|---|---|
| QuickNAT, compiled | 24 | 0.50 | 1.21 | 0.17 |
| BasicUNet | 40, 40, 80, 160, 320 | 3.09 | 1.10 | 0.18 |
| DynUNet | 24, 48, 96, 192, 384 | 4.37 | 0.96 | 0.12 |
"""

from __future__ import annotations

from monai.networks.nets import BasicUNet, DynUNet
from torch import nn


def make_network(peer: str, classes: int, filters: int) -> nn.Module:
    """``basicunet`` or ``dynunet``, about as costly as QuickNAT with so many `filters`."""
    if peer == "basicunet":
        width = 8 * round(filters * 5 / 3 / 8)  # multiples of eight are fast
        features = (width, width, 2 * width, 4 * width, 8 * width, width)
        return BasicUNet(spatial_dims=2, in_channels=1, out_channels=classes, features=features)
    return DynUNet(
        spatial_dims=2,
        in_channels=1,
        out_channels=classes,
        kernel_size=[3] * 5,
        strides=[1, 2, 2, 2, 2],
        upsample_kernel_size=[2] * 4,
        filters=[filters * 2**level for level in range(5)],
    )
