"""The supernet: every candidate of every layer of a search space, as a backbone."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
from itertools import islice, zip_longest
from operator import add
from typing import Any

import torch
from mmaction.registry import MODELS
from torch import Tensor, nn

from ..space.checks import wrong
from ..space.layout import Layer, layout
from ..space.search_space import SearchSpace
from .backbone import Backbone
from .blocks import Block
from .relaxation import Choice, Draw, sample

Choices = tuple[Choice, ...]
"""What each layer runs: a path through the supernet."""


class MixedLayer(nn.Module):
    """Candidates of one layer, of which it runs those it is told to."""

    def __init__(self, candidates: Sequence[str], layer: Layer) -> None:
        super().__init__()
        self.ops = nn.ModuleList(Block(layout(spec, layer)) for spec in candidates)

    def forward(self, x: Tensor, choice: Choice) -> Tensor:
        """The candidates of ``choice``, added up by its weights."""
        ops = [self.ops[index] for index in choice.indices]
        if choice.weights is None:
            return ops[0](x)
        pairs = zip(choice.weights.unbind(), ops, strict=True)
        return reduce(add, (weight * op(x) for weight, op in pairs))


@MODELS.register_module()
class PVNASSupernet(Backbone):
    """Supernet of a search space, the backbone of a ``Recognizer3D``.

    The path, what each layer runs, is an argument of :meth:`forward`, or comes by
    :meth:`use_path` where a recognizer stands between. Without one, each layer runs its
    most probable candidate.

    Args:
        space: The search space, as config data (``SearchSpace.from_config``).
        share: Whether the candidates of a layer share convolutions of the same role and
            kernel (:meth:`share_weights`). Default True.
        init_cfg: As in MMEngine's ``BaseModule``. Default None.

    Attributes:
        alphas: One parameter (L, K) in float32, for L layers of at most K candidates.
            Entries without a candidate have no effect and get no gradient.
        counts: Number of candidates of each layer.
    """

    def __init__(
        self,
        space: Mapping[str, Any],
        share: bool = True,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.space = SearchSpace.from_config(space)
        self.whose = f"the supernet of space {self.space.name!r}"
        self.share = share
        self.skeleton = skeleton = self.space.skeleton
        self.stem = Block(skeleton.stem_layout)
        pairs = zip(self.space.candidates, self.space.layers, strict=True)
        self.layers = nn.ModuleList(MixedLayer(*pair) for pair in pairs)
        self.head = Block(skeleton.head_layout)
        self.counts = [len(candidates) for candidates in self.space.candidates]
        self.alphas = nn.Parameter(torch.zeros(len(self.counts), max(self.counts)))
        self._padding: Tensor | None = None
        self._choices: Choices | None = None
        self._first = 0

    def logits(self) -> Tensor:
        """Alphas (L, K), with gradient; -inf where there is no candidate."""
        device = self.alphas.device
        if self._padding is None or self._padding.device != device:
            ends = torch.tensor(self.counts, device=device).unsqueeze(1)
            self._padding = torch.arange(max(self.counts), device=device) >= ends
        return self.alphas.masked_fill(self._padding, -torch.inf)

    def probabilities(self) -> Tensor:
        """p, (L, K), with gradient; 0 where there is no candidate."""
        return torch.softmax(self.logits(), dim=1)

    def read_alphas(self) -> list[list[float]]:
        """Alphas of each layer's candidates: one copy to the host."""
        return self.rows(self.alphas.tolist())

    def rows(self, values: Sequence[Sequence[float]]) -> list[list[float]]:
        """The entries of (L, K) values that belong to a candidate."""
        return [list(row[:n]) for row, n in zip(values, self.counts, strict=True)]

    @torch.no_grad()
    def write_alphas(self, rows: Sequence[Sequence[float]]) -> None:
        """Set the alphas of each layer's candidates."""
        self.alphas.copy_(padded(rows))

    def sample(
        self,
        relaxation: str,
        generator: torch.Generator | None = None,
        alphas: Sequence[Sequence[float]] | None = None,
    ) -> Choices:
        """Draw a path by the name of a relaxation, with noise from a generator on the
        CPU. ``alphas`` is what :meth:`read_alphas` gives; None: they are read now."""
        host = padded(self.read_alphas() if alphas is None else alphas, -torch.inf)
        draw = Draw(self.logits(), host, self.counts, generator)
        return sample(relaxation, draw)

    def share_weights(self) -> dict[nn.Parameter, nn.Parameter]:
        """Let the candidates of a layer share the memory of their convolutions: of one
        role and kernel, narrower ones have the first channels of the widest, as in OFA
        (Cai et al., ICLR 2020). Batch normalisations stay apart.

        Call it once the model is on its device. Gives the widest convolution's weight
        for that of each other one: the one to train.
        """
        owners: dict[nn.Parameter, nn.Parameter] = {}
        for layer in self.layers if self.share else ():
            groups: dict[tuple, list[nn.Parameter]] = {}
            for op in layer.ops:
                for part in op.layout.convolutions:
                    key = op.layout.convolutions[0].role, part.role, part.kernel
                    weight = op.get_submodule(part.role).conv.weight
                    groups.setdefault(key, []).append(weight)
            for group in groups.values():
                owner = max(group, key=Tensor.numel)
                for weight in (w for w in group if w is not owner):
                    weight.data = first_channels(owner.data, weight)
                    owners[weight] = owner
        return owners

    def path_of(self, indices: Sequence[int]) -> Choices:
        """The path that runs one network."""
        return tuple(Choice((int(index),)) for index in indices)

    @contextmanager
    def use_path(self, path: Choices, first: int = 0) -> Iterator[None]:
        """Run ``path`` in every forward within this context. With ``first`` above 0 the
        input is that of the layer of this number; what stands before is not run."""
        previous = self._choices, self._first
        self._choices, self._first = path, first
        try:
            yield
        finally:
            self._choices, self._first = previous

    def forward(self, x: Tensor, path: Choices | None = None) -> Tensor:
        """(N, C, T, H, W) -> (N, head_channels, T', H', W')."""
        if not (path := path or self._choices):
            path = self.path_of([row.index(max(row)) for row in self.read_alphas()])
        x = x.contiguous(memory_format=torch.channels_last_3d)
        if self._first == 0:
            x = self.stem(x)
        layers = zip(self.layers, path, strict=True)
        for layer, choice in islice(layers, self._first, None):
            x = layer(x, choice)
        return self.head(x)


def find_supernet(model: nn.Module) -> PVNASSupernet:
    """The one supernet within a model; ValueError where there is none, or more."""
    found = [m for m in model.modules() if isinstance(m, PVNASSupernet)]
    if len(found) != 1:
        hint = "set model.backbone.type='PVNASSupernet' to search"
        raise wrong("model", "one supernet", str(len(found)), hint)
    return found[0]


def first_channels(widest: Tensor, weight: Tensor) -> Tensor:
    """What a narrower convolution's ``weight`` shares of the widest one's."""
    return widest[tuple(map(slice, weight.shape[:2]))]


def padded(rows: Sequence[Sequence[float]], value: float = 0.0) -> Tensor:
    """Rows of unlike lengths as one tensor (L, K) in float64, filled up."""
    columns = zip_longest(*rows, fillvalue=value)
    return torch.tensor([*zip(*columns, strict=True)], dtype=torch.float64)


def log_probabilities(rows: Sequence[Sequence[float]]) -> list[list[float]]:
    """log softmax(alpha) of the alphas of each layer, in float64."""
    tensors = (torch.tensor(row, dtype=torch.float64) for row in rows)
    return [torch.log_softmax(row, 0).tolist() for row in tensors]


def inherit_weights(
    state: Mapping[str, Tensor], indices: Sequence[int]
) -> dict[str, Tensor]:
    """State dict of the network with candidate ``indices[l]`` at layer l, out of that
    of a supernet, or of a recognizer around one."""
    (key,) = (key for key in state if key.split(".")[-1] == "alphas")
    prefix = key.removesuffix("alphas")
    pattern = re.compile(rf"({re.escape(prefix)}layers\.(\d+))\.ops\.(\d+)(\..+)")
    derived: dict[str, Tensor] = {}
    for name, value in state.items():
        match = pattern.fullmatch(name)
        if match and int(match[3]) == indices[int(match[2])]:
            derived[match[1] + match[4]] = value
        elif not match and name != key:
            derived[name] = value
    return derived
