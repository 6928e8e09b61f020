"""Runs an ONNX file in int8 by onnxruntime and compares bytes: what every QuantizeLinear gives, by onnxruntime and by this program
(a safetensors file with `images`, the results and a tensor of bytes for each). Prints one JSON line: how many bytes are compared, which
part of them is equal, the largest difference in steps, how many convolutions and linear layers there are, and how many of them
onnxruntime computes in integers.

    pip install onnxruntime onnx safetensors numpy; python int8.py FILE.onnx FILE.safetensors
"""

import collections
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from safetensors.numpy import load_file


def session_and_operators(model):
    """A session, and its operators by type after onnxruntime has joined what it can."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        optimized = onnx.load(options.optimized_model_filepath)
    return session, collections.Counter(node.op_type for node in optimized.graph.node)


def with_bytes(path):
    """The model with all its bytes as further outputs."""
    model = onnx.load(path)
    names = [node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, None) for name in names)
    return model, names


def main(path, check):
    onnx.checker.check_model(str(path), full_check=True)
    tensors = load_file(check)
    model, names = with_bytes(path)
    session, joined = session_and_operators(model)
    results = [output.name for output in session.get_outputs() if output.name not in names]
    compared = equal = largest = 0
    for name, found in zip(names, session.run(names, {"images": tensors["images"]}), strict=True):
        expected = tensors[name]
        assert found.dtype == expected.dtype == np.uint8 and found.shape == expected.shape, name
        steps = np.abs(found.astype(int) - expected.astype(int))
        compared, equal, largest = compared + steps.size, equal + int((steps == 0).sum()), max(largest, int(steps.max()))
    shapes = [list(found.shape) for found in session.run(results, {"images": tensors["images"]})]
    assert shapes == [list(tensors[name].shape) for name in results]
    layers = sum(node.op_type in ("Conv", "Gemm") for node in model.graph.node)
    print(json.dumps({
        "values": len(names),
        "bytes": compared,
        "equal": equal / compared,
        "largest": largest,
        "layers": layers,
        "joined": joined["QLinearConv"] + joined["QGemm"],
    }))


main(Path(sys.argv[1]), Path(sys.argv[2]))
