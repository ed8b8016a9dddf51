"""Weights of any candidate out of a donor's block.

==============================  =======================================  ============
difference from the donor       rule                                     known from
==============================  =======================================  ============
temporal kernel of a            the donor's on the middle frame, zeros   I3D [1]_, which
convolution (joint, reduce)     on the others                            takes the mean
temporal convolution            identity; it takes the batch norm of     R(2+1)D [2]_,
                                the spatial one in front of it           Net2Net [3]_
spatial kernel                  larger: zeros around the donor's;        FNA [4]_
                                smaller: its middle
fewer hidden channels           those of the largest L1 norm in the      OFA [5]_
                                convolution that consumes them, the
                                same in every part
more layers in a stage          the stage's last block, its output       FNA, Net2Net
                                scaled by zero: an identity at first
temporal shift                  the donor's weights                      TSM [6]_
==============================  =======================================  ============

Weight on the middle frame computes on every clip what the donor computes on each of its
frames; I3D's mean does so on clips that stand still. Batch norm's parameters and
statistics go along with their channels. Hidden channels of every candidate are in the
order of their norm, so that a narrower one has the first channels of a wider one.

.. [1] Carreira and Zisserman, CVPR 2017.  .. [2] Tran et al., CVPR 2018.
.. [3] Chen, Goodfellow and Shlens, ICLR 2016.  .. [4] Fang et al., ICLR 2020.
.. [5] Cai et al., ICLR 2020.  .. [6] Lin, Gan and Han, ICCV 2019.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import gt

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmengine.model import update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import Tensor, nn

from ..space.checks import wrong
from ..space.genotype import Skeleton
from .donor import Block, Donor, is_residual, load_state, out_channels, read_donor

_ENTRY = re.compile(r"(stem|head|layers\.\d+)\.(?:ops\.(\d+)\.)?(.+)")


def shape_kernel(weight: Tensor, shape: Sequence[int]) -> Tensor:
    """Weights (O, I, K, K) in another shape (o, i, Kt, k, k): the first channels."""
    out, width, frames, size, _ = shape
    margin = (size - weight.shape[-1]) // 2
    result = weight.new_zeros(tuple(shape))
    # A negative margin crops.
    result[:, :, frames // 2] = F.pad(weight[:out, :width], (margin,) * 4)
    return result


def rank_channels(block: Block) -> Block:
    """A block that computes the same, with hidden channels in the order of the L1 norm
    of the weights that consume them."""
    block = dict(block)
    if is_residual(block):
        _sort(block, ("reduce",), "spatial")
        _sort(block, ("spatial",), "expand")
    elif "expand.conv.weight" in block:
        _sort(block, ("expand", "spatial"), "project")
    return block


def _sort(block: Block, makers: Sequence[str], consumer: str) -> None:
    """Sort the channels that parts ``makers`` make and ``consumer`` takes."""
    weight = block[f"{consumer}.conv.weight"]
    order = weight.abs().sum((0, 2, 3)).argsort(descending=True, stable=True)
    block[f"{consumer}.conv.weight"] = weight[:, order]
    for key in block:
        if key.partition(".")[0] in makers:
            block[key] = block[key][order]


def shape_block(block: Block, shapes: Mapping[str, Sequence[int]]) -> Block:
    """Weights of a candidate with parameters of these names and shapes, out of a
    donor's block (with ranked channels), stem or head: all but squeeze-and-excitation;
    none where it has more channels or other convolutions."""
    result = {}
    if ("expand.conv.weight" in block) != ("expand.conv.weight" in shapes):
        return {}
    for name, shape in shapes.items():
        if name.startswith("se.") or name.endswith("num_batches_tracked"):
            continue
        source = _source(block, name)
        if source is None or any(map(gt, shape[:2], source.shape)):
            return {}
        is_kernel = len(shape) == 5
        result[name] = shape_kernel(source, shape) if is_kernel else source[: shape[0]]
    return result


def _source(block: Block, name: str) -> Tensor | None:
    # The spatial one gives to a joint one, and its batch norm to a temporal identity.
    if name == "temporal.conv.weight":
        return torch.ones(len(block["spatial.bn.bias"]), 1, 1, 1)
    return block.get(re.sub("^(temporal|joint)", "spatial", name))


def match_layers(donor: Donor, skeleton: Skeleton) -> list[tuple[Block, bool]]:
    """For each layer the donor's block, and whether the donor has none of its own;
    ValueError where the widths of stem, stages or head differ."""
    widths = (layer.out_channels for layer in skeleton.layers)
    stages = [[*run] for _, run in groupby(widths)]
    found = [[*run] for _, run in groupby(donor.layers, out_channels)]
    has = [len(donor.stem["spatial.bn.bias"])]
    has += [out_channels(blocks[0]) for blocks in found]
    needs = [skeleton.stem.channels, *(stage[0] for stage in stages)]
    if skeleton.head_channels is not None:
        has.append(len(donor.head.get("project.bn.bias", ())))
        needs.append(skeleton.head_channels)
    if has != needs:
        expected = f"stem, stages and head of {needs} channels, as the space has"
        raise wrong("checkpoint", expected, f"{has}", "use the space of this donor")
    return [
        (blocks[min(i, len(blocks) - 1)], i >= len(blocks))
        for blocks, stage in zip(found, stages, strict=True)
        for i in range(len(stage))
    ]


def inherit(
    shapes: Mapping[str, Sequence[int]], skeleton: Skeleton, donor: Donor
) -> tuple[Block, dict[str, Counter[str]]]:
    """Entries of a state dict with these names and shapes, out of a donor; and for
    stem, each layer and head the number of convolutions that are ``exact``,
    ``reshaped`` and left ``random``. ValueError as for :func:`match_layers`."""
    sources = {"stem": (donor.stem, False), "head": (donor.head, False)}
    for i, (block, extra) in enumerate(match_layers(donor, skeleton)):
        sources[f"layers.{i}"] = (rank_channels(block), extra)
    candidates: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for key in shapes:
        if match := _ENTRY.fullmatch(key):
            candidates[match[1], match[2]][match[3]] = key
    inherited: Block = {}
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for (place, _), keys in candidates.items():
        block, extra = sources[place]
        wanted = {name: tuple(shapes[key]) for name, key in keys.items()}
        result = shape_block(block, wanted)
        if extra:
            last = "expand" if is_residual(wanted) else "project"
            for name in (f"{last}.bn.weight", f"{last}.bn.bias"):
                result[name] = torch.zeros(wanted[name])
        for name, shape in wanted.items():
            if len(shape) == 5 and name in result:
                same = (*shape[:2], *shape[3:]) == tuple(_source(block, name).shape)
                table[place]["exact" if same else "reshaped"] += 1
            elif len(shape) == 5 or name == "se.reduce.weight":
                table[place]["random"] += 1
        inherited.update({keys[name]: value for name, value in result.items()})
    return inherited, dict(table)


@torch.no_grad()
def spread(supernet: nn.Module, indices: Sequence[int]) -> list[str]:
    """Give every candidate of a supernet the weights of one network in it, of blocks
    without temporal convolutions; names those that keep some of their own, as
    ``"layers.3 mb_t1_k3_e8"``."""
    left, count = [], sum(supernet.counts)
    for i, (mixed, index) in enumerate(zip(supernet.layers, indices, strict=True)):
        source = _floats(mixed.ops[index])
        block = {k: v[:, :, 0] if v.dim() == 5 else v for k, v in source.items()}
        if not supernet.share:  # those have the order that the donor gave them
            block = rank_channels(block)
        others = ((j, op) for j, op in enumerate(mixed.ops) if j != index)
        for j, op in others:
            own = _floats(op)
            weights = shape_block(block, {k: v.shape for k, v in own.items()})
            for key, value in weights.items():
                own[key].copy_(value)
            if len(weights) < len(own):
                left.append(f"layers.{i} {supernet.space.candidates[i][j]}")
    text = f"{count - len(left)} of {count} candidates have the tuned network's weights"
    rest = ", ".join(left) or "none"
    print_log(f"{text}, in part or not at all: {rest}", logger="current")
    return left


def _floats(module: nn.Module) -> Block:
    return {k: v for k, v in module.state_dict().items() if v.is_floating_point()}


@WEIGHT_INITIALIZERS.register_module()
class InheritFrom:
    """Initialise a supernet or a network from a donor; for its ``init_cfg``.

    Args:
        checkpoint: As for :func:`load_state`.
        naming: A name out of ``donor.NAMINGS``. Default ``"auto"``: the one that fits.
    """

    def __init__(self, checkpoint: str, naming: str = "auto") -> None:
        self.checkpoint = checkpoint
        self.naming = naming

    @torch.no_grad()
    def __call__(self, module: nn.Module) -> None:
        donor = read_donor(load_state(self.checkpoint), self.naming)
        state = module.state_dict()
        shapes = {key: value.shape for key, value in state.items()}
        weights, table = inherit(shapes, module.skeleton, donor)
        for key, value in weights.items():
            state[key].copy_(value)
        kinds = ("exact", "reshaped", "random")
        lines = [f"Convolutions inherited from {self.checkpoint} ({donor.naming}):"]
        lines.append(f"{'part':<10}" + "%9s" * 3 % kinds)
        for part, number in table.items():
            lines.append(f"{part:<10}" + "%9d" * 3 % tuple(number[k] for k in kinds))
        print_log("\n".join(lines), logger="current")
        update_init_info(module, init_info=f"InheritFrom {self.checkpoint}")
