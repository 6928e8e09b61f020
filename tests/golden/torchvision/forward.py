"""Writes the networks of forward.json that nas-classify has: torchvision's forward passes under closed-form weights.

    pip install torch==2.13.0 torchvision==0.28.0 safetensors
    python forward.py [mobilenet_v2-b0353104.safetensors] > forward.json
"""

import json
import sys

import torch
import torchvision


def images(side):
    i = torch.arange(3 * side * side, dtype=torch.float64)
    return (torch.sin(0.01 * i) + 0.5 * torch.cos(0.0037 * i)).float().view(1, 3, side, side)


def fill(net):
    state = net.state_dict()
    for j, (name, tensor) in enumerate(state.items()):
        if not tensor.is_floating_point():
            continue
        s = torch.sin(0.3 * torch.arange(tensor.numel(), dtype=torch.float64) + j).view(tensor.shape)
        if name.endswith("running_var"):
            s = 1 + 0.1 * s**2
        elif tensor.dim() == 1:
            s = 1 + 0.1 * s if name.endswith("weight") else 0.05 * s
        else:
            s = s * (2 / (tensor.numel() / tensor.shape[0])) ** 0.5
        state[name] = s.to(tensor.dtype)
    net.load_state_dict(state)


def entry(net, side, first):
    with torch.no_grad():
        logits = net.eval()(images(side))
    return {"sum": logits.double().sum().item(), "norm": logits.norm().item(), f"first{first}": logits[0, :first].tolist()}


golden = {}
if len(sys.argv) > 1:
    from safetensors.torch import load_file

    net = torchvision.models.mobilenet_v2()
    net.load_state_dict(load_file(sys.argv[1]), strict=False)
    with torch.no_grad():
        argmax = net.eval()(images(224)).argmax().item()
    golden["mobilenet_v2_pretrained"] = entry(net, 224, 10) | {"argmax": argmax}
for name in ["mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small", "resnet18"]:
    net = getattr(torchvision.models, name)()
    fill(net)
    golden[name] = entry(net, 96, 5) | {"params": sum(p.numel() for p in net.parameters())}
json.dump(golden, sys.stdout, indent=1)
