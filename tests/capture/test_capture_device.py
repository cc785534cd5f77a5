"""Traces of models on a GPU become traces in main memory. No GPU is needed: the trace is written by hand."""

import torch
import torch.fx

from pysciode.capture.torch.device import move_to_main_memory

aten = torch.ops.aten


def test_nothing_of_a_trace_stays_on_the_device():
    device = torch.device("cuda", 0)
    graph = torch.fx.Graph()
    u = graph.placeholder("u")
    ones = graph.call_function(aten.ones.default, ([2, 3],), {"device": device, "pin_memory": False})
    moved = graph.call_function(aten._to_copy.default, (ones,), {"dtype": torch.float64, "device": device})
    weight = graph.get_attr("weight")
    graph.output((graph.call_function(aten.add.Tensor, (graph.call_function(aten.mul.Tensor, (u, weight)), moved)),))
    module = torch.fx.GraphModule({"weight": torch.full((3,), 2.0, dtype=torch.float64)}, graph)
    move_to_main_memory(module)
    x = torch.randn(2, 3, dtype=torch.float64)
    (out,) = module(x)
    assert out.device.type == "cpu"
    assert torch.equal(out, 2 * x + 1)
    assert "cuda" not in module.code
