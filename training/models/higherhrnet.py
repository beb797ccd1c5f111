"""HigherHRNet (Cheng et al. 2020, "HigherHRNet: Scale-Aware Representation Learning", arXiv 1908.10357)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from training.models.higher_head import HigherHead, run_stages
from training.models.hrnet import BasicBlock, HRNetBody
from training.models.layers import init_weights
from training.models.registry import register

__all__ = ["HigherHRNet", "higherhrnet_w32", "higherhrnet_w48"]


class HigherHRNet(HRNetBody):
    """HRNet's body under a head of several resolutions (section 3, figure 2).

    Maps pictures (n, 3, h, w), sides divisible by 32, to a list of outputs: heatmaps and tags
    (n, 2 joints, h/4, w/4), heatmaps (n, joints, h/2, w/2), and so on for further deconvolutions;
    `tags` says which outputs have tags. State-dict keys and order equal those of the published
    checkpoints, all of which take the default options.

    Args:
        width: of the body.
        joints: number of joints.
        widths: channels of each deconvolution; None: one of the body's width.
        blocks, concatenate, tags, tag_per_joint, kernel: as in `HigherHead`.

    Raises:
        InvalidInputError: the options do not fit together.
    """

    def __init__(
        self,
        width: int,
        joints: int,
        *,
        widths: Sequence[int] | None = None,
        blocks: int = 4,
        concatenate: Sequence[bool] | bool = True,
        tags: Sequence[bool] | None = None,
        tag_per_joint: bool = True,
        kernel: int = 1,
    ) -> None:
        super().__init__(width)
        head = HigherHead(
            width,
            joints,
            BasicBlock,
            widths=(width,) if widths is None else widths,
            blocks=blocks,
            concatenate=concatenate,
            tags=tags,
            tag_per_joint=tag_per_joint,
            kernel=kernel,
        )
        # Its layers, not the head itself: the published keys have no name for it.
        self.final_layers, self.deconv_layers = head.final_layers, head.deconv_layers
        self.concatenate = head.concatenate
        init_weights(self, "normal")

    def forward(self, x: Tensor) -> list[Tensor]:
        return run_stages(self.features(x), self.final_layers, self.deconv_layers, self.concatenate)


@register
def higherhrnet_w32(
    joints: int = 17,
    widths: Sequence[int] | None = None,
    blocks: int = 4,
    concatenate: Sequence[bool] | bool = True,
    tags: Sequence[bool] | None = None,
    tag_per_joint: bool = True,
    kernel: int = 1,
) -> HigherHRNet:
    """HigherHRNet-W32: 28.6 M parameters, 46.2 G multiply-accumulates at 512x512."""
    return HigherHRNet(
        32, joints, widths=widths, blocks=blocks, concatenate=concatenate, tags=tags,
        tag_per_joint=tag_per_joint, kernel=kernel,
    )  # fmt: skip


@register
def higherhrnet_w48(
    joints: int = 17,
    widths: Sequence[int] | None = None,
    blocks: int = 4,
    concatenate: Sequence[bool] | bool = True,
    tags: Sequence[bool] | None = None,
    tag_per_joint: bool = True,
    kernel: int = 1,
) -> HigherHRNet:
    """HigherHRNet-W48: 63.8 M parameters, 149.5 G multiply-accumulates at 640x640."""
    return HigherHRNet(
        48, joints, widths=widths, blocks=blocks, concatenate=concatenate, tags=tags,
        tag_per_joint=tag_per_joint, kernel=kernel,
    )  # fmt: skip
