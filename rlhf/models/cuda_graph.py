"""CUDA graphs: record the kernels of a function once, then launch them together without Python in between."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def as_cuda_graph(function: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """On a GPU, a call that replays the kernels of `function`; on a CPU, `function` itself.

    The function must read and write the same memory each time, use the same shapes, never wait for the GPU, and be
    harmless when run once more on the same input.  The tensor that it returns is valid until the next call.
    Raises RuntimeError, from torch, if the kernels cannot be recorded.
    """
    if device.type != "cuda":
        return function
    # Run once outside the graph, on another stream: what libraries do in their first call cannot be recorded.
    make_stream: Callable[[torch.device], torch.cuda.Stream] = torch.cuda.Stream  # untyped in torch
    stream = make_stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        function()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = function()

    def replay() -> Tensor:
        graph.replay()
        return output

    return replay
