# %% [markdown]
# # Search a network, train it, take it into PyTorch
#
# Cells for VS Code, Spyder or Jupyter (`jupytext --to ipynb`), or as one script: `python search_and_load.py [FOLDER]`. Needs
# `pip install nas-libtorch[tables] pillow`; matplotlib draws, where it is there. Two minutes on two cores; the images are synthetic
# street scenes.

# %%
import json
import sys
import tempfile
from pathlib import Path

from nas_libtorch import call, load_run

folder = Path(sys.argv[1] if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else tempfile.mkdtemp(prefix="nas-"))
folder.mkdir(parents=True, exist_ok=True)
print("everything is in", folder)

# %% [markdown]
# ## Data, and an experiment
#
# Networks of inverted residuals of at most 25 million multiply-adds. Trials train for four epochs on four fifths of the train split and
# are scored on the rest; the val split stays closed.

# %%
call("nas-segment", "data", "synth", "--out", folder / "streets", "--images", "40", "--size", "64x128")
(folder / "search.toml").write_text(f"""
kind = "search"
seed = 0
num_trials = 6
cost_size = [64, 128]
objectives = [{{ metric = "miou" }}]
constraints = [{{ metric = "macs", upper = 25e6 }}]

[space]
kind = "mobile_seg"
bn = {{ momentum = 0.5 }}

[strategy]
kind = "regularized_evolution"
population_size = 4
sample_size = 2

[evaluator]
kind = "train"

[train]
epochs = 4
batch_size = 4
optimizer = {{ kind = "sgd", lr = 0.05, momentum = 0.9, weight_decay = 1e-4 }}

[data]
kind = "cityscapes"
root = {json.dumps(str(folder / "streets"))}

[augment]
crop = [64, 128]
flip = 0.5

[eval]
every = 0
""")

# %%
call("nas-segment", "search", "--config", folder / "search.toml", "--out", folder / "search", "--resume")

# %% [markdown]
# ## What was found
#
# `trials` is a `pandas.DataFrame`; without pandas it is a list of dicts, as `log()` always is.

# %%
search = load_run(folder / "search")
print(search)
for row in sorted((row for row in search.log() if not row["failed"]), key=lambda row: -row["miou"]):
    print(f"trial {row['trial']}: mIOU {row['miou']:.3f}, {row['macs'] / 1e6:.1f} M multiply-adds, {row['params'] / 1e6:.3f} M parameters")
print("best:", search.best["notation"])

# %%
try:
    import matplotlib.pyplot as plt
except ImportError:
    plt = None
    print("no matplotlib: nothing is drawn")
if plt:
    found = [row for row in search.log() if not row["failed"]]
    figure, axes = plt.subplots()
    axes.scatter([row["macs"] / 1e6 for row in found], [100 * row["miou"] for row in found])
    axes.set_xlabel("multiply-adds in millions")
    axes.set_ylabel("mIOU % on held-out training images")
    figure.savefig(folder / "trials.png")

# %% [markdown]
# ## Train it
#
# The search has written the experiment of its best architecture.

# %%
call("nas-segment", "train", "--config", folder / "search/train.toml", "--set", "train.epochs=10", "--out", folder / "trained", "--resume")
trained = load_run(folder / "trained")
for row in trained.epochs():  # `trained.curves` is the same as a DataFrame
    print(f"epoch {row['epoch']}: loss {row['loss']:.3f}")
print("mIOU on the val split:", trained.result["scores"]["miou"])

# %% [markdown]
# ## Use it
#
# What the program itself says of the val split, as PNGs of Cityscapes' label ids, is what the network must say elsewhere.

# %%
import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

LABEL_IDS = np.array([7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33])

call("nas-segment", "predict", "--run", folder / "trained", "--out", folder / "predictions", "--no-overlays")


def agreement(network):
    """The share of pixels on which `network`, a function from images in 0..=1 to logits, says what the program says."""
    shares = []
    for file in sorted((folder / "streets/leftImg8bit/val").glob("*/*.png")):
        image = np.asarray(Image.open(file).convert("RGB"), np.float32) / 255
        labels = LABEL_IDS[network(image.transpose(2, 0, 1)[None])[0].argmax(0)]
        said = next((folder / "predictions/labels").rglob(f"{file.stem.removesuffix('_leftImg8bit')}*.png"))
        shares.append((labels == np.asarray(Image.open(said))).mean())
    assert shares, "no image of the val split"
    return float(np.mean(shares))


# %% [markdown]
# As a `torch.nn.Module`, to be trained on or built into something else:

# %%
try:
    import torch
except (ImportError, OSError) as error:
    print("skipped: the module, since torch cannot be imported:", error)
else:
    module = trained.module()
    print(sum(p.numel() for p in module.parameters()), "parameters")

    def by_torch(images):
        with torch.no_grad():
            return module((torch.from_numpy(images) - module.mean) / module.std).numpy()

    share = agreement(by_torch)
    print(f"torch and nas-segment agree on {100 * share:.2f} % of the pixels")
    assert share > 0.999, share

# %% [markdown]
# As ONNX, for onnxruntime and others:

# %%
written = trained.export(folder / "trained.onnx")
try:
    import onnxruntime
except ImportError:
    print("skipped: onnxruntime is not installed")
else:
    session = onnxruntime.InferenceSession(folder / "trained.onnx")
    mean, std = (np.array(written[key], np.float32).reshape(3, 1, 1) for key in ("mean", "std"))

    def by_onnxruntime(images):
        return session.run(["logits"], {session.get_inputs()[0].name: (images - mean) / std})[0]

    share = agreement(by_onnxruntime)
    print(f"onnxruntime and nas-segment agree on {100 * share:.2f} % of the pixels")
    assert share > 0.999, share
