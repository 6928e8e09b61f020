"""Precision over recall at overlap 0.5 by class, as pycocotools accumulates it: `curves.json`, {class name: 101 precisions}, of gt.json
and dt.json of this folder.

    pip install pycocotools; python curves.py
"""

import json
from pathlib import Path

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

here = Path(__file__).parent
truth = COCO(str(here / "gt.json"))
run = COCOeval(truth, truth.loadRes(str(here / "dt.json")), "bbox")
run.evaluate()
run.accumulate()
# Overlap, recall, class, size range, number of detections.
precision = run.eval["precision"][0, :, :, 0, -1]
names = {category["id"]: category["name"] for category in truth.dataset["categories"]}
curves = {names[id]: [round(p, 12) for p in precision[:, k].tolist()] for k, id in enumerate(run.params.catIds) if precision[0, k] >= 0}
(here / "curves.json").write_text(json.dumps(curves) + "\n")
