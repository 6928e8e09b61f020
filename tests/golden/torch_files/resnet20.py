"""Top-1 of the imported ResNet-20 (akamaster's, shortcuts without parameters) in numpy, to compare with `nas-classify`: docs/results/resnet20.md.

    nas-classify import resnet20-12fca82f.th --rename linear=fc --out resnet20.safetensors
    pip install safetensors numpy; python resnet20.py resnet20.safetensors cifar-10-batches-bin/test_batch.bin 2000
"""

import sys

import numpy as np
from safetensors.numpy import load_file

MEAN, STD = (np.array(x, np.float32)[:, None, None] for x in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))


def conv(xs, weight, stride):
    """A convolution of 3x3 with padding of 1."""
    padded = np.pad(xs, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::stride, ::stride]
    return np.einsum("bchwij,ocij->bohw", windows, weight, optimize=True)


def norm(xs, tensors, name):
    """A batch norm in evaluation."""
    scale, shift, mean, var = (
        tensors[f"{name}.{key}"][:, None, None] for key in ("weight", "bias", "running_mean", "running_var")
    )
    return (xs - mean) / np.sqrt(var + 1e-5) * scale + shift


def logits(xs, tensors):
    """Logits of images [B, 3, 32, 32] in 0..=1."""
    xs = np.maximum(norm(conv((xs - MEAN) / STD, tensors["conv1.weight"], 1), tensors, "bn1"), 0)
    for layer in (1, 2, 3):
        for block in range(3):
            name, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            ys = np.maximum(norm(conv(xs, tensors[f"{name}.conv1.weight"], stride), tensors, f"{name}.bn1"), 0)
            ys = norm(conv(ys, tensors[f"{name}.conv2.weight"], 1), tensors, f"{name}.bn2")
            if stride == 2:
                new = ys.shape[1] // 4
                xs = np.pad(xs[:, :, ::2, ::2], ((0, 0), (new, new), (0, 0), (0, 0)))
            xs = np.maximum(ys + xs, 0)
    return xs.mean((2, 3)) @ tensors["fc.weight"].T + tensors["fc.bias"]


def main(weights, batch, count):
    rows = np.fromfile(batch, np.uint8).reshape(-1, 3073)[:count]
    images = rows[:, 1:].reshape(-1, 3, 32, 32).astype(np.float32) / 255
    right = logits(images, load_file(weights)).argmax(1) == rows[:, 0]
    print(f"{batch}: top-1 {right.mean():.4f} of {len(rows)} images")


main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
