"""Runs ONNX files of a folder by onnxruntime and compares with outputs that libtorch gave (`NAME.onnx` and `NAME.check.safetensors`
with `images.0`, `OUTPUT.0`, `images.1`, ...). Prints one JSON line per file: name and largest difference, absolute and relative
to the largest output. With PyTorch there, `NAME.py` and `NAME.pt` are run too, and trained for a few steps.

    pip install onnxruntime onnx safetensors numpy; python check.py FOLDER
"""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from safetensors.numpy import load_file

try:
    import torch
except ImportError:
    torch = None


def load(path):
    """The module of a TorchScript file or of PyTorch source."""
    if path.suffix == ".pt":
        return torch.jit.load(str(path))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    source = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(source)
    return source.load()


def runner(path):
    """A function from images to a list of outputs, and their names."""
    if path.suffix == ".onnx":
        onnx.checker.check_model(str(path), full_check=True)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return lambda images: session.run(None, {"images": images})
    module = load(path)

    def run(images):
        with torch.no_grad():
            outputs = module(torch.from_numpy(images))
        return [y.numpy() for y in (outputs if isinstance(outputs, tuple) else (outputs,))]

    return run


def fine_tune(path, images):
    """Losses of a few steps towards outputs of zero, and how many of the parameters have a gradient."""
    torch.manual_seed(0)
    module = load(path).train()
    parameters = list(module.parameters())
    optimizer = torch.optim.Adam(parameters, lr=1e-4)
    losses = []
    for _ in range(8):
        outputs = module(torch.from_numpy(images))
        loss = (outputs[0] if isinstance(outputs, tuple) else outputs).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    with_gradient = sum(parameter.grad is not None for parameter in parameters)
    return losses, f"{with_gradient} of {len(parameters)}"


def main(folder):
    for check in sorted(folder.glob("*.check.safetensors")):
        tensors = load_file(check)
        name = check.name.removesuffix(".check.safetensors")
        names = json.loads((folder / f"{name}.outputs.json").read_text())
        for ending in [".onnx"] + ([".pt", ".py"] if torch else []):
            path = folder / (name + ending)
            if not path.exists():
                continue
            run, absolute, relative = runner(path), 0.0, 0.0
            for i in range(sum(key.startswith("images.") for key in tensors)):
                for output, found in zip(names, run(tensors[f"images.{i}"]), strict=True):
                    expected = tensors[f"{output}.{i}"]
                    assert found.shape == expected.shape, (name, output, found.shape, expected.shape)
                    difference = float(np.abs(found - expected).max())
                    absolute = max(absolute, difference)
                    relative = max(relative, difference / max(1e-30, float(np.abs(expected).max())))
            line = {"file": path.name, "absolute": absolute, "relative": relative}
            if path.suffix != ".onnx":
                line["losses"], line["trained"] = fine_tune(path, tensors["images.1"])
                assert min(line["losses"][1:]) < line["losses"][0], line
            print(json.dumps(line), flush=True)


main(Path(sys.argv[1]))
