"""The head of HigherHRNet (Cheng et al. 2020, section 3): heatmaps and tags, then finer heatmaps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from edgepose.errors import InvalidInputError
from training.models.layers import upsample_unit

__all__ = ["HigherHead", "run_stages"]


class HigherHead(nn.Module):
    """Heatmaps and tags at the features' resolution, then stages that double it.

    Every further stage upsamples the features, concatenated with the output before it, refines them
    and predicts heatmaps (and tags, where `tags` says so) again.

    Maps features (n, channels, h, w) to one output a stage, the first of h x w, each further one of
    twice the size: the heatmaps' channels first, then the tags'.

    Args:
        channels: of the features.
        joints: number of joints.
        block: makes a residual block of given channels, which follow the deconvolution.
        widths: channels of each deconvolution.
        blocks: residual blocks after each deconvolution.
        concatenate: for each deconvolution, whether it sees the output before it.
        tags: for each stage, whether it predicts tags.
        tag_per_joint: a tag for each joint, or one for all.
        tag_dimensions: numbers that make up a tag; the maps of the first come first.
        kernel: of the final convolutions, 1 or 3.

    Raises:
        InvalidInputError: the options do not fit together.
    """

    def __init__(
        self,
        channels: int,
        joints: int,
        block: Callable[[int], nn.Module],
        *,
        widths: Sequence[int],
        blocks: int = 4,
        concatenate: Sequence[bool] | bool = True,
        tags: Sequence[bool] | None = None,
        tag_per_joint: bool = True,
        tag_dimensions: int = 1,
        kernel: int = 1,
    ) -> None:
        super().__init__()
        stages = len(widths)
        joined = (concatenate,) * stages if isinstance(concatenate, bool) else tuple(concatenate)
        tagged = (True, *(False,) * stages) if tags is None else tuple(tags)
        if len(joined) != stages or len(tagged) != stages + 1:
            raise InvalidInputError(
                f"the options of {stages} deconvolutions do not fit; found {len(joined)} values of "
                f"concatenate and {len(tagged)} of tags; give {stages} and {stages + 1}"
            )
        if not any(tagged):
            raise InvalidInputError(
                "no stage predicts tags; found tags all false; set one, or take a top-down network"
            )
        if blocks < 0 or any(width < 1 for width in widths):
            raise InvalidInputError(
                f"unusable sizes of the deconvolutions; found widths {list(widths)} and {blocks} blocks; "
                "give positive widths and no negative number of blocks"
            )
        if kernel not in (1, 3):
            raise InvalidInputError(f"unknown kernel of the final convolutions; found {kernel}; use 1 or 3")
        self.concatenate = joined
        tag_channels = tag_dimensions * (joints if tag_per_joint else 1)
        outputs = [joints + has_tags * tag_channels for has_tags in tagged]
        self.final_layers = nn.ModuleList(
            nn.Conv2d(c, out, kernel, padding=kernel // 2)
            for c, out in zip((channels, *widths), outputs, strict=True)
        )
        self.deconv_layers = nn.ModuleList()
        for width, join, out in zip(widths, joined, outputs[:-1], strict=True):
            unit = nn.Sequential(*upsample_unit(channels + join * out, width, kernel=4, groups=1, bias=False))
            self.deconv_layers.append(
                nn.Sequential(unit, *(nn.Sequential(block(width)) for _ in range(blocks)))
            )
            channels = width

    def forward(self, x: Tensor) -> list[Tensor]:
        return run_stages(x, self.final_layers, self.deconv_layers, self.concatenate)


def run_stages(
    x: Tensor, final_layers: nn.ModuleList, deconv_layers: nn.ModuleList, concatenate: Sequence[bool]
) -> list[Tensor]:
    """`HigherHead.forward`, for networks that hold the head's layers among their own."""
    outputs = [final_layers[0](x)]
    for deconvolution, final, join in zip(deconv_layers, final_layers[1:], concatenate, strict=True):
        x = deconvolution(torch.cat((x, outputs[-1]), 1) if join else x)
        outputs.append(final(x))
    return outputs
