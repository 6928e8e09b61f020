"""Times `nas-segment miou` and the command csEvalPixelLevelSemanticLabeling, with its default options, on the same files.

    python -m venv v && v/bin/pip install "numpy<2" pillow cityscapesscripts
    cargo build --release -p nas-segment && v/bin/python tests/golden/miou/bench.py [pairs [instances]]

Ids are Cityscapes' label ids (34), so that both read the same files; the mean over the 19 evaluated classes is compared.
The reference reads instance maps too: 18 instances per image is what Cityscapes' train set has on average, 0 is the
reference at its fastest. A fixed 0.2 s of nas-segment's time is the start of libtorch, so that the ratio grows with the
number of pairs. On a busy machine look at the CPU seconds.
"""
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from cityscapesscripts.helpers.labels import labels

ROOT = Path(__file__).parents[3]
BLOCK = 32


def instance_map(truth, rng):
    """Id * 1000 + number in some blocks of the classes that have instances, the plain id elsewhere."""
    out = truth.astype(np.uint16)
    blocks = np.argwhere(np.isin(truth[::BLOCK, ::BLOCK], things))
    for number, (y, x) in enumerate(rng.permutation(blocks)[:instances]):
        block = out[y * BLOCK : (y + 1) * BLOCK, x * BLOCK : (x + 1) * BLOCK]
        block[:] = block * 1000 + number
    return out


def timed(command, **kwargs):
    """What a command prints, its wall-clock seconds and its CPU seconds."""
    cpu = lambda: sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    start, cpu_start = time.perf_counter(), cpu()
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, **kwargs).stdout
    return out, time.perf_counter() - start, cpu() - cpu_start


pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
instances = int(sys.argv[2]) if len(sys.argv) > 2 else 18
things = [l.id for l in labels if l.hasInstances and 0 <= l.trainId < 255]
ids = [l.id for l in labels if 0 <= l.trainId < 255]
with tempfile.TemporaryDirectory() as folder:
    folder = Path(folder)
    gt, pred = folder / "gtFine" / "val" / "city", folder / "results"
    gt.mkdir(parents=True)
    pred.mkdir()
    for i in range(pairs):
        rng = np.random.default_rng(i)
        truth = rng.choice(ids, (1024 // BLOCK, 2048 // BLOCK)).repeat(BLOCK, 0).repeat(BLOCK, 1).astype(np.uint8)
        guess = np.where(rng.random((128, 256)).repeat(8, 0).repeat(8, 1) < 0.7, truth, rng.choice(ids)).astype(np.uint8)
        name = f"city_{i:06}_000019"
        Image.fromarray(truth).save(gt / f"{name}_gtFine_labelIds.png")
        Image.fromarray(instance_map(truth, rng)).save(gt / f"{name}_gtFine_instanceIds.png")
        Image.fromarray(guess).save(pred / f"{name}.png")
    env = dict(os.environ, CITYSCAPES_DATASET=str(folder), CITYSCAPES_RESULTS=str(pred))
    env["CITYSCAPES_EXPORT_DIR"] = str(folder)
    command = [str(Path(sys.executable).with_name("csEvalPixelLevelSemanticLabeling"))]
    _, their_secs, their_cpu = timed(command, env=env)
    theirs = json.loads((folder / "resultPixelLevelSemanticLabeling.json").read_text())["averageScoreClasses"]
    (folder / "gt").mkdir()
    for path in gt.glob("*_labelIds.png"):
        path.rename(folder / "gt" / path.name)
    command = [str(ROOT / "target/release/nas-segment"), "miou", "--pred", str(pred), "--gt", str(folder / "gt")]
    out, our_secs, our_cpu = timed(command + ["--num-classes", "34", "--format", "json"])
    iou = json.loads(out)["iou"]
    ours = np.mean([iou[i] for i in ids if iou[i] is not None])
print(f"{pairs} pairs of 1024x2048, {instances} instances each, process start included")
print(f"csEvalPixelLevelSemanticLabeling {their_secs:.2f} s, CPU {their_cpu:.2f} s, mIOU {theirs:.12f}")
print(f"nas-segment miou                 {our_secs:.2f} s, CPU {our_cpu:.2f} s, mIOU {ours:.12f}")
print(f"times faster: {their_secs / our_secs:.1f}, by CPU seconds {their_cpu / our_cpu:.1f}")
