"""Draw a contact sheet of synthetic images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from quicknat.images.labels import Protocol
from quicknat.report.figures import slice_picture
from quicknat.synthesis.synthesize import synthesize


def contact_sheet(
    stacks: Sequence[np.ndarray], protocol: Protocol, view: str, samples: int, seed: int
) -> np.ndarray:
    """Return synthetic slices beside their classes, four per row: uint8 (H, W, 3).

    Args:
        stacks: tissue and class slices of one shape, uint8 (n, 2, H, W), one stack per label map;
            samples are random slices, from each map in turn.
        protocol, view: for the colours of the classes.
        samples: their number.
        seed: for the choice of slices and the synthesis.
    """
    random = np.random.default_rng(seed)
    takes = (stacks[number % len(stacks)] for number in range(samples))
    chosen = torch.from_numpy(np.stack([stack[random.integers(len(stack))] for stack in takes]))
    image, classes = synthesize(chosen[:, :1], chosen[:, 1:], torch.Generator().manual_seed(seed))
    grey = (255 * image[:, 0]).round().byte()
    colors = protocol.view_colors(view)
    pairs = torch.stack([grey, classes], dim=1).numpy()
    tiles = [slice_picture(pair, colors) for pair in pairs]
    tiles += [np.zeros_like(tiles[0])] * (-samples % min(4, samples))
    rows = [np.hstack(tiles[first : first + 4]) for first in range(0, len(tiles), 4)]
    return np.vstack(rows)
