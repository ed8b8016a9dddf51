"""The networks of a space in onnxruntime: stem, candidates and head are exported once,
and a network is their graphs, one behind the other."""

import logging
import time
import timeit
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..models.blocks import fold_batch_norm
from ..models.supernet import PVNASSupernet

OPSET = 18
NUM_MEANS = 10
NUM_TIMED = 15
Run = Callable[[np.ndarray], np.ndarray]


class OnnxParts:
    """ONNX graphs of stem, candidates and head; batch norm is folded in place."""

    @torch.no_grad()
    def __init__(
        self, supernet: PVNASSupernet, head: nn.Module, shape: Sequence[int]
    ) -> None:
        fold_batch_norm(supernet)
        (self.stem,), x = _export([supernet.stem], torch.zeros(shape))
        self.layers: list[list[Any]] = []
        known: dict[Any, list[Any]] = {}
        space = supernet.space
        for i, layer in enumerate(supernet.layers):
            facts = space.layers[i]
            key = space.candidates[i], facts.out_channels, facts.stride, x.shape
            if key in known:
                x = layer.ops[0](x)
            else:
                known[key], x = _export(list(layer.ops), x)
            self.layers.append(known[key])
        (self.head,), _ = _export([head], x)

    def network(self, indices: Sequence[int]) -> Any:
        from onnx import compose, helper

        chosen = [row[i] for row, i in zip(self.layers, indices, strict=True)]
        nodes, weights, name = [], [], "x"
        for number, graph in enumerate([self.stem, *chosen, self.head]):
            part = compose.add_prefix(graph, f"{number}_").graph
            nodes.append(helper.make_node("Identity", [name], [part.input[0].name]))
            nodes += part.node
            weights += part.initializer
            name = part.output[0].name
        (given,), (wanted,) = self.stem.graph.input, part.output
        whole = helper.make_graph(nodes, "network", [given], [wanted], weights)
        versions = dict(opset_imports=self.stem.opset_import)
        return helper.make_model(whole, ir_version=self.stem.ir_version, **versions)


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings: ONNX's tools have some for every model."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def onnx_program(module: nn.Module, x: Tensor, **names: Any) -> torch.onnx.ONNXProgram:
    with quiet():
        return torch.onnx.export(
            module, (x,), dynamo=True, verbose=False, opset_version=OPSET, **names
        )


def start(graph: Any, threads: int | None = None) -> Run:
    """A graph, or its file, as a function; threads None: all cores."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    source = str(graph) if isinstance(graph, Path) else graph.SerializeToString()
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(source, options, providers=providers)
    (given,) = session.get_inputs()
    return lambda x: session.run(None, {given.name: x})[0]


def measured_ms(path: Path, shape: Sequence[int], threads: int) -> float:
    """Milliseconds of an exported network on this CPU for a view (C, T, H, W): the
    lowest mean of some, as other programs only add to it."""
    run = start(path, threads)
    view = np.random.default_rng(0).standard_normal((1, *shape), np.float32)
    # Of one thread, the time that it had the processor.
    timer = time.thread_time if threads == 1 else time.perf_counter
    seconds = timeit.repeat(
        lambda: run(view), timer=timer, repeat=NUM_MEANS, number=NUM_TIMED
    )
    return 1e3 * min(seconds) / NUM_TIMED


class _Together(nn.Module):
    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(part(x) for part in self.parts)


@torch.no_grad()
def _export(modules: Sequence[nn.Module], x: Tensor) -> tuple[list[Any], Tensor]:
    # In one export, as each costs a second.
    from onnx.utils import Extractor

    names = [f"y{index}" for index in range(len(modules))]
    program = onnx_program(_Together(modules), x, input_names=["x"], output_names=names)
    extractor = Extractor(program.model_proto)
    # Before torch 2.7 what skip gives, which is the input, gives it its name.
    given = [program.model_proto.graph.input[0].name]
    graphs = [_with_a_node(extractor.extract_model(given, [name])) for name in names]
    return graphs, modules[0](x)


def _with_a_node(model: Any) -> Any:
    """Before torch 2.7 the graph of skip has none; onnxruntime then returns the memory
    of the input, which its caller may free before it reads the output."""
    from onnx import helper

    graph = model.graph
    if not graph.node:
        (given,), (wanted,) = graph.input, graph.output
        wanted.name = f"{given.name}_again"
        graph.node.append(helper.make_node("Identity", [given.name], [wanted.name]))
    return model
