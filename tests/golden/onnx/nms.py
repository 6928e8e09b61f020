"""Runs detectors with suppression in the file by onnxruntime: of every `NAME.onnx` of a folder with `NAME.images.safetensors`
(`images.0`, `images.1`, ...) writes `NAME.found.safetensors` with `scores.0`, `boxes.0`, `detection_boxes.0`, ...: what the file
makes detections of, and the detections.

    pip install onnxruntime onnx safetensors numpy; python nms.py FOLDER
"""

import sys
from pathlib import Path

import onnx
import onnxruntime
from safetensors.numpy import load_file, save_file

for path in sorted(Path(sys.argv[1]).glob("*.onnx")):
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(path)
    for name in ("scores", "boxes"):
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    images = load_file(path.with_suffix(".images.safetensors"))
    found = {}
    for i in range(len(images)):
        values = session.run(None, {"images": images[f"images.{i}"]})
        found.update({f"{name}.{i}": value for name, value in zip(names, values, strict=True)})
    save_file(found, path.with_suffix(".found.safetensors"))
