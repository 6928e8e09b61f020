"""Random ground truths and detections with pycocotools' 12 numbers: NAME_gt.json, NAME_dt.json, NAME_stats.json.

    pip install pycocotools==2.0.11
    python tests/golden/coco/random_sets.py              # the committed sets
    python tests/golden/coco/random_sets.py --seed 17    # one more, to look at

`stats` holds what COCOeval prints; `other_max_dets` the numbers under maxDets 2, 5, 20, where AP is asked for with 20
(COCOeval's own summary asks for 100 and gives -1); `per_class` the AP of every category.
"""

import argparse
import contextlib
import io
import json
import pathlib
import random

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

HERE = pathlib.Path(__file__).parent


def draw(seed, images, classes, boxes, found):
    """Boxes on a grid of quarter pixels, so that equal overlaps and exact thresholds occur."""
    rng = random.Random(seed)
    ids = rng.sample(range(1, 1000), images)
    categories = rng.sample(range(1, 91), classes)
    grid = lambda low, high: rng.randint(low * 4, high * 4) / 4
    annotations, results = [], []
    for image in ids:
        mine = []
        for _ in range(rng.randint(0, boxes)):
            side = rng.choice([12, 32, 40, 96, 150])
            bbox = [grid(0, 400), grid(0, 300), grid(2, side), grid(2, side)]
            if rng.random() < 0.1:
                bbox[2] = bbox[3] = rng.choice([32.0, 96.0, 0.0])
            category = rng.choice(categories[: max(1, classes - 1)])
            area = bbox[2] * bbox[3] * rng.choice([1, 1, 0.5, 0.73])
            mine.append((category, bbox))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": category,
                    "bbox": bbox,
                    "area": area,
                    "iscrowd": int(rng.random() < 0.12),
                }
            )
        for _ in range(rng.randint(0, found)):
            score = rng.randint(1, 40) / 40 if rng.random() < 0.7 else rng.random()
            if mine and rng.random() < 0.75:
                category, (x, y, w, h) = rng.choice(mine)
                near = lambda value: value if rng.random() < 0.3 else max(0.0, value + grid(-6, 6))
                bbox = rng.choice([[near(x), near(y), near(w), near(h)], [x, y, w / 2, h], [x, y, w, h * 0.75]])
                category = category if rng.random() < 0.9 else rng.choice(categories)
            else:
                category, bbox = rng.choice(categories), [grid(0, 400), grid(0, 300), grid(0, 120), grid(0, 120)]
            results.append({"image_id": image, "category_id": category, "bbox": bbox, "score": score})
    truth = {
        "images": [{"id": image, "width": 640, "height": 480} for image in ids],
        "categories": [{"id": category, "name": f"c{category}"} for category in categories],
        "annotations": annotations,
    }
    return truth, results


def evaluate(truth, results, max_dets=None):
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO()
        gt.dataset = json.loads(json.dumps(truth))
        gt.createIndex()
        run = COCOeval(gt, gt.loadRes(json.loads(json.dumps(results))), "bbox")
        if max_dets:
            run.params.maxDets = max_dets
        run.evaluate()
        run.accumulate()
        if not max_dets:
            run.summarize()
    return run


def mean(values):
    values = values[values > -1]
    return float(values.mean()) if values.size else -1.0


def other_stats(run):
    precision, recall = run.eval["precision"], run.eval["recall"]  # [T, R, K, A, M] and [T, K, A, M]
    ap = [mean(precision[:, :, :, area, -1]) for area in range(4)]
    at = [mean(precision[bit, :, :, 0, -1]) for bit in (0, 5)]
    ar = [mean(recall[:, :, 0, limit]) for limit in range(3)]
    return [ap[0], *at, *ap[1:], *ar, *[mean(recall[:, :, area, -1]) for area in range(1, 4)]]


def compute(truth, results):
    run = evaluate(truth, results)
    per_class = [mean(run.eval["precision"][:, :, k, 0, -1]) for k in range(len(run.params.catIds))]
    return {
        "stats": run.stats.tolist(),
        "other_max_dets": other_stats(evaluate(truth, results, [2, 5, 20])),
        "per_class": per_class,
    }


def write(name, value):
    (HERE / name).write_text(json.dumps(value, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int)
    seed = parser.parse_args().seed
    # seed, images, classes, most boxes and detections of an image
    sets = [(1, 12, 3, 8, 20), (2, 5, 1, 30, 140), (3, 20, 6, 3, 6), (4, 3, 2, 40, 60)]
    if seed is not None:
        sets = [(seed, 15, 4, 10, 40)]
    for seed, *shape in sets:
        truth, results = draw(seed, *shape)
        assert results, "pycocotools does not take an empty list"
        write(f"random{seed}_gt.json", truth)
        write(f"random{seed}_dt.json", results)
        write(f"random{seed}_stats.json", compute(truth, results))
