"""Validation accuracy per epoch of random small networks on a part of CIFAR-10, in numpy.

    OMP_NUM_THREADS=1 nice -n 10 python curves.py CIFAR10/cifar-10-batches-bin curves.json      # numpy 2.4, 30 s of CPU

A network is a convolution of 4x4 patches with stride 4 on 16x16 images, up to three 1x1 convolutions, mean pooling or
flattening, and a linear classifier; width, depth, activation and pooling are drawn. 1,536 training images with flips,
accuracy on 2,000 test images, 25 epochs of SGD with momentum; every second network at a constant rate, the others under a
cosine. Read by nas-core/src/estimator/learning_curve/tests.rs.
"""

import json
import random
import sys
import time

import numpy as np

NETS, EPOCHS, BATCH, TRAIN = 60, 25, 64, 1536


def read(path):
    """Patches [N, 16, 48] of the images and of their mirror images, and labels."""
    rows = np.fromfile(path, np.uint8).reshape(-1, 3073)
    images = rows[:, 1:].reshape(-1, 3, 16, 2, 16, 2).mean((3, 5), dtype=np.float32) / 255
    images = (images - 0.47) / 0.25

    def patches(xs):
        return np.ascontiguousarray(xs.reshape(-1, 3, 4, 4, 4, 4).transpose(0, 2, 4, 1, 3, 5).reshape(-1, 16, 48))

    return patches(images), patches(images[:, :, :, ::-1]), rows[:, 0].astype(int)


def draw(rng):
    return {
        "widths": [rng.choice([2, 4, 8, 12, 16, 24]) for _ in range(rng.randint(1, 4))],
        "act": rng.choice(["relu", "tanh"]),
        "pool": rng.choice(["mean", "none"]),
    }


def forward(arch, params, xs):
    """Inputs of every layer and the logits; the last input is the classifier's."""
    inputs = []
    for weight, bias in params[:-1]:
        inputs.append(xs)
        xs = xs @ weight + bias
        xs = np.maximum(xs, 0, out=xs) if arch["act"] == "relu" else np.tanh(xs, out=xs)
    inputs.append(xs)
    features = xs.mean(1) if arch["pool"] == "mean" else xs.reshape(len(xs), -1)
    return inputs, features, features @ params[-1][0] + params[-1][1]


def backward(arch, params, inputs, features, logits, labels):
    probs = np.exp(logits - logits.max(1, keepdims=True))
    probs /= probs.sum(1, keepdims=True)
    probs[np.arange(len(labels)), labels] -= 1
    grad = probs / len(labels)
    grads = [(features.T @ grad, grad.sum(0))]
    grad, out = grad @ params[-1][0].T, inputs[-1]
    grad = np.repeat(grad[:, None] / 16, 16, 1) if arch["pool"] == "mean" else grad.reshape(out.shape)
    for i in range(len(params) - 2, -1, -1):
        out = inputs[i + 1]
        grad = grad * (out > 0) if arch["act"] == "relu" else grad * (1 - out * out)
        flat = grad.reshape(-1, grad.shape[-1])
        grads.append((inputs[i].reshape(len(flat), -1).T @ flat, flat.sum(0)))
        grad = grad @ params[i][0].T
    return grads[::-1]


def train(arch, schedule, seed, data):
    (xs, flipped, ys), (val_xs, _, val_ys) = data
    rng = np.random.default_rng(seed)
    sizes = [48, *arch["widths"]]
    shapes = [*zip(sizes, sizes[1:]), (sizes[-1] * (1 if arch["pool"] == "mean" else 16), 10)]
    params = [[rng.standard_normal(s, np.float32) * np.sqrt(2 / s[0]), np.zeros(s[1], np.float32)] for s in shapes]
    speed = [[np.zeros_like(p) for p in layer] for layer in params]
    curve, steps, step = [], EPOCHS * (TRAIN // BATCH), 0
    for _ in range(EPOCHS):
        for batch in rng.permutation(TRAIN).reshape(-1, BATCH):
            lr = 0.03 * (0.5 * (1 + np.cos(np.pi * step / steps)) if schedule == "cosine" else 1)
            images = np.where(rng.random((BATCH, 1, 1)) < 0.5, flipped[batch], xs[batch])
            grads = backward(arch, params, *forward(arch, params, images), ys[batch])
            for layer, velocity, grad in zip(params, speed, grads):
                for j in range(2):
                    velocity[j] = 0.9 * velocity[j] + grad[j] + 5e-4 * layer[j]
                    layer[j] -= np.float32(lr) * velocity[j]
            step += 1
        curve.append(float((forward(arch, params, val_xs)[2].argmax(1) == val_ys).mean()))
    return curve


def main(folder, out):
    rng = random.Random(201)
    train_set = [part[:TRAIN] for part in read(f"{folder}/data_batch_1.bin")]
    data = (train_set, read(f"{folder}/test_batch.bin"))
    runs = []
    for seed in range(NETS):
        arch, schedule = draw(rng), ["cosine", "constant"][seed % 2]
        runs.append({"seed": seed, "schedule": schedule, "arch": arch, "val_acc": train(arch, schedule, seed, data)})
        print(seed, f"{time.process_time():.1f} s", schedule, arch, runs[-1]["val_acc"][-1], flush=True)
        with open(out, "w") as file:
            file.write("[\n" + ",\n".join(json.dumps(run) for run in runs) + "\n]\n")


main(*sys.argv[1:])
