"""Golden outputs of effdet's BiFPN and heads, whose weights are set by a formula.

Made with torch 2.13.0 and effdet 0.4.1:  python efficientdet.py > efficientdet.json
Read by nas-detect/src/model/tests.rs.
"""

import json

import torch
from effdet.config import get_efficientdet_config
from effdet.efficientdet import BiFpn, HeadNet

CHANNELS = [10, 12, 14]
SIZE = (100, 152)
C, K, A = 16, 3, 9


def wave(shape, phase):
    """sin(0.7 i + phase) for i = 0, 1, .. in the given shape."""
    count = int(torch.Size(shape).numel())
    return torch.sin(0.7 * torch.arange(count, dtype=torch.float64) + phase).reshape(shape)


def fill(module):
    """Weights by their shapes alone, so that names do not matter."""
    module.double().eval()
    for name, tensor in module.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        values = wave(tensor.shape, tensor.numel() % 11)
        if tensor.dim() == 4:
            values = values * (6.0 / tensor[0].numel()) ** 0.5
        elif name.endswith(("weight", "running_var")):
            values = 1.0 + 0.2 * values
        else:
            values = 0.2 * values
        tensor.copy_(values)
    return module


def describe(ys):
    ys = ys.double()
    return {"size": list(ys.shape), "mean": ys.mean().item(), "norm": ys.norm().item(), "last": ys.flatten()[-1].item()}


def flatten(maps, n):
    parts = [ys.reshape(len(ys), A, n, *ys.shape[2:]).permute(0, 3, 4, 1, 2).reshape(len(ys), -1, n) for ys in maps]
    return torch.cat(parts, 1)


@torch.no_grad()
def main():
    config = get_efficientdet_config("tf_efficientdet_d0")
    config.image_size, config.fpn_channels, config.fpn_cell_repeats, config.num_classes = SIZE, C, 2, K
    config.pad_type = ""  # 'same' pads even sides on one side only, which is TensorFlow's habit
    golden = {}
    for name, fpn_name in [("fast", "bifpn_fa"), ("softmax", "bifpn_attn"), ("sum", "bifpn_sum")]:
        config.fpn_name = fpn_name
        info = [{"num_chs": c, "reduction": r} for c, r in zip(CHANNELS, (8, 16, 32))]
        maps = []
        for i, (channels, stride) in enumerate(zip(CHANNELS, (8, 16, 32))):
            h, w = ((side - 1) // stride + 1 for side in SIZE)
            maps.append(wave((2, channels, h, w), i))
        levels = fill(BiFpn(config, info))(maps)
        golden[name] = {"levels": [describe(ys) for ys in levels]}
    for key, n in [("classes", K), ("boxes", 4)]:
        golden[key] = describe(flatten(fill(HeadNet(config, num_outputs=n))(levels), n))
    print(json.dumps(golden, indent=1))


main()
