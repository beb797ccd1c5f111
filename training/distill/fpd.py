"""Fast Pose Distillation (Zhang, Zhu and Ye 2019, arXiv 1811.05419)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from training.losses import joints_mse

__all__ = ["fpd_loss"]


def fpd_loss(
    outputs: Sequence[Tensor],
    target: Tensor,
    teacher: Tensor,
    weights: Tensor,
    *,
    alpha: float = 0.5,
    masked: bool = True,
    labelled: Tensor | None = None,
) -> Tensor:
    """Error against the annotation and against the teacher, summed over all outputs (section 3.2).

    ``(1 - alpha) * joints_mse(output, target) + alpha * joints_mse(output, teacher)``, where pictures
    without annotation have the second term alone, with weight 1 and all their joints.

    Args:
        outputs: the student's heatmaps (n, k, h, w), one of each stack.
        target: heatmaps (n, k, h, w) of the annotation.
        teacher: the teacher's last heatmaps (n, k, h, w); no gradient reaches them.
        weights: (n, k), 0 for joints that are not labelled.
        alpha: weight of the teacher's term.
        masked: the weights mask the teacher's term too, as in the released code; false: it has all joints.
        labelled: (n,) 1 for pictures with annotation, 0 for those without; None: all have one.
    """
    teacher = teacher.detach()
    hints = weights if masked else weights.new_ones(weights.shape)
    # The factors enter the squared error by their roots, as weights do.
    truth_weights, hint_weights = (1 - alpha) ** 0.5 * weights, alpha**0.5 * hints
    if labelled is not None:
        known = labelled.to(weights.dtype)[:, None]
        truth_weights = truth_weights * known
        hint_weights = hint_weights * known + (1 - known)
    total = target.new_zeros(())
    for output in outputs:
        total = total + joints_mse(output, target, truth_weights) + joints_mse(output, teacher, hint_weights)
    return total
