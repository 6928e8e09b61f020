//! Experiment files for people's own images.

use nas_core::task::commands::init::Facts;

/// Pixels of an image in training.
const PIXELS: f64 = 65_536.0;
/// Images that a training and a trial see.
const IMAGES: [usize; 2] = [12_000, 2_500];

/// Search, training and comparison, without `[data]`.
pub fn starters(facts: &Facts) -> [String; 3] {
    let (h, w) = facts.reduced(PIXELS, 32);
    let (short, long) = (h.min(w), h.max(w));
    let [epochs, trial_epochs] = IMAGES.map(|images| facts.epochs(images, (3, 200)));
    let common = format!(
        "\n[augment]\n# Images are resized to at least this many pixels along the short side and at most those along the long one.\n\
         short = {short}\nlong = {long}\nscale = [0.8, 1.2]\n\n[eval]\nbatch_size = 8\n"
    );
    let recipe = |epochs: usize| {
        format!(
            "\n[train]\n# About {} images in all: more epochs give better detectors.\nepochs = {epochs}\nbatch_size = 8\n\
             grad_clip = 10.0\noptimizer = {{ kind = \"adam\", lr = 2e-3 }}\n\
             schedule = {{ warmup_steps = 50, decay = {{ kind = \"cosine\", min_lr = 0.0 }} }}\n",
            epochs * facts.train
        )
    };
    let search = format!(
        "# A detector for these images: FCOS on a backbone of DetNAS' blocks, which are chosen. Trials train on four fifths of the\n\
         # train split and are scored on the rest.\n\nkind = \"search\"\nseed = 0\nnum_trials = 20\ncost_size = [{h}, {w}]\n\n\
         [space]\nkind = \"detnas\"\nsize = \"tiny\"\n\n[model]\npreset = \"fcos_detnas_tiny\"\n\n\
         [strategy]\nkind = \"regularized_evolution\"\npopulation_size = 8\nsample_size = 3\n\n\
         [[objectives]]\nmetric = \"ap\"\n\n[evaluator]\nkind = \"train\"\nheld_out = 0.2\n{}\n\
         # The recipe of runs/search/train.toml, which trains what was found.\n{}{common}",
        recipe(trial_epochs),
        recipe(epochs).trim_start().replace("[train]", "[retrain]"),
    );
    let train = format!(
        "# One detector.\n\nkind = \"train\"\nseed = 0\n\n[model]\npreset = \"fcos_shufflenet_v2_x0_5\"\n{}{common}every = 5\n",
        recipe(epochs)
    );
    let compare = format!(
        "# The detector that search.toml has found and one with a known backbone by one recipe.\n\n\
         kind = \"compare\"\nseeds = [0]\npictures = 4\n\n\
         [[models]]\nname = \"searched\"\nmodel = {{ preset = \"runs/search\" }}\n\n\
         [[models]]\nname = \"shufflenet_v2_x0_5\"\nmodel = {{ preset = \"fcos_shufflenet_v2_x0_5\" }}\n{}{common}every = 5\n",
        recipe(epochs)
    );
    [search, train, compare]
}
