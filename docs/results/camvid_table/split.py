"""Makes a CamVid folder whose validation split is the last fifth of every sequence of the train split.

    python split.py ../shared/data/camvid runs/camvid/holdout_data

Neighbouring frames look alike, so whole stretches are held out, not frames at random.
"""

import os
import sys

source, target = sys.argv[1:]
os.makedirs(target, exist_ok=True)
for folder in ["train", "trainannot"]:
    link = os.path.join(target, folder)
    if not os.path.lexists(link):
        os.symlink(os.path.abspath(os.path.join(source, folder)), link)
sequences = {}
with open(os.path.join(source, "train.txt")) as listed:
    for line in filter(str.strip, listed):
        sequences.setdefault(os.path.basename(line.split()[0])[:6], []).append(line)
parts = {"train": [], "val": []}
for lines in sequences.values():
    lines.sort()
    held_out = round(len(lines) / 5)
    parts["train"] += lines[:-held_out]
    parts["val"] += lines[-held_out:]
for name, lines in parts.items():
    with open(os.path.join(target, name + ".txt"), "w") as listing:
        listing.writelines(lines)
    print(name, len(lines))
