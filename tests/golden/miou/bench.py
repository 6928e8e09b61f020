"""Times `nas-segment miou` and the command csEvalPixelLevelSemanticLabeling, with its default options, on the same files.

    python tests/golden/miou/bench.py [pairs]     (needs numpy, pillow, cityscapesscripts; build nas-segment first)

Ids are Cityscapes' label ids (34), so that both read the same files; the mean over the 19 evaluated classes is compared.
"""
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from cityscapesscripts.helpers.labels import labels

ROOT = Path(__file__).parents[3]
pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
ids = [l.id for l in labels if 0 <= l.trainId < 255]
with tempfile.TemporaryDirectory() as folder:
    folder = Path(folder)
    gt, pred = folder / "gtFine" / "val" / "city", folder / "results"
    gt.mkdir(parents=True)
    pred.mkdir()
    for i in range(pairs):
        rng = np.random.default_rng(i)
        truth = rng.choice(ids, (32, 64)).repeat(32, 0).repeat(32, 1).astype(np.uint8)
        guess = np.where(rng.random((128, 256)).repeat(8, 0).repeat(8, 1) < 0.7, truth, rng.choice(ids)).astype(np.uint8)
        name = f"city_{i:06}_000019"
        Image.fromarray(truth).save(gt / f"{name}_gtFine_labelIds.png")
        Image.fromarray(truth.astype(np.uint16)).save(gt / f"{name}_gtFine_instanceIds.png")
        Image.fromarray(guess).save(pred / f"{name}.png")
    env = dict(os.environ, CITYSCAPES_DATASET=str(folder), CITYSCAPES_RESULTS=str(pred))
    env["CITYSCAPES_EXPORT_DIR"] = str(folder)
    command = [str(Path(sys.executable).with_name("csEvalPixelLevelSemanticLabeling"))]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=env)
    their_secs = time.perf_counter() - start
    theirs = json.loads((folder / "resultPixelLevelSemanticLabeling.json").read_text())["averageScoreClasses"]
    (folder / "gt").mkdir()
    for path in gt.glob("*_labelIds.png"):
        path.rename(folder / "gt" / path.name)
    command = [str(ROOT / "target/release/nas-segment"), "miou", "--pred", str(pred), "--gt", str(folder / "gt")]
    start = time.perf_counter()
    out = subprocess.run(command + ["--num-classes", "34", "--format", "json"], check=True, capture_output=True)
    our_secs = time.perf_counter() - start
    iou = json.loads(out.stdout)["iou"]
    ours = np.mean([iou[i] for i in ids if iou[i] is not None])
print(f"{pairs} pairs of 1024x2048, process start included")
print(f"csEvalPixelLevelSemanticLabeling {their_secs:.2f} s, mIOU {theirs:.12f}")
print(f"nas-segment miou                 {our_secs:.2f} s, mIOU {ours:.12f}: {their_secs / our_secs:.1f} times faster")
