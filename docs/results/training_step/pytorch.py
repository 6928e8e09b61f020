"""Images per second of training steps of an exported network (`export --out NAME.py`) in PyTorch: channels-last, eager, fused SGD, random
batches of 8 images of 180x240.

    python pytorch.py NAME.py STEPS THREADS
"""

import importlib.util
import sys
import time

import torch

path, steps, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(threads)
spec = importlib.util.spec_from_file_location("network", path)
source = importlib.util.module_from_spec(spec)
spec.loader.exec_module(source)
network = source.load().train().to(memory_format=torch.channels_last)
optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, fused=True)
images = torch.randn(8, 3, 180, 240).to(memory_format=torch.channels_last)
labels = torch.randint(0, 11, (8, 180, 240))


def step():
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(network(images), labels).backward()
    optimizer.step()


for _ in range(3):
    step()
cpu, wall = time.process_time(), time.perf_counter()
for _ in range(steps):
    step()
cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
print(f"{8 * steps / wall:.1f} images/s, {8 * steps / cpu:.1f} per CPU second")
