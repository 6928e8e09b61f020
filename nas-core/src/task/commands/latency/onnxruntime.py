"""Times an ONNX file in onnxruntime, as docs/latency.md says. The one argument is JSON: model, input (a file of float32), shape,
threads, card (the index of a CUDA device, or null), warm_up_secs, least_warm_up_runs, rounds, runs_per_round, pause_secs. Prints JSON:
warm_up_runs, millis (a list per round), version, threads. Exit code 3: a package is missing."""

import json
import sys
import time

try:
    import numpy
    import onnxruntime
except ImportError as error:
    print(f"{sys.executable}: {error}", file=sys.stderr)
    sys.exit(3)

settings = json.loads(sys.argv[1])
providers = ["CPUExecutionProvider"]
if settings["card"] is not None:
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        sys.exit("this onnxruntime computes on the CPU alone; expected the package onnxruntime-gpu, or --device cpu")
    providers.insert(0, ("CUDAExecutionProvider", {"device_id": settings["card"]}))

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = settings["threads"]
options.inter_op_num_threads = 1
try:
    session = onnxruntime.InferenceSession(settings["model"], options, providers=providers)
except Exception as error:
    sys.exit(f"{settings['model']}: {error}")
# Where a card cannot be used, onnxruntime goes on without it.
if settings["card"] is not None and session.get_providers()[0] != "CUDAExecutionProvider":
    sys.exit("onnxruntime could not use the card (its own message is above)")

image = numpy.fromfile(settings["input"], dtype="<f4").reshape(settings["shape"])
feed = {session.get_inputs()[0].name: image}


def timed():
    start = time.perf_counter_ns()
    session.run(None, feed)
    return (time.perf_counter_ns() - start) / 1e6


try:
    session.run(None, feed)
except Exception as error:
    sys.exit(f"{settings['model']}: {error}")
warm_up_runs, start = 1, time.perf_counter()
while warm_up_runs < settings["least_warm_up_runs"] or time.perf_counter() - start < settings["warm_up_secs"]:
    session.run(None, feed)
    warm_up_runs += 1
rounds = []
for _ in range(settings["rounds"]):
    time.sleep(settings["pause_secs"])
    rounds.append([timed() for _ in range(settings["runs_per_round"])])
print(
    json.dumps(
        {
            "warm_up_runs": warm_up_runs,
            "millis": rounds,
            "version": onnxruntime.__version__,
            "threads": settings["threads"],
        }
    )
)
