"""Golden pixels of RandAugment's operators by torchvision 0.28.0 and Pillow 13.0.0.

python make.py > ops.json
"""

import json
import random

from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.autoaugment import RandAugment, _apply_op

random.seed(0)
W, H = 20, 16
pixels = bytes(min(255, max(0, 8 * (i // 3 % W) + 5 * (i // (3 * W)) + random.randrange(20, 70))) for i in range(W * H * 3))
image = Image.frombytes("RGB", (W, H), pixels)
cases = []
space = RandAugment()._augmentation_space(31, (H, W))
for op, (magnitudes, signed) in space.items():
    for index in (9, 24):
        for sign in (1, -1) if signed else (1,):
            magnitude = sign * (float(magnitudes[index]) if magnitudes.ndim else 0.0)
            out = _apply_op(image, op, magnitude, InterpolationMode.NEAREST, None)
            cases.append({"op": op, "index": index, "sign": sign, "magnitude": magnitude, "pixels": list(out.tobytes())})
print(json.dumps({"width": W, "height": H, "image": list(pixels), "cases": cases}))
