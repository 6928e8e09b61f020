//! Experiment files for people's own images.

use nas_core::nn::VarBuilder;
use nas_core::task::TaskModel;
use nas_core::task::commands::init::Facts;

use crate::model::ModelConfig;

/// Pixels of a training crop.
const CROP_PIXELS: f64 = 60_000.0;
/// Images that a training and a trial see.
const IMAGES: [usize; 2] = [15_000, 3_000];
/// What the search starts from, and what bounds it.
const START: &str = "mobile_seg_hand_c";

/// Search, training and comparison, without `[data]`.
pub fn starters(facts: &Facts) -> [String; 3] {
    let (crop_h, crop_w) = facts.reduced(CROP_PIXELS, 16);
    // Crops are a part of the image, at scales about that of whole images of four crops.
    let (h, w) = facts.reduced(4.0 * CROP_PIXELS, 16);
    let factor = f64::from(h) / f64::from(facts.height);
    let scale = [0.5, 1.5].map(|by| (by * factor * 1000.0).round() / 1000.0);
    let [epochs, trial_epochs] = IMAGES.map(|images| facts.epochs(images, (3, 200)));
    let macs = ModelConfig::preset(START)
        .and_then(|model| model.build(&VarBuilder::dry(), facts.classes.len() as i64))
        .map_or(0, |net| net.cost((i64::from(h), i64::from(w))).macs);
    let bound = (macs as f64 * 1.08 / 1e6).ceil();
    let weights = class_weights(facts);
    let common = format!(
        "\n[loss]\n# Square roots of the classes' inverse frequencies: rare classes count more.\nclass_weights = {weights:?}\n\n\
         [augment]\nscale = {scale:?}\ncrop = [{crop_h}, {crop_w}]\nflip = 0.5\ncolor_jitter = 0.2\n\n\
         [eval]\n# Whole images at this height and width; masks keep theirs.\nresize = [{h}, {w}]\n"
    );
    let recipe = |epochs: usize| {
        format!(
            "\n[train]\n# About {} images in all: more epochs give better networks.\nepochs = {epochs}\nbatch_size = 8\n\
             optimizer = {{ kind = \"sgd\", lr = 0.05, momentum = 0.9, weight_decay = 1e-4 }}\n\
             schedule = {{ warmup_steps = 50, decay = {{ kind = \"poly\", power = 0.9 }} }}\n",
            epochs * facts.train
        )
    };
    let search = format!(
        "# A network for these images: inverted residuals whose strides, widths, depths, operators, head and decoder are\n\
         # chosen, of at most {bound} million multiply-adds at {h}x{w}. Trials train on four fifths of the train split and are\n\
         # scored on the rest.\n\nkind = \"search\"\nseed = 0\nnum_trials = 32\ncost_size = [{h}, {w}]\n\n\
         [space]\nkind = \"mobile_seg\"\noperators = [\"ds_k3\", \"ib_k3_e2\", \"ib_k5_e2\", \"ib_k3_e3\", \"ib_k5_e3\", \"ib_k3_e4\", \
         \"ib_k5_e4\", \"ib_k3_e6\", \"ib_k5_e6\"]\n\n\
         [start]\narchs = [\"{START}\"]\n\n\
         [strategy]\nkind = \"regularized_evolution\"\npopulation_size = 10\nsample_size = 4\n\n\
         [[objectives]]\nmetric = \"miou\"\n\n[[constraints]]\nmetric = \"macs\"\nupper = {bound}e6\n\n\
         [evaluator]\nkind = \"train\"\n# For frames of films: held_out = {{ end_of_sequences = 0.2 }}\nheld_out = 0.2\n{}\n\
         # The recipe of runs/search/train.toml, which trains what was found.\n{}{common}",
        recipe(trial_epochs),
        recipe(epochs).trim_start().replace("[train]", "[retrain]"),
    );
    let train = format!(
        "# One network. Its name may be replaced by any of `nas-segment cost --help`, or by the folder of a search.\n\n\
         kind = \"train\"\nseed = 0\n\n[model]\npreset = \"{START}\"\n{}{common}every = 5\n",
        recipe(epochs)
    );
    let compare = format!(
        "# The network that search.toml has found, the one it started from, and DeepLabv3+ by one recipe.\n\n\
         kind = \"compare\"\nseeds = [0]\npictures = 6\n\n\
         [[models]]\nname = \"searched\"\nmodel = {{ preset = \"runs/search\" }}\n\n\
         [[models]]\nname = \"start\"\nmodel = {{ preset = \"{START}\" }}\n\n\
         [[models]]\nname = \"deeplabv3plus\"\nmodel = {{ preset = \"mobile_seg_deeplabv3plus_11\" }}\n{}{common}every = 5\n",
        recipe(epochs)
    );
    [search, train, compare]
}

/// Square roots of the median frequency over each class' own, within limits, to two digits.
fn class_weights(facts: &Facts) -> Vec<f64> {
    let mut seen: Vec<u64> = facts.classes.iter().map(|(_, count)| *count).filter(|count| *count > 0).collect();
    seen.sort_unstable();
    let median = seen.get(seen.len() / 2).copied().unwrap_or(1) as f64;
    let weight = |count: u64| (median / count.max(1) as f64).sqrt().clamp(0.3, 4.0);
    facts.classes.iter().map(|(_, count)| (weight(*count) * 100.0).round() / 100.0).collect()
}
