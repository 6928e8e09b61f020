"""Validation accuracy per epoch of random NAS-Bench-201 cells on a part of CIFAR-10.

    nice -n 10 python cells.py /work/shared/data/cifar10/cifar-10-batches-bin cells.json      # torch 2.13.0, one thread

Cells of the NAS-Bench-201 space (Dong and Yang 2020) at 8 channels, one cell a stage, on 3,000 training images of 16x16;
accuracy on 2,000 test images. 30 epochs, SGD with Nesterov momentum; every second network at a constant rate, the others
under a cosine. Half a minute of CPU
time each; goes on where it was stopped. Read by nas-core/src/estimator/learning_curve/tests.rs.
"""

import json
import pathlib
import random
import sys
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

NETS, EPOCHS, BATCH, TRAIN = 30, 30, 64, 3000
OPS = ["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"]


def conv(c_in, c_out, ksize, stride=1):
    return nn.Sequential(
        nn.ReLU(), nn.Conv2d(c_in, c_out, ksize, stride, ksize // 2, bias=False), nn.BatchNorm2d(c_out)
    )


class Zero(nn.Module):
    def forward(self, xs):
        return torch.zeros_like(xs)


def op(name, c):
    return {
        "none": Zero,
        "skip_connect": nn.Identity,
        "nor_conv_1x1": lambda: conv(c, c, 1),
        "nor_conv_3x3": lambda: conv(c, c, 3),
        "avg_pool_3x3": lambda: nn.AvgPool2d(3, 1, 1, count_include_pad=False),
    }[name]()


class Cell(nn.Module):
    def __init__(self, genotype, c):
        super().__init__()
        self.edges = nn.ModuleList(op(name, c) for name in genotype)

    def forward(self, xs):
        nodes, edges = [xs], iter(self.edges)
        for _ in range(3):
            nodes.append(sum(next(edges)(node) for node in nodes))
        return nodes[-1]


class Residual(nn.Module):
    def __init__(self, c_in, c_out):
        super().__init__()
        self.main = nn.Sequential(conv(c_in, c_out, 3, 2), conv(c_out, c_out, 3))
        self.short = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(c_in, c_out, 1, bias=False))

    def forward(self, xs):
        return self.main(xs) + self.short(xs)


def network(genotype, c=8):
    stem = [nn.Conv2d(3, c, 3, 2, 1, bias=False), nn.BatchNorm2d(c)]
    body = [Cell(genotype, c), Residual(c, 2 * c), Cell(genotype, 2 * c), Residual(2 * c, 4 * c), Cell(genotype, 4 * c)]
    tail = [nn.BatchNorm2d(4 * c), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * c, 10)]
    return nn.Sequential(*stem, *body, *tail)


def read(path):
    rows = np.fromfile(path, np.uint8).reshape(-1, 3073)
    images = torch.from_numpy(rows[:, 1:].reshape(-1, 3, 32, 32).astype(np.float32) / 255)
    return F.avg_pool2d((images - 0.47) / 0.25, 2), torch.from_numpy(rows[:, 0].astype(np.int64))


def augment(xs):
    xs = torch.where(torch.rand(len(xs), 1, 1, 1) < 0.5, xs.flip(3), xs)
    dy, dx = torch.randint(0, 5, (2,)).tolist()
    return F.pad(xs, (2, 2, 2, 2))[:, :, dy : dy + 16, dx : dx + 16]


@torch.no_grad()
def accuracy(net, xs, ys):
    net.eval()
    hits = sum((net(x).argmax(1) == y).sum().item() for x, y in zip(xs.split(500), ys.split(500)))
    return hits / len(ys)


def train(genotype, schedule, seed, data):
    (xs, ys), (val_xs, val_ys) = data
    torch.manual_seed(seed)
    net = network(genotype)
    optim = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = EPOCHS * (TRAIN // BATCH)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optim, steps) if schedule == "cosine" else None
    curve = []
    for _ in range(EPOCHS):
        net.train()
        for batch in torch.randperm(len(xs)).split(BATCH)[: TRAIN // BATCH]:
            optim.zero_grad()
            F.cross_entropy(net(augment(xs[batch])), ys[batch]).backward()
            optim.step()
            if decay:
                decay.step()
        curve.append(accuracy(net, val_xs, val_ys))
    return curve


def main(folder, out):
    torch.set_num_threads(1)
    rng = random.Random(201)
    xs, ys = read(f"{folder}/data_batch_1.bin")
    data = ((xs[:TRAIN], ys[:TRAIN]), read(f"{folder}/test_batch.bin"))
    runs = json.loads(pathlib.Path(out).read_text()) if pathlib.Path(out).exists() else []
    for seed in range(NETS):
        genotype, schedule = [rng.choice(OPS) for _ in range(6)], ["cosine", "constant"][seed % 2]
        if seed < len(runs):
            continue
        curve = train(genotype, schedule, seed, data)
        runs.append({"seed": seed, "schedule": schedule, "genotype": genotype, "val_acc": curve})
        print(seed, f"{time.process_time():.0f} s", schedule, genotype, curve[-1], flush=True)
        with open(out, "w") as file:
            file.write("[\n" + ",\n".join(json.dumps(run) for run in runs) + "\n]\n")


main(*sys.argv[1:])
