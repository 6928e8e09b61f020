"""Files of torch.save for the tests of `nas-core/src/run/import`: both formats, views, shared storages, all number types.

    pip install torch==2.13.0 numpy; python make.py
"""

import collections

import torch


def state():
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    tensors = collections.OrderedDict()
    tensors["module.conv.weight"] = base[:, ::2].clone().reshape(2, 2, 3)
    tensors["module.view"] = base[1:3, 1:5].t()
    tensors["module.same"] = base
    tensors["module.scalar"] = torch.tensor(7)
    tensors["module.empty"] = torch.zeros(0, 3)
    for kind in ["float64", "float16", "bfloat16", "int32", "int16", "int8", "uint8"]:
        tensors["module." + kind] = torch.tensor([1, 2, 3]).to(getattr(torch, kind))
    tensors["module.bool"] = torch.tensor([True, False])
    tensors["module.parameter"] = torch.nn.Parameter(torch.tensor([0.5, -0.5]))
    return tensors


for name, is_zip in [("zip", True), ("legacy", False)]:
    save = lambda value, file: torch.save(value, file, _use_new_zipfile_serialization=is_zip)
    save(state(), f"{name}.pt")
    save({"epoch": 3, "best": 0.5, "state_dict": state(), "args": ["a", None, True]}, f"{name}_checkpoint.pt")
    save({"model": {"w": torch.ones(2)}, "ema": {"w": torch.zeros(2)}}, f"{name}_two.pt")
torch.save(torch.nn.Linear(2, 2), "module.pt")
