//! Experiment files for people's own images.

use nas_core::task::commands::init::Facts;

/// Largest side of the images of a first search.
const SIDE: u32 = 96;
/// Images that a training and a trial see.
const IMAGES: [usize; 2] = [100_000, 15_000];

/// Search, training and comparison, without `[data]`.
pub fn starters(facts: &Facts) -> [String; 3] {
    let side = (facts.height.min(facts.width).min(SIDE) / 8).max(1) * 8;
    let is_small = side <= 48;
    let crop = match is_small {
        true => format!("{{ kind = \"pad\", padding = {} }}", side / 8),
        false => "{ kind = \"resized\", scale = [0.35, 1.0] }".into(),
    };
    let (stem_stride, known) = if is_small { (1, "resnet20") } else { (2, "mobilenet_v2") };
    let [epochs, trial_epochs] = IMAGES.map(|images| facts.epochs(images, (2, 200)));
    let common =
        format!("\n[augment]\nsize = [{side}, {side}]\ncrop = {crop}\nflip = 0.5\n\n[eval]\nbatch_size = 64\n");
    let recipe = |epochs: usize| {
        format!(
            "\n[train]\n# About {} images in all: more epochs give better networks.\nepochs = {epochs}\nbatch_size = 64\n\
             optimizer = {{ kind = \"sgd\", lr = 0.05, momentum = 0.9, weight_decay = 5e-4, nesterov = true }}\n\
             schedule = {{ warmup_steps = 20, decay = {{ kind = \"cosine\", min_lr = 0.0 }} }}\ngrad_clip = 5.0\n",
            epochs * facts.train
        )
    };
    let search = format!(
        "# A network for these images: inverted residuals whose kernels, expansions and depths are chosen. Trials train on four\n\
         # fifths of the train split and are scored on the rest.\n\nkind = \"search\"\nseed = 0\nnum_trials = 24\n\n\
         [space]\nkind = \"mobile\"\nstem = 16\nstem_stride = {stem_stride}\nlast = 128\nstages = [\n\
         \x20   {{ channels = [16], layers = 1, stride = 1, kernels = [3], expansions = [1] }},\n\
         \x20   {{ channels = [24], layers = 2, stride = 1, kernels = [3, 5, 7], expansions = [3, 6] }},\n\
         \x20   {{ channels = [40], layers = 2, stride = 2, kernels = [3, 5, 7], expansions = [3, 6] }},\n\
         \x20   {{ channels = [80], layers = 2, stride = 2, kernels = [3, 5, 7], expansions = [3, 6] }},\n]\n\n\
         [strategy]\nkind = \"regularized_evolution\"\npopulation_size = 8\nsample_size = 3\n\n\
         [[objectives]]\nmetric = \"top1\"\n\n[evaluator]\nkind = \"train\"\nheld_out = 0.2\n{}\n\
         # The recipe of runs/search/train.toml, which trains what was found.\n{}{common}",
        recipe(trial_epochs),
        recipe(epochs).trim_start().replace("[train]", "[retrain]"),
    );
    let train = format!(
        "# One network.\n\nkind = \"train\"\nseed = 0\n\n[model]\npreset = \"{known}\"\n{}{common}every = 5\n",
        recipe(epochs)
    );
    let compare = format!(
        "# The network that search.toml has found and a known one by one recipe.\n\nkind = \"compare\"\nseeds = [0]\n\n\
         [[models]]\nname = \"searched\"\nmodel = {{ preset = \"runs/search\" }}\n\n\
         [[models]]\nname = \"{known}\"\nmodel = {{ preset = \"{known}\" }}\n{}{common}every = 5\n",
        recipe(epochs)
    );
    [search, train, compare]
}
