"""A network exported to onnxruntime and OpenVINO, in a plain Euler loop."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
import onnxruntime
import openvino
import torch
from torch import Tensor

import otcache
from foreign.case import Case
from foreign.toys import VECTOR, Network, gaussian, trained

EXAMPLE = (torch.zeros(4, *VECTOR), torch.zeros(4))


@cache
def network() -> Network:
    """Return the trained network, once."""
    return trained()


@cache
def session() -> onnxruntime.InferenceSession:
    """Return the network in onnxruntime."""
    file = io.BytesIO()
    axes = {name: {0: "n"} for name in ("x", "t", "v")}
    names = {"input_names": ["x", "t"], "output_names": ["v"], "dynamic_axes": axes}
    torch.onnx.export(network(), EXAMPLE, file, **names, dynamo=False)
    return onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])


@cache
def compiled() -> openvino.CompiledModel:
    """Return the network in OpenVINO, in float32."""
    model = openvino.convert_model(network(), example_input=EXAMPLE)
    return openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def in_pytorch() -> otcache.Loop:
    """Return the same network in PyTorch, to compare."""
    net = network()

    def sample(prompts, seeds, num_steps):
        x = gaussian(seeds)
        for i in range(num_steps):
            x = x + net(x, torch.full((len(x),), i / num_steps)) / num_steps
        return x

    return otcache.loop(sample, denoiser=net)


def onnxruntime_run() -> otcache.Loop:
    net = session()

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return torch.from_numpy(net.run(["v"], {"x": x.numpy(), "t": t.numpy()})[0])

    def sample(prompts, seeds, num_steps):
        x = gaussian(seeds)
        for i in range(num_steps):
            x = x + loop.denoiser(x, torch.full((len(x),), i / num_steps)) / num_steps
        return x

    loop = otcache.loop(sample, denoiser=velocity)
    return loop


def onnxruntime_binding() -> otcache.Loop:
    net = session()
    buffers: dict[int, Tensor] = {}

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        v = buffers.setdefault(len(x), torch.empty_like(x))
        binding = net.io_binding()
        for name, tensor in (("x", x), ("t", t)):
            binding.bind_input(name, "cpu", 0, np.float32, tensor.shape, tensor.data_ptr())
        binding.bind_output("v", "cpu", 0, np.float32, v.shape, v.data_ptr())
        net.run_with_iobinding(binding)
        return v

    def sample(prompts, seeds, num_steps):
        x = gaussian(seeds)
        for i in range(num_steps):
            x = x + loop.denoiser(x, torch.full((len(x),), i / num_steps)) / num_steps
        return x

    loop = otcache.loop(sample, denoiser=velocity)
    return loop


def openvino_call() -> otcache.Loop:
    net = compiled()

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return torch.from_numpy(net([x.numpy(), t.numpy()])[0])

    def sample(prompts, seeds, num_steps):
        x = gaussian(seeds)
        for i in range(num_steps):
            x = x + loop.denoiser(x, torch.full((len(x),), i / num_steps)) / num_steps
        return x

    loop = otcache.loop(sample, denoiser=velocity)
    return loop


def openvino_request() -> otcache.Loop:
    request = compiled().create_infer_request()

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        request.infer([x.numpy(), t.numpy()], share_inputs=True)
        return torch.from_numpy(request.get_output_tensor().data)

    def sample(prompts, seeds, num_steps):
        x = gaussian(seeds)
        for i in range(num_steps):
            x = x + loop.denoiser(x, torch.full((len(x),), i / num_steps)) / num_steps
        return x

    loop = otcache.loop(sample, denoiser=velocity)
    return loop


CASES = [
    Case("torch", "the network, not exported", in_pytorch),
    Case("onnxruntime", "InferenceSession.run", onnxruntime_run),
    Case("onnxruntime", "run_with_iobinding, one output buffer", onnxruntime_binding),
    Case("openvino", "CompiledModel", openvino_call),
    Case("openvino", "InferRequest, its own output buffer", openvino_request),
]
