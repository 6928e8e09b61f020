"""Golden numbers of torchvision's MobileNetV2, whose weights are set by a formula.

Made with torch 2.13.0 and torchvision 0.28.0:  python mobilenet_v2.py > mobilenet_v2.json
Read by nas-segment/src/deeplabv3plus/tests.rs.
"""

import json

import torch
from torchvision.models import mobilenet_v2


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


@torch.no_grad()
def main():
    net = mobilenet_v2().eval()
    features = {k: v for k, v in net.state_dict().items() if k.startswith("features.") and not k.startswith("features.18")}
    fill(features)
    xs = wave((2, 3, 65, 48), 0.0).float()
    low_level, ys = None, xs
    for i, block in enumerate(net.features[:18]):
        if i == 3:
            low_level = block.conv[:2](ys)
        ys = block(ys)
    out = {}
    for name, feature in (("low_level", low_level), ("last", ys)):
        feature = feature.double()
        out[name] = {
            "size": list(feature.shape),
            "mean": feature.mean().item(),
            "stdev": feature.std(unbiased=False).item(),
            "first_pixel": feature[0, :, 0, 0].sum().item(),
            "last_pixel": feature[1, :, -1, -1].sum().item(),
        }
    print(json.dumps(out, indent=2))


main()
