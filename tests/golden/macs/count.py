"""Multiply-adds of the presets, counted by torch's FlopCounterMode while their traces run.

The counts are torch's own: it sees the convolutions that are executed and their real shapes, not our bookkeeping.

    TRACES=/tmp/traces cargo test -p nas-tests --release --test cost -- --ignored write_traces
    python count.py /tmp/traces > macs.json      # torch 2.13.0

Read by tests/tests/cost.rs.
"""

import json
import pathlib
import sys

import torch
from torch.utils.flop_counter import FlopCounterMode


@torch.no_grad()
def count(trace):
    _, height, width = trace.stem.rsplit("_", 2)
    net = torch.jit.load(str(trace)).eval()
    with FlopCounterMode(display=False) as counter, torch.jit.optimized_execution(False):
        net(torch.zeros(1, 3, int(height), int(width)))
    return counter.get_total_flops() // 2


def main(folder):
    counts = {}
    for trace in sorted(pathlib.Path(folder).glob("*.pt")):
        name, height, width = trace.stem.rsplit("_", 2)
        counts.setdefault(name, {})[f"{height}x{width}"] = count(trace)
    print(json.dumps(counts, indent=2))


main(sys.argv[1])
