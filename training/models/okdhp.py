"""OKDHP's network (Li et al. 2021, arXiv 2108.02092): a shared part, branches, their weighted ensemble."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgepose.errors import InvalidInputError
from training.models.hourglass import HourglassModule, Stem, hourglass, residuals, stack_head
from training.models.lpn import LPN, lpn50
from training.models.mobilepose import MobilePose, decoder, encoder, mobilepose, whole_names
from training.models.registry import create, register

__all__ = [
    "Branched",
    "BranchedHourglass",
    "BranchedLPN",
    "BranchedMobilePose",
    "extract_branch",
    "okdhp",
]

KERNELS = (3, 5, 7)
"""Of the feature aggregation unit's convolutions."""

FAU_CHANNELS = 256
"""That it looks at where the features have more; an hourglass's have as many."""

Outputs = tuple[list[Tensor], Tensor]


class Branched(nn.Module):
    """Common to all branched networks: the feature aggregation unit (FAU), the ensemble, the student.

    Maps pictures (n, 3, h, w) to a list of heatmaps, (n, joints, h/4, w/4) each, those of the shared part
    first and then branch by branch, and the ensemble's heatmaps of the same shape.

    Attributes:
        base: name of the deployable network in the registry.
        students: options with which each branch, with the shared part, is that network.
    """

    base: str
    students: list[dict[str, Any]]

    def _add_fau(self, channels: int, joints: int, kind: str) -> None:
        """Add the FAU on features of `channels`.

        As released: convolutions of three sizes are summed up and averaged over all positions; a linear
        layer to a quarter of the channels; one more for each branch. As in the paper's figure: each is
        followed by a 1x1 convolution, their averages and that of the features themselves (behind a 1x1
        convolution) are concatenated, and one linear layer gives all weights.
        """
        if kind not in ("released", "paper"):
            raise InvalidInputError(f"unknown FAU; found {kind!r}; use 'released' or 'paper'")
        branches = len(self.students)
        paper = kind == "paper"
        self.convs = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, size, padding=size // 2),
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
                *([nn.Conv2d(channels, channels, 1)] if paper else []),
            )
            for size in KERNELS
        )
        if paper:
            self.pool = nn.Conv2d(channels, channels, 1)
            self.fc = nn.Linear((len(KERNELS) + 1) * channels, branches * joints)
        else:
            hidden = max(channels // 4, 1)
            self.fc = nn.Linear(channels, hidden)
            self.fcs = nn.ModuleList(nn.Linear(hidden, joints) for _ in range(branches))

    def _weights(self, features: Tensor) -> Tensor:
        """Weight of each branch in each joint's ensemble, (n, branches, joints), summing up to 1."""
        maps = [conv(features) for conv in self.convs]
        if hasattr(self, "pool"):
            pooled = [_average(m) for m in maps]
            pooled.append(self.pool(_average(features)[:, :, None, None]).flatten(1))
            logits = self.fc(torch.cat(pooled, 1)).unflatten(1, (len(self.students), -1))
        else:
            hidden = self.fc(_average(sum(maps[1:], maps[0])))
            logits = torch.stack([fc(hidden) for fc in self.fcs], 1)
        return torch.softmax(logits, 1)

    def _shared(self, x: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        """What the FAU looks at, the shared part's heatmaps, and what the branches go on from."""
        raise NotImplementedError

    def _branch(self, index: int, x: Tensor) -> list[Tensor]:
        """The heatmaps of one branch; the last are its prediction."""
        raise NotImplementedError

    def _members(self, outputs: list[Tensor], last: list[int]) -> list[Tensor]:
        """The heatmaps that make up the ensemble; `last` are the positions of the branches' predictions."""
        return [outputs[i] for i in last]

    def _student_keys(self, branch: int) -> Iterator[tuple[str, str]]:
        """Prefixes of keys here and in the student that a branch makes."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Outputs:
        features, outputs, x = self._shared(x)
        last = []
        for branch in range(len(self.students)):
            outputs = outputs + self._branch(branch, x)
            last.append(len(outputs) - 1)
        weights = self._weights(features)[..., None, None]
        members = self._members(outputs, last)
        ensemble = weights[:, 0] * members[0]
        for i, maps in enumerate(members[1:], 1):
            ensemble = ensemble + weights[:, i] * maps
        return outputs, ensemble

    def target_branches(self) -> list[int]:
        """Branches that make the target network: the first, and those of its size."""
        return [b for b, student in enumerate(self.students) if student == self.students[0]]

    def heatmaps(self, outputs: Outputs) -> Tensor:
        """The ensemble's heatmaps (n, joints, h/4, w/4)."""
        return outputs[1]


def _average(maps: Tensor) -> Tensor:
    """Mean over columns and then rows, in the released order."""
    return maps.mean(-1).mean(-1)


class BranchedHourglass(Branched, Stem):
    """Hourglass stacks that are shared, then branches of own stacks; keys are those of the released code.

    Args:
        shared: stacks that all branches share.
        branches: own stacks of each branch; the first makes the target network.
        official: ``"share"`` or ``"noshare"``, take the ensemble's members where the released network of
            that kind takes them (`_members`); None: the branches' predictions.
    """

    base = "hourglass"

    def __init__(
        self,
        shared: int,
        branches: Sequence[int],
        fau: str,
        official: str | None,
        joints: int,
        options: Mapping[str, Any],
    ) -> None:
        shape = {key: options[key] for key in ("channels", "blocks", "mobile")}
        super().__init__(shape["channels"], shape["mobile"])
        self.students = [{**options, "stacks": shared + own} for own in branches]
        self._own, self._shared_stacks, self._official = list(branches), shared, official
        channels, depth = options["channels"], options["depth"]
        self._add_fau(channels, joints, fau)
        for i in range(shared):
            self._add_stack(f"s_{i}", depth, joints, joined=True, **shape)
        for b, own in enumerate(branches):
            for k in range(own):
                self._add_stack(f"b_{b}_s_{k}", depth, joints, joined=k < own - 1, **shape)

    def _add_stack(
        self, name: str, depth: int, joints: int, *, joined: bool, channels: int, blocks: int, mobile: bool
    ) -> None:
        unit = nn.Sequential(
            HourglassModule(channels, blocks, mobile, depth),
            residuals(channels, channels // 2, blocks, mobile),
            stack_head(channels),
        )
        setattr(self, f"ind_{name}", unit)
        setattr(self, f"score_{name}", nn.Conv2d(channels, joints, 1))
        if joined:
            setattr(self, f"_fc_{name}", nn.Conv2d(channels, channels, 1))
            setattr(self, f"_score_{name}", nn.Conv2d(joints, channels, 1))

    def _stack(self, name: str, x: Tensor) -> tuple[Tensor, Tensor]:
        """Input of the next stack, if there is one, and heatmaps."""
        y = getattr(self, f"ind_{name}")(x)
        maps = getattr(self, f"score_{name}")(y)
        if hasattr(self, f"_fc_{name}"):
            x = x + getattr(self, f"_fc_{name}")(y) + getattr(self, f"_score_{name}")(maps)
        return x, maps

    def _shared(self, x: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        features = x = self.stem(x)
        outputs = []
        for i in range(self._shared_stacks):
            x, maps = self._stack(f"s_{i}", x)
            outputs.append(maps)
        return features, outputs, x

    def _branch(self, index: int, x: Tensor) -> list[Tensor]:
        outputs = []
        for k in range(self._own[index]):
            x, maps = self._stack(f"b_{index}_s_{k}", x)
            outputs.append(maps)
        return outputs

    def _members(self, outputs: list[Tensor], last: list[int]) -> list[Tensor]:
        """By the released indices the last three outputs, or every second one from the first branch's end.

        So "share" leaves the first branch out of the ensemble and takes the last one's intermediate
        heatmaps, and "noshare" is right for two stacks alone.
        """
        count = len(last)
        if self._official == "share":
            return outputs[-count:]
        if self._official == "noshare":
            return [outputs[self._own[0] - 1 + b * (count - 1)] for b in range(count)]
        return super()._members(outputs, last)

    def _student_keys(self, branch: int) -> Iterator[tuple[str, str]]:
        for name in ("conv1", "bn1", "layer1", "layer2", "layer3"):
            yield name, name
        stacks = [f"s_{i}" for i in range(self._shared_stacks)]
        stacks += [f"b_{branch}_s_{k}" for k in range(self._own[branch])]
        for i, name in enumerate(stacks):
            for part, own in enumerate(("hg", "res", "fc")):
                yield f"ind_{name}.{part}", f"{own}.{i}"
            yield f"score_{name}", f"score.{i}"
            if i < len(stacks) - 1:
                yield f"_fc_{name}", f"fc_.{i}"
                yield f"_score_{name}", f"score_.{i}"


class BranchedLPN(Branched):
    """LPN whose stem and first layers are shared; this project's own.

    Args:
        shared: layers that all branches share, 1 to 3.
        branches: blocks in the last layer of each branch; the first makes the target network.
    """

    base = "lpn50"

    def __init__(
        self, shared: int, branches: Sequence[int], fau: str, joints: int, options: Mapping[str, Any]
    ) -> None:
        super().__init__()
        if not 1 <= shared <= 3:
            raise InvalidInputError(f"LPN cannot share {shared} of its four layers; share 1 to 3")
        first = options["blocks"]
        self.students = [{**options, "blocks": [*first[:3], own]} for own in branches]
        whole = [LPN(joints=joints, **student) for student in self.students]
        self._layers = [f"layer{i}" for i in range(shared + 1, 5)]
        own_parts = [*self._layers, "deconv_layers", "final_layer"]
        for name, part in list(whole[0].named_children()):
            if name not in own_parts:
                setattr(self, name, part)
        self._shared_layers = [f"layer{i}" for i in range(1, shared + 1)]
        last = getattr(self, self._shared_layers[-1])[-1]
        self._add_fau(last.conv3.out_channels, joints, fau)
        self.branches = nn.ModuleList(
            nn.ModuleDict({name: getattr(network, name) for name in own_parts}) for network in whole
        )

    def _shared(self, x: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for name in self._shared_layers:
            x = getattr(self, name)(x)
        return x, [], x

    def _branch(self, index: int, x: Tensor) -> list[Tensor]:
        for part in self.branches[index].values():
            x = part(x)
        return [x]

    def _student_keys(self, branch: int) -> Iterator[tuple[str, str]]:
        for name in ("conv1", "bn1", *self._shared_layers):
            yield name, name
        for name in self.branches[branch]:
            yield f"branches.{branch}.{name}", name


class BranchedMobilePose(Branched):
    """MobilePose with one encoder and several decoders to raw heatmaps, as the paper describes it.

    Where the FAU looks is left open there; here at the encoder's features, brought to 256 channels by a
    1x1 convolution, as its own convolutions are dense: on 1280 channels they would have 136 M weights.
    """

    base = "mobilepose"

    def __init__(self, branches: int, fau: str, joints: int, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.students = [{**options, "head": "heatmap"} for _ in range(branches)]
        backbone = options["backbone"]
        self.sides = MobilePose.sides_of(backbone)
        self.encoder = encoder(backbone)
        self.branches = nn.ModuleList(decoder(backbone, joints) for _ in range(branches))
        self.tap = nn.Sequential(
            nn.Conv2d(self.branches[0][0].in_channels, FAU_CHANNELS, 1, bias=False),
            nn.BatchNorm2d(FAU_CHANNELS),
            nn.ReLU(inplace=True),
        )
        self._add_fau(FAU_CHANNELS, joints, fau)

    def _shared(self, x: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        x = self.encoder(x)
        return self.tap(x), [], x

    def _branch(self, index: int, x: Tensor) -> list[Tensor]:
        return [self.branches[index](x)]

    def _student_keys(self, branch: int) -> Iterator[tuple[str, str]]:
        shared, own = whole_names(self.students[branch]["backbone"])
        for name, student in shared.items():
            yield f"encoder.{name}", student
        for name, student in own.items():
            yield f"branches.{branch}.{name}", student


def extract_branch(network: Branched, branch: int) -> nn.Module:
    """The deployable student that one branch and the shared part make.

    Its outputs equal those of the branch to the last bit. It is in the same mode, on the same device, and
    has tensors of its own.

    Args:
        network: a branched network, which stays as it is.
        branch: from 0; 0 is the target.

    Raises:
        InvalidInputError: there is no such branch.
    """
    if not 0 <= branch < len(network.students):
        raise InvalidInputError(f"no branch {branch}; found {len(network.students)} branches; count from 0")
    state = network.state_dict()
    own = {
        student + key.removeprefix(here): value.clone()
        for here, student in network._student_keys(branch)
        for key, value in state.items()
        if key.startswith(here + ".")
    }
    joints = network.fcs[0].out_features if hasattr(network, "fcs") else None
    if joints is None:
        joints = network.fc.out_features // len(network.students)
    with torch.device("meta"):
        student = create(network.base, joints=joints, **network.students[branch])
    student.load_state_dict(own, assign=True)
    return student.train(network.training)


@register
def okdhp(
    base: str = "hourglass",
    shared: int | None = None,
    branches: Sequence[int] | None = None,
    stacks: int | None = None,
    fau: str = "released",
    official_indices: str | None = None,
    joints: int = 16,
    **options: Any,
) -> Branched:
    """Branched network for online distillation: three branches by default, each as deep as the target.

    Args:
        base: network that a branch makes: ``"hourglass"``, ``"lpn50"`` or ``"mobilepose"``, whose encoder
            is shared, with its heatmap head.
        shared: hourglass: stacks that are shared, by default half of the target's (with official indices
            as many as the released network of the kind has). LPN: layers, by default 3.
        branches: hourglass: own stacks of each branch, the first of which is the target's. LPN: blocks
            in the last layer of each. MobilePose: 1, a decoder, for each. Unequal numbers are the paper's
            unbalanced scheme.
        stacks: hourglass: of the target, ``shared + branches[0]``; by default 4.
        fau: feature aggregation unit as ``"released"`` or as in the ``"paper"``'s figure.
        official_indices: hourglass: ``"share"`` or ``"noshare"``, the members that the released networks
            of these kinds take for the ensemble, not all of them the branches' predictions; None: those.
        joints: heatmaps.
        **options: of the base, such as ``channels=128``.

    Raises:
        InvalidInputError: the base cannot be cut, or options do not fit together.
    """
    builders = {"hourglass": hourglass, "lpn50": lpn50, "mobilepose": mobilepose}
    if base not in builders:
        raise InvalidInputError(f"cannot cut network {base!r} into branches; take {', '.join(builders)}")
    known = {
        name: entry.default
        for name, entry in inspect.signature(builders[base]).parameters.items()
        if name not in ("joints", "stacks")
    }
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise InvalidInputError(
            f"network 'okdhp' over {base!r} has no option {', '.join(unknown)}; it takes shared, branches, "
            f"stacks, fau, official_indices, {', '.join(known)}"
        )
    whole = {**known, **options}
    if base != "hourglass" and (stacks is not None or official_indices is not None):
        raise InvalidInputError(
            f"{base} has no stacks; found stacks {stacks}, official_indices {official_indices}; give none"
        )
    if base == "mobilepose":
        branches = [1, 1, 1] if branches is None else list(branches)
        _check_branches(branches)
        if shared is not None or max(branches) > 1 or whole["head"] not in (known["head"], "heatmap"):
            raise InvalidInputError(
                f"MobilePose cannot be cut so; found shared {shared}, branches {branches}, head "
                f"{whole['head']!r}; leave out shared, give 1 for each branch, and train heatmaps"
            )
        return BranchedMobilePose(len(branches), fau, joints, whole)
    if base == "lpn50":
        shared = 3 if shared is None else shared
        branches = [whole["blocks"][3]] * 3 if branches is None else list(branches)
        _check_branches(branches)
        return BranchedLPN(shared, branches, fau, joints, whole)
    if shared is None:
        target = stacks or 4
        shared = {"share": target - 2, "noshare": 0}.get(official_indices or "", target // 2)
    if branches is None:
        branches = [(stacks or 4) - shared] * 3
    branches = list(branches)
    _check_branches(branches)
    if shared < 0 or stacks not in (None, shared + branches[0]):
        raise InvalidInputError(
            f"hourglass stacks do not fit together; found {shared} shared and {branches[0]} of the first "
            f"branch for a target of {stacks}; let them sum up"
        )
    _check_official(official_indices, shared, branches)
    return BranchedHourglass(shared, branches, fau, official_indices, joints, whole)


def _check_branches(branches: Sequence[int]) -> None:
    if len(branches) < 2 or min(branches) < 1:
        raise InvalidInputError(
            f"no such branches; found {list(branches)}; give two at least, each with a part of its own"
        )


def _check_official(official: str | None, shared: int, branches: Sequence[int]) -> None:
    kinds = {None: True, "share": list(branches) == [2, 2, 2], "noshare": shared == 0 and len(branches) == 3}
    if official not in kinds:
        raise InvalidInputError(f"unknown official_indices; found {official!r}; use 'share' or 'noshare'")
    if not kinds[official] or (official == "noshare" and len(set(branches)) != 1):
        raise InvalidInputError(
            f"no released network of kind {official!r} has {shared} shared stacks and branches "
            f"{list(branches)}; 'share' has three branches of 2, 'noshare' shares nothing and has three equal"
        )
