"""Golden zero-cost proxies of one NAS-Bench-201 network whose weights are set by a formula.

Written from the papers that nas-core/src/estimator/zero_cost.rs names, with torch's modules, hooks and masks in the place of
our probes.

Made with torch 2.13.0 and numpy 2:  python zero_cost.py > zero_cost.json
Read by nas-classify/tests/zero_cost.rs.
"""

import copy
import json

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

CHOICES = [3, 1, 2, 0, 4, 3]
CHANNELS, CELLS, CLASSES = 8, 2, 10
BATCH, SIZE = 6, 16
ZEN_SEED = 5


class ReluConvBn(nn.Module):
    def __init__(self, c_in, c_out, ksize, stride=1):
        super().__init__()
        conv = nn.Conv2d(c_in, c_out, ksize, stride, ksize // 2, bias=False)
        self.op = nn.Sequential(nn.ReLU(), conv, nn.BatchNorm2d(c_out))

    def forward(self, xs):
        return self.op(xs)


class Zero(nn.Module):
    def forward(self, xs):
        return xs * 0


def operator(choice, c):
    return [
        Zero,
        nn.Identity,
        lambda: ReluConvBn(c, c, 1),
        lambda: ReluConvBn(c, c, 3),
        lambda: nn.AvgPool2d(3, 1, 1, count_include_pad=False),
    ][choice]()


class Cell(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.layers = nn.ModuleList([operator(choice, c) for choice in CHOICES])

    def forward(self, xs):
        e01, e02, e12, e03, e13, e23 = self.layers
        one = e01(xs)
        two = e02(xs) + e12(one)
        return e03(xs) + e13(one) + e23(two)


class Reduction(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv_a, self.conv_b = ReluConvBn(c, 2 * c, 3, 2), ReluConvBn(2 * c, 2 * c, 3)
        self.downsample = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(c, 2 * c, 1, bias=False))

    def forward(self, xs):
        return self.downsample(xs) + self.conv_b(self.conv_a(xs))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        c = CHANNELS
        self.stem = nn.Sequential(nn.Conv2d(3, c, 3, padding=1, bias=False), nn.BatchNorm2d(c))
        cells = []
        for stage in range(3):
            cells += [Reduction(c << (stage - 1))] if stage else []
            cells += [Cell(c << stage) for _ in range(CELLS)]
        self.cells = nn.Sequential(*cells)
        self.lastact = nn.Sequential(nn.BatchNorm2d(4 * c), nn.ReLU())
        self.classifier = nn.Linear(4 * c, CLASSES)

    def features(self, xs):
        return self.lastact(self.cells(self.stem(xs)))

    def forward(self, xs):
        return self.classifier(self.features(xs).mean((2, 3)))


def noise(shape, phase):
    """The fractional part of 43758.5453 sin(12.9898 i + phase), i = 0, 1, .., from -1 to 1: no two rows are alike."""
    index = torch.arange(int(torch.Size(shape).numel()), dtype=torch.float64)
    values = torch.sin(12.9898 * index + phase) * 43758.5453
    return (2 * (values - values.floor()) - 1).reshape(shape)


@torch.no_grad()
def fill(net):
    for name, parameter in net.named_parameters():
        values = noise(parameter.shape, len(name))
        if parameter.dim() > 1:
            values = values * (6.0 / parameter[0].numel()) ** 0.5
        elif name.endswith("weight"):
            values = 1.0 + 0.2 * values
        else:
            values = 0.2 * values
        parameter.copy_(values)
    return net


def layers(net):
    return [module for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]


def synflow(net, images):
    net = copy.deepcopy(net).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.abs_()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.forward = lambda xs: xs
    net(torch.ones(1, *images.shape[1:], dtype=torch.float64)).sum().backward()
    pairs = [(layer.weight.detach(), layer.weight.grad) for layer in layers(net) if layer.weight.grad is not None]
    return sum((w * g).sum().item() for w, g in pairs), sum((w * (g + 1).log()).sum().item() for w, g in pairs)


def naswot(net, images):
    net = copy.deepcopy(net)
    kernel = np.zeros((BATCH, BATCH))

    def hook(_, inputs):
        on = (inputs[0].detach().flatten(1) > 0).double().numpy()
        kernel[:] += on @ on.T + (1 - on) @ (1 - on).T

    for module in net.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_pre_hook(hook)
    net(images)
    return float(np.linalg.slogdet(kernel)[1])


def snip(net, images, labels):
    """The loss by masks of ones that multiply the weights."""
    net = copy.deepcopy(net)
    masks = []
    for layer in layers(net):
        mask = torch.ones_like(layer.weight, requires_grad=True)
        masks.append(mask)
        weight = layer.weight.detach()
        del layer.weight
        layer.weight = weight * mask
    loss = F.cross_entropy(net(images), labels)
    return sum(grad.abs().sum().item() for grad in torch.autograd.grad(loss, masks))


def grad_norm(net, images, labels):
    net = copy.deepcopy(net)
    F.cross_entropy(net(images), labels).backward()
    return sum(layer.weight.grad.norm().item() for layer in layers(net))


def grasp(net, images, labels):
    """The gradient of half the squared length of the gradient is Hg."""
    net = copy.deepcopy(net).double()
    weights = [layer.weight for layer in layers(net)]
    loss = F.cross_entropy(net(images.double()), labels)
    grads = torch.autograd.grad(loss, weights, create_graph=True)
    half = 0.5 * sum(grad.square().sum() for grad in grads)
    return -sum((w * h).sum().item() for w, h in zip(weights, torch.autograd.grad(half, weights)))


def fisher(net, images, labels):
    net = copy.deepcopy(net)
    outputs = []

    def hook(_, __, output):
        output.retain_grad()
        outputs.append(output)

    for layer in layers(net):
        layer.register_forward_hook(hook)
    F.cross_entropy(net(images), labels).backward()
    total = 0.0
    for output in outputs:
        per_sample = (output * output.grad).flatten(2).sum(2) if output.dim() > 2 else output * output.grad
        total += (per_sample.square().mean(0) / 2).sum().item()
    return total


def jacob_cov(net, images):
    net = copy.deepcopy(net)
    images = images.clone().requires_grad_(True)
    net(images).sum().backward()
    values = np.linalg.eigvalsh(np.corrcoef(images.grad.flatten(1).double().numpy()))
    return float(-np.sum(np.log(values + 1e-5) + 1 / (values + 1e-5)))


@torch.no_grad()
def zen(net):
    """Drawn in this order: weights by name, images, their change."""
    torch.manual_seed(ZEN_SEED)
    net = copy.deepcopy(net)
    for name, parameter in sorted(net.named_parameters()):
        if parameter.dim() > 1:
            nn.init.normal_(parameter)
        else:
            nn.init.constant_(parameter, float(name.endswith("weight")))
    stdevs = []
    hook = lambda _, inputs: stdevs.append(inputs[0].double().var((0, 2, 3), correction=0).mean().sqrt().log().item())
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(hook) for norm in norms]
    images = torch.randn(BATCH, 3, SIZE, SIZE)
    ys = net.features(images)
    for hook in hooks:
        hook.remove()
    moved = net.features(images + 0.01 * torch.randn(images.shape))
    return (ys - moved).abs().sum((1, 2, 3)).mean().log().item() + sum(stdevs)


def zico(net, images, labels):
    """Gradients of two halves; numpy's mean and population deviation, of the weights whose gradients differ."""
    half, total = BATCH // 2, 0.0
    grads = []
    for part in (slice(0, half), slice(half, 2 * half)):
        own = copy.deepcopy(net)
        F.cross_entropy(own(images[part]), labels[part]).backward()
        grads.append([layer.weight.grad.flatten().double().numpy() for layer in layers(own)])
    for pair in zip(*grads):
        both = np.stack(pair)
        deviation = both.std(0)
        kept = deviation > 0
        ratio = (np.abs(both).mean(0)[kept] / deviation[kept]).sum()
        total += np.log(ratio) if ratio > 0 else 0.0
    return total


def az_nas(net):
    """Drawn in this order: weights by name, images. Each score draws anew."""

    def outputs():
        torch.manual_seed(ZEN_SEED)
        own = copy.deepcopy(net)
        with torch.no_grad():
            for name, parameter in sorted(own.named_parameters()):
                if parameter.dim() > 1:
                    nn.init.kaiming_normal_(parameter, mode="fan_in", nonlinearity="relu")
                else:
                    nn.init.constant_(parameter, float(name.endswith("weight")))
        maps = [own.stem(torch.randn(BATCH, 3, SIZE, SIZE))]
        for cell in own.cells:
            maps.append(cell(maps[-1]))
        return maps

    def entropy(xs):
        eigenvalues = np.linalg.eigvalsh(np.cov(xs.detach().double().transpose(0, 1).flatten(1).numpy(), ddof=0))
        parts = eigenvalues / eigenvalues.sum()
        return -(parts * np.log(parts + 1e-8)).sum()

    entropies = np.array([entropy(xs) for xs in outputs()])
    return entropies.sum(), np.diff(entropies).min()


def main():
    torch.set_num_threads(1)
    net = fill(Net()).train()
    images = noise((BATCH, 3, SIZE, SIZE), 0.5).float()
    labels = torch.arange(BATCH) * 3 % CLASSES
    with torch.no_grad():
        logits = copy.deepcopy(net)(images).double()
    flow, log_flow = synflow(net, images)
    expressivity, progressivity = az_nas(net)
    print(json.dumps({
        "choices": CHOICES, "channels": CHANNELS, "cells": CELLS, "num_classes": CLASSES, "batch": BATCH, "size": SIZE,
        "zen_seed": ZEN_SEED,
        "logits": logits.flatten().tolist(),
        "scores": {
            "synflow": flow,
            "logsynflow": log_flow,
            "naswot": naswot(net, images),
            "snip": snip(net, images, labels),
            "grasp": grasp(net, images, labels),
            "fisher": fisher(net, images, labels),
            "grad_norm": grad_norm(net, images, labels),
            "jacob_cov": jacob_cov(net, images),
            "zen": zen(net),
            "zico": zico(net, images, labels),
            "az_expressivity": expressivity,
            "az_progressivity": progressivity,
            "l2": sum(layer.weight.norm().item() for layer in layers(net)),
            "params": sum(parameter.numel() for parameter in net.parameters()),
        },
    }, indent=1))


main()
