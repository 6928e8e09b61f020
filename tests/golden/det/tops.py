"""Golden outputs of torchvision's FPN, FCOS head and RetinaNet heads, whose weights are set by a formula.

Made with torch 2.13.0 and torchvision 0.28.0:  python tops.py > tops.json
Read by nas-detect/src/model/tests.rs.
"""

import json
from functools import partial

import torch
from torch import nn
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

CHANNELS = [10, 12, 14]
SIZE = (100, 152)
C, K = 64, 3


def wave(shape, phase):
    """sin(0.7 i + phase) for i = 0, 1, .. in the given shape."""
    count = int(torch.Size(shape).numel())
    return torch.sin(0.7 * torch.arange(count, dtype=torch.float64) + phase).reshape(shape)


def fill(module):
    """Weights by their shapes alone, so that names do not matter."""
    module.double().eval()
    for name, tensor in module.state_dict().items():
        values = wave(tensor.shape, tensor.numel() % 11)
        if tensor.dim() == 4:
            values = values * (6.0 / tensor[0].numel()) ** 0.5
        elif name.endswith("weight"):
            values = 1.0 + 0.2 * values
        else:
            values = 0.2 * values
        tensor.copy_(values)
    return module


def describe(ys):
    ys = ys.double()
    return {"size": list(ys.shape), "mean": ys.mean().item(), "norm": ys.norm().item(), "last": ys.flatten()[-1].item()}


@torch.no_grad()
def main():
    maps = {}
    for i, (channels, stride) in enumerate(zip(CHANNELS, (8, 16, 32))):
        h, w = ((side - 1) // stride + 1 for side in SIZE)
        maps[str(i)] = wave((2, channels, h, w), i)
    group = partial(nn.GroupNorm, 32)
    golden = {}
    for name, p6_channels, head in [
        ("fcos", C, FCOSHead(C, 1, K, num_convs=4)),
        ("retina", C, RetinaNetHead(C, 9, K)),
        ("retina_v2", CHANNELS[-1], RetinaNetHead(C, 9, K, norm_layer=group)),
    ]:
        fpn = FeaturePyramidNetwork(CHANNELS, C, extra_blocks=LastLevelP6P7(p6_channels, C))
        levels = list(fill(fpn)(maps).values())
        golden[name] = {key: describe(ys) for key, ys in fill(head)(levels).items()}
        golden[name]["levels"] = [describe(ys) for ys in levels]
    print(json.dumps(golden, indent=1))


main()
