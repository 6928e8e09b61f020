"""Golden pixels of AutoAugment's sub-policies for CIFAR-10 by torchvision 0.28.0 and Pillow 13.0.0: both operators of each,
the signs in turn.

python auto_augment.py > auto_augment.json
"""

import json
import random

from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.autoaugment import AutoAugment, AutoAugmentPolicy, _apply_op

random.seed(0)
W, H = 20, 16
pixels = bytes(min(255, max(0, 8 * (i // 3 % W) + 5 * (i // (3 * W)) + random.randrange(20, 70))) for i in range(W * H * 3))
transform = AutoAugment(AutoAugmentPolicy.CIFAR10)
space = transform._augmentation_space(10, (H, W))
cases = []
for number, policy in enumerate(transform.policies):
    image = Image.frombytes("RGB", (W, H), pixels)
    negative = [number // 2 % 2 == 0, number % 2 == 0]
    for (op, _, index), minus in zip(policy, negative):
        magnitudes, signed = space[op]
        magnitude = float(magnitudes[index]) if index is not None else 0.0
        image = _apply_op(image, op, -magnitude if signed and minus else magnitude, InterpolationMode.NEAREST, None)
    chances = [chance for _, chance, _ in policy]
    cases.append({"chances": chances, "negative": negative, "pixels": list(image.tobytes())})
print(json.dumps({"width": W, "height": H, "image": list(pixels), "cases": cases}))
