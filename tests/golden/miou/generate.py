"""Makes the golden numbers of tests/tests/miou.rs: random label maps with ignored pixels, absent classes and classes that
are only predicted, scored by torchmetrics 1.9 and by cityscapesScripts 2.3's evalPixelLevelSemanticLabeling.

    python -m venv v && v/bin/pip install numpy pillow cityscapesscripts torchmetrics torch
    v/bin/python tests/golden/miou/generate.py
"""
import json
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassJaccardIndex

os.environ["CITYSCAPES_DATASET"] = "/nowhere"
import cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling as cs
from cityscapesscripts.helpers.labels import labels

HERE = Path(__file__).parent
K = 19
TRAIN_TO_ID = {l.trainId: l.id for l in labels if 0 <= l.trainId < 255}
# Ids whose pixels do not count; 0 is one of them.
IGNORED_ID = 0


def maps(seed):
    """Blocky maps of 24x40: classes 0..14 in the truth, 0..16 in the prediction; 17 and 18 nowhere."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 15, (6, 10)).repeat(4, 0).repeat(4, 1)
    noise = rng.integers(0, 17, blocks.shape)
    pred = np.where(rng.random(blocks.shape) < 0.6, blocks, noise)
    gt = np.where(rng.random(blocks.shape) < 0.15, 255, blocks)
    return gt.astype(np.uint8), pred.astype(np.uint8)


def to_ids(train_ids):
    out = np.full_like(train_ids, IGNORED_ID)
    for train_id, label_id in TRAIN_TO_ID.items():
        out[train_ids == train_id] = label_id
    return out


def by_cityscapes(folder, pairs):
    files = []
    for i, (gt, pred) in enumerate(pairs):
        paths = [str(folder / f"{kind}{i}.png") for kind in ("gt", "pred")]
        Image.fromarray(to_ids(gt)).save(paths[0])
        Image.fromarray(to_ids(pred)).save(paths[1])
        files.append(paths)
    args = cs.args
    args.evalInstLevelScore, args.evalPixelAccuracy, args.JSONOutput, args.quiet = False, False, False, True
    result = cs.evaluateImgLists([p for _, p in files], [g for g, _ in files], args)
    # Classes of every label whose ignoreInEval is not set; the mean leaves NaN out.
    return result["averageScoreClasses"], {k: None if np.isnan(v) else v for k, v in result["classScores"].items()}


def main():
    pairs = [maps(seed) for seed in range(3)]
    for kind in ("gt", "pred"):
        (HERE / kind).mkdir(exist_ok=True)
    for i, (gt, pred) in enumerate(pairs):
        Image.fromarray(gt).save(HERE / "gt" / f"city_{i}_gtFine_labelTrainIds.png")
        Image.fromarray(pred).save(HERE / "pred" / f"city_{i}_pred.png")
    gt = torch.from_numpy(np.concatenate([g.ravel() for g, _ in pairs])).long()
    pred = torch.from_numpy(np.concatenate([p.ravel() for _, p in pairs])).long()
    iou = MulticlassJaccardIndex(K, average="none", ignore_index=255)(pred, gt).double()
    matrix = MulticlassConfusionMatrix(K, ignore_index=255)(pred, gt)
    present = (matrix.sum(0) + matrix.sum(1)) > 0
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        cityscapes_miou, cityscapes_iou = by_cityscapes(Path(folder), pairs)
    golden = {
        "torchmetrics": {
            "confusion": matrix.tolist(),
            "iou": [float(v) if p else None for v, p in zip(iou, present)],
            "miou": float(iou[present].mean()),
            "pixel_acc": float(MulticlassAccuracy(K, average="micro", ignore_index=255)(pred, gt).double()),
        },
        "cityscapesscripts": {
            "miou": cityscapes_miou,
            "iou": [cityscapes_iou[l.name] for l in sorted(labels, key=lambda l: l.trainId) if 0 <= l.trainId < 255],
        },
    }
    (HERE / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")


main()
