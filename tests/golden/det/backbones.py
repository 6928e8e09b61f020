"""Golden feature maps of torchvision's backbones, whose weights are set by a formula.

Made with torch 2.13.0 and torchvision 0.28.0:  python backbones.py > backbones.json
Read by nas-detect/src/backbone/tests.rs.
"""

import json

import torch
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

SIZE = (65, 96)
NETS = {
    "shufflenet_v2_x0_5": (models.shufflenet_v2_x0_5, ["maxpool", "stage2", "stage3", "stage4"]),
    "shufflenet_v2_x1_0": (models.shufflenet_v2_x1_0, ["maxpool", "stage2", "stage3", "stage4"]),
    "resnet18": (models.resnet18, ["layer1", "layer2", "layer3", "layer4"]),
    "resnet50": (models.resnet50, ["layer1", "layer2", "layer3", "layer4"]),
    "mobilenet_v2": (models.mobilenet_v2, ["features.3", "features.6", "features.13", "features.17"]),
}


def wave(shape, phase):
    """sin(0.7 i + phase) for i = 0, 1, .. in the given shape."""
    count = int(torch.Size(shape).numel())
    return torch.sin(0.7 * torch.arange(count, dtype=torch.float64) + phase).reshape(shape)


def fill(state):
    for name, tensor in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        values = wave(tensor.shape, len(name))
        if tensor.dim() == 4:
            values = values * (6.0 / tensor[0].numel()) ** 0.5
        elif name.endswith(("weight", "running_var")):
            values = 1.0 + 0.2 * values
        else:
            values = 0.2 * values
        tensor.copy_(values)


def describe(ys):
    ys = ys.double()
    return {"size": list(ys.shape), "mean": ys.mean().item(), "norm": ys.norm().item(), "last": ys.flatten()[-1].item()}


@torch.no_grad()
def main():
    golden = {}
    for name, (make, nodes) in NETS.items():
        net = make(weights=None).double().eval()
        fill(net.state_dict())
        extractor = create_feature_extractor(net, nodes)
        features = extractor(wave((1, 3, *SIZE), 1.0))
        golden[name] = [describe(features[node]) for node in nodes]
    print(json.dumps(golden, indent=1))


main()
