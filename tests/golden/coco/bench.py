"""Times `nas-detect eval` and pycocotools on the same two files, and compares their 12 numbers.

    python -m venv v && v/bin/pip install pycocotools==2.0.11
    cargo build --release -p nas-detect && v/bin/python tests/golden/coco/bench.py [images [detections [nas-detect]]]

Seconds are those of a fresh process each, from the start to the numbers, reading of the files included.
"""

import json
import os
import pathlib
import random
import resource
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[3]
CLASSES = [number for number in range(1, 91) if number % 9]  # 80 ids with gaps
REFERENCE = """
import contextlib, io, json, sys
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
with contextlib.redirect_stdout(io.StringIO()):
    gt = COCO(sys.argv[1])
    run = COCOeval(gt, gt.loadRes(sys.argv[2]), "bbox")
    run.evaluate()
    run.accumulate()
    run.summarize()
print(json.dumps(run.stats.tolist()))
"""


def draw(images, detections):
    rng = random.Random(0)
    annotations, results = [], []
    side = lambda: round(min(400, 8 + rng.expovariate(1 / 70)), 2)
    for image in range(1, images + 1):
        mine = []
        for _ in range(rng.randint(0, 14)):  # 7.3 boxes per image is what val2017 has
            # A third of COCO's boxes are people.
            category = 1 if rng.random() < 0.3 else rng.choice(CLASSES)
            bbox = [round(rng.uniform(0, 500), 2), round(rng.uniform(0, 350), 2), side(), side()]
            mine.append((category, bbox))
            number, area = len(annotations) + 1, bbox[2] * bbox[3] * rng.uniform(0.4, 1)
            crowd = int(rng.random() < 0.01)
            annotations.append(dict(id=number, image_id=image, category_id=category, bbox=bbox, area=area, iscrowd=crowd))
        for _ in range(detections):
            category, bbox = rng.choice(mine) if mine and rng.random() < 0.6 else (rng.choice(CLASSES), [9, 9, side(), side()])
            bbox = [round(value + rng.gauss(0, 4), 2) for value in bbox[:2]] + [round(value * rng.uniform(0.8, 1.2), 2) for value in bbox[2:]]
            results.append(dict(image_id=image, category_id=category, bbox=bbox, score=round(rng.random(), 4)))
    names = [dict(id=number, name=f"c{number}") for number in CLASSES]
    return dict(images=[dict(id=i) for i in range(1, images + 1)], annotations=annotations, categories=names), results


def timed(command):
    """What a command prints, its wall-clock seconds and its CPU seconds."""
    cpu = lambda: sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    start, cpu_start = time.perf_counter(), cpu()
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    return json.loads(out), time.perf_counter() - start, cpu() - cpu_start


images = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
detections = int(sys.argv[2]) if len(sys.argv) > 2 else 100
binary = sys.argv[3] if len(sys.argv) > 3 else str(ROOT / "target/release/nas-detect")
with tempfile.TemporaryDirectory() as folder:
    gt, dt = os.path.join(folder, "gt.json"), os.path.join(folder, "dt.json")
    for path, value in zip([gt, dt], draw(images, detections)):
        pathlib.Path(path).write_text(json.dumps(value))
    ours, our_secs, our_cpu = timed([binary, "eval", "--gt", gt, "--dt", dt, "--format", "json"])
    theirs, their_secs, their_cpu = timed([sys.executable, "-c", REFERENCE, gt, dt])
gap = max(abs(a - b) for a, b in zip(ours["stats"], theirs))
print(f"{images} images, {detections} detections each; AP {theirs[0]:.6f}, largest difference of the 12 numbers {gap:.1e}")
print(f"pycocotools     {their_secs:.2f} s, CPU {their_cpu:.2f} s")
print(f"nas-detect eval {our_secs:.2f} s, CPU {our_cpu:.2f} s")
print(f"times faster: {their_secs / our_secs:.1f}, by CPU seconds {their_cpu / our_cpu:.1f}")
