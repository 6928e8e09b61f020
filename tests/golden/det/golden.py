"""Golden anchors, matches, losses and detections of torchvision's RetinaNet and FCOS on inputs by formula.

Made with torch 2.13.0 and torchvision 0.28.0:  python golden.py > golden.json
Read by nas-detect/src/head/tests.rs and src/nms.rs.
"""

import json

import torch
from torch import nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOS, FCOSHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead, _default_anchorgen
from torchvision.ops import batched_nms, box_iou, generalized_box_iou_loss, nms, sigmoid_focal_loss

SIZE = (128, 192)
GRIDS = [(16, 24), (8, 12), (4, 6), (2, 3), (1, 1)]
K = 3


class Backbone(nn.Module):
    """Only its channels are asked for: the outputs of the heads are given."""

    out_channels = 64


def formula(shape, f):
    count = int(torch.Size(shape).numel())
    return f(torch.arange(count, dtype=torch.float64)).float().reshape(shape)


def targets():
    boxes = torch.tensor([[10.0, 12, 60, 70], [30, 20, 50, 44], [100, 5, 190, 120]])
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    return [{"boxes": boxes, "labels": torch.tensor([0, 2, 1])}, empty]


def setup(make, generator, per_pixel):
    """The model, the anchors of both images, the anchors of each level."""
    model = make(Backbone(), K, anchor_generator=generator).eval()
    maps = [torch.zeros(2, 64, h, w) for h, w in GRIDS]
    anchors = generator(ImageList(torch.zeros(2, 3, *SIZE), [SIZE] * 2), maps)
    per_level = [h * w * per_pixel for h, w in GRIDS]
    return model, anchors, per_level


def detections(model, head_outputs, anchors, per_level):
    split = {key: list(value.split(per_level, dim=1)) for key, value in head_outputs.items()}
    split_anchors = [list(a.split(per_level)) for a in anchors]
    found = model.postprocess_detections(split, split_anchors, [SIZE] * 2)[0]
    top = zip(found["labels"][:5].tolist(), found["scores"][:5].tolist(), found["boxes"][:5].tolist())
    return {
        "dets_img0": len(found["scores"]),
        "top5": [[label, score, *box] for label, score, box in top],
        "sum_scores": found["scores"].double().sum().item(),
        "sum_boxes": found["boxes"].double().sum().item(),
    }


def retinanet():
    model, anchors, per_level = setup(RetinaNet, _default_anchorgen(), 9)
    n = len(anchors[0])
    outputs = {
        "cls_logits": formula((2, n, K), lambda i: 3 * torch.sin(0.7 * i + 0.1) - 2),
        "bbox_regression": formula((2, n, 4), lambda i: 0.5 * torch.sin(1.3 * i)),
    }
    matched = model.proposal_matcher(box_iou(targets()[0]["boxes"], anchors[0]))
    losses = model.compute_loss(targets(), outputs, anchors)
    return {
        "num_anchors": n,
        "cell_anchors_P3": model.anchor_generator.cell_anchors[0].flatten().tolist(),
        "first_anchor": anchors[0][0].tolist(),
        "last_anchor": anchors[0][-1].tolist(),
        "n_pos": int((matched >= 0).sum()),
        "n_ignored": int((matched == -2).sum()),
        "n_neg": int((matched == -1).sum()),
        "pos_per_gt": [int((matched == i).sum()) for i in range(3)],
        "loss_cls": [losses["classification"].item()],
        "loss_reg": [losses["bbox_regression"].item()],
        **detections(model, outputs, anchors, per_level),
    }


def fcos():
    generator = AnchorGenerator(((8,), (16,), (32,), (64,), (128,)), ((1.0,),) * 5)
    model, anchors, per_level = setup(FCOS, generator, 1)
    n = len(anchors[0])
    outputs = {
        "cls_logits": formula((2, n, K), lambda i: 3 * torch.sin(0.7 * i + 0.1) - 2),
        "bbox_regression": formula((2, n, 4), lambda i: (2 + 2 * torch.sin(1.3 * i)).clamp(min=0)),
        "bbox_ctrness": formula((2, n, 1), lambda i: torch.sin(0.9 * i)),
    }
    matched = []
    compute = model.head.compute_loss
    model.head.compute_loss = lambda t, o, a, m: matched.extend(m) or compute(t, o, a, m)
    losses = model.compute_loss(targets(), outputs, anchors, per_level)
    positive = matched[0] >= 0
    return {
        "num_locations": n,
        "first_anchor": anchors[0][0].tolist(),
        "n_pos": int(positive.sum()),
        "pos_index": positive.nonzero().flatten().tolist(),
        "pos_gt": matched[0][positive].tolist(),
        "loss_cls": [losses["classification"].item()],
        "loss_reg": [losses["bbox_regression"].item()],
        "loss_ctr": [losses["bbox_ctrness"].item()],
        **detections(model, outputs, anchors, per_level),
    }


def losses_and_nms():
    x, t = [-3.0, -1, 0, 1, 3, 20, -40], [0.0, 1, 1, 0, 1, 0, 1]
    a = torch.tensor([[0.0, 0, 10, 10]] * 3 + [[2.0, 2, 4, 4]])
    b = torch.tensor([[0.0, 0, 10, 10], [5, 5, 15, 15], [20, 20, 30, 30], [0, 0, 10, 10]])
    boxes = torch.tensor(
        [[0.0, 0, 10, 10], [0, 0, 10, 5], [1, 1, 11, 11], [20, 20, 30, 30], [20, 20, 30, 30], [0, 0, 10, 10]]
    )
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.6, 0.5])
    classes = torch.tensor([0, 0, 0, 0, 1, 1])
    return {
        "focal": {"x": x, "t": t, "loss": sigmoid_focal_loss(torch.tensor(x), torch.tensor(t)).tolist()},
        "giou": {
            "a": a.flatten().tolist(),
            "b": b.flatten().tolist(),
            "loss": generalized_box_iou_loss(a, b).tolist(),
            "iou_diag": box_iou(a, b).diag().tolist(),
        },
        "nms": {
            "boxes": boxes.flatten().tolist(),
            "scores": scores.tolist(),
            "keep_05": nms(boxes, scores, 0.5).tolist(),
            "keep_04": nms(boxes, scores, 0.4).tolist(),
            "batched_05": batched_nms(boxes, scores, classes, 0.5).tolist(),
        },
    }


@torch.no_grad()
def main():
    params = lambda module: sum(p.numel() for p in module.parameters())
    golden = {
        "retinanet": retinanet(),
        "fcos": fcos(),
        **losses_and_nms(),
        "fcos_head_params_C64_K3": params(FCOSHead(64, 1, K)),
        "retina_head_params_C64_K3": params(RetinaNetHead(64, 9, K)),
    }
    print(json.dumps(golden, indent=1))


main()
