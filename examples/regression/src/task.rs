//! The task: a number from an image, by squared error.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use image::RgbImage;
use nas_core::nn::{Cost, Linear, Mode, Shape, VarBuilder};
use nas_core::optim::{Decay, OptimizerConfig, Schedule, SgdConfig};
use nas_core::run::cli::Compute;
use nas_core::run::export::Outputs;
use nas_core::space::{Backbone, Mixture, SearchSpace, Supernet};
use nas_core::task::commands::init::{Facts, Survey};
use nas_core::task::experiment::{Recipe, Setting};
use nas_core::task::{Losses, NoPretrain, Pass, Task};
use nas_datasets::{LoaderConfig, SampleSet, Size, Split, TrainLoader};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::data::{Augment, Batch, DataConfig, Numbers, Set, pixels};
use crate::space::{Line, ModelConfig};

/// Reading a number from an image.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Regression;

/// A network, fixed or a supernet.
#[derive(Debug)]
pub enum Net {
    /// One architecture.
    Fixed {
        /// Up to the maps.
        body: Box<dyn Backbone>,
        /// From the mean of the last map to the number.
        head: Linear,
    },
    /// All of a space.
    Shared {
        /// Up to the maps.
        body: Box<dyn Supernet>,
        /// From the mean of the last map to the number.
        head: Linear,
    },
}

impl Net {
    /// Numbers `[B]` of images `[B, 3, H, W]`; a supernet's are those of `mixture`.
    fn forward(&self, images: &Tensor, mixture: Option<Mixture>, mode: Mode) -> Tensor {
        let (maps, head) = match self {
            Self::Fixed { body, head } => (body.features(images, mode), head),
            Self::Shared { body, head } => {
                (body.features(images, mixture.expect("a supernet runs a mixture"), mode), head)
            }
        };
        head.forward(&maps[maps.len() - 1].mean_dim([2i64, 3].as_slice(), false, None)).view([-1])
    }
}

/// `[loss]`: nothing to choose.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LossConfig {}

/// `[eval]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EvalConfig {
    /// Epochs between validations.
    pub every: usize,
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self { every: 1 }
    }
}

/// Sums over a set.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Validation {
    squared_errors: f64,
    numbers: f64,
    squares: f64,
    len: f64,
}

/// The explained part of the variance.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Scores {
    r2: Option<f64>,
}

impl std::fmt::Display for Scores {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self.r2 {
            Some(r2) => write!(f, "{:.1} % of the variance explained", 100.0 * r2),
            None => write!(f, "nothing to explain"),
        }
    }
}

impl nas_core::task::Scores for Scores {
    fn metric(&self, key: &str) -> Option<f64> {
        self.r2.filter(|_| key == "r2")
    }
}

/// Numbers `[B]`.
fn numbers(pass: Pass<Regression>, images: &Tensor, mode: Mode) -> Tensor {
    let images = images.to_device(pass.compute.device);
    pass.autocast(|| pass.net.forward(&images, pass.mixture, mode)).to_kind(Kind::Float)
}

fn image(set: &Set, index: usize, size: Size) -> Result<Tensor> {
    let shape = [1, 3, size.height().into(), size.width().into()];
    Ok(Tensor::from_slice(&pixels(&set.image(index)?, size)).view(shape))
}

fn validate(
    number: &dyn Fn(&Tensor) -> Result<f64>,
    setting: &Setting<Regression>,
    set: &Set,
    tick: &mut dyn FnMut(),
) -> Result<Validation> {
    let mut sums = Validation::default();
    for i in 0..set.len() {
        let (said, truth) = (number(&image(set, i, setting.augment.size)?)?, f64::from(set.number(i)));
        sums.squared_errors += (said - truth).powi(2);
        sums.numbers += truth;
        sums.squares += truth * truth;
        sums.len += 1.0;
        tick();
    }
    Ok(sums)
}

impl Task for Regression {
    const PROGRAM: &'static str = "nas-regress";
    const METRICS: &'static [(&'static str, &'static str)] = &[("r2", "R2")];
    const CURVES: &'static [&'static str] = &["loss", "r2"];
    const REDUCED: [&'static [&'static str]; 2] = [&["channels"], &["layers"]];
    const CLASS_LAYERS: &'static [&'static str] = &["head."];
    const PREDICTS_CLASSES: bool = false;
    const OUTPUTS: &'static [&'static str] = &["number"];

    type Space = Line;
    type Model = ModelConfig;
    type Loss = LossConfig;
    type Data = DataConfig;
    type Augment = Augment;
    type Eval = EvalConfig;
    type Pretrain = NoPretrain;
    type Set = Set;
    type Source = Numbers;
    type Net = Net;
    type Validation = Validation;
    type Scores = Scores;

    fn recipe() -> Recipe<Self> {
        let sgd = SgdConfig { lr: 0.02, momentum: 0.9, weight_decay: 1e-4, nesterov: true };
        let schedule = Schedule { warmup_steps: 0, decay: Decay::Cosine { min_lr: 0.0 } };
        Recipe::new(20, 16, OptimizerConfig::Sgd(sgd), schedule, 5.0)
    }

    fn eval_every(eval: &EvalConfig) -> usize {
        eval.every
    }

    fn check(setting: &Setting<Self>) -> Result<()> {
        let flip = setting.augment.flip;
        ensure!((0.0..=1.0).contains(&flip), "augment.flip = {flip}; expected 0 to 1");
        Ok(())
    }

    fn open(data: &DataConfig, split: Split) -> Result<Set> {
        data.open(split)
    }

    fn classes(_set: &Set) -> Vec<String> {
        vec!["number".into()]
    }

    fn layouts(root: &Path) -> Vec<(&'static str, DataConfig)> {
        vec![("csv", DataConfig { root: root.into() })]
    }

    fn survey(set: &Set, index: usize) -> Result<Survey> {
        let (w, h) = set.image(index)?.dimensions();
        Ok(Survey { sizes: vec![(h, w)], counts: vec![1] })
    }

    fn picture(set: &Set, index: usize) -> Result<RgbImage> {
        Ok(set.image(index)?)
    }

    fn starters(_facts: &Facts) -> [String; 3] {
        let train = "kind = \"train\"\nmodel = { preset = \"plain\" }\n";
        let search = "kind = \"search\"\nnum_trials = 8\nspace = {}\nstrategy = { kind = \"random\" }\n\n[[objectives]]\n\
                      metric = \"r2\"\n\n[evaluator]\nkind = \"train\"\nheld_out = 0.2\n";
        let compare =
            "kind = \"compare\"\nseeds = [0]\n\n[[models]]\nname = \"plain\"\nmodel = { preset = \"plain\" }\n";
        [search, train, compare].map(String::from)
    }

    fn loader(
        setting: &Setting<Self>,
        set: &Set,
        indices: Option<Vec<usize>>,
        config: LoaderConfig,
        seed: u64,
        purpose: &str,
    ) -> Result<TrainLoader<Numbers>> {
        let source = Numbers { set: set.clone(), augment: setting.augment.clone() };
        Ok(TrainLoader::of(source, indices, config, seed, purpose)?)
    }

    fn resized(augment: &Augment, eval: &EvalConfig, factor: f64) -> (Augment, EvalConfig) {
        let side = |side: u32| ((f64::from(side) * factor).round() as u32).max(1);
        let size = Size::new(side(augment.size.height()), side(augment.size.width()));
        (Augment { size, ..augment.clone() }, eval.clone())
    }

    fn input(setting: &Setting<Self>, _set: &Set) -> Result<Shape> {
        let size = setting.augment.size;
        Ok(Shape::new(3, size.height().into(), size.width().into()))
    }

    fn build(model: &ModelConfig, vb: &VarBuilder, _num_classes: usize) -> Result<Net> {
        let body = model.space.build(vb, &model.arch)?;
        let channels = body.feature_info().pop().expect("a backbone has a last map").channels;
        Ok(Net::Fixed { body, head: Linear::new(&vb.sub("head"), channels, 1) })
    }

    fn cost(net: &Net, input: Shape) -> Result<Cost> {
        let Net::Fixed { body, head } = net else { bail!("a supernet in the place of a network") };
        let mut cost = head.cost();
        body.cost_parts(input).0.into_iter().for_each(|(_, part)| cost += part);
        Ok(cost)
    }

    fn outputs(net: &Net, images: &Tensor) -> Vec<Tensor> {
        vec![net.forward(images, None, Mode::EVAL)]
    }

    fn place(batch: Batch, compute: Compute) -> Batch {
        Batch { images: batch.images.to_device(compute.device), numbers: batch.numbers.to_device(compute.device) }
    }

    fn images(batch: &Batch) -> &Tensor {
        &batch.images
    }

    fn loss(pass: Pass<Self>, _loss: &LossConfig, batch: &Batch, mode: Mode) -> Result<Losses> {
        Ok(numbers(pass, &batch.images, mode).mse_loss(&batch.numbers, tch::Reduction::Mean).into())
    }

    /// 1 / (1 + mean squared error).
    fn score(pass: Pass<Self>, batch: &Batch, _num_classes: usize, mode: Mode) -> Result<f64> {
        let said = tch::no_grad(|| numbers(pass, &batch.images, mode));
        Ok(1.0 / (1.0 + said.mse_loss(&batch.numbers, tch::Reduction::Mean).double_value(&[])))
    }

    fn run(pass: Pass<Self>, images: &Tensor, mode: Mode) {
        let _ = numbers(pass, images, mode);
    }

    fn run_once(pass: Pass<Self>, image: &Tensor) {
        numbers(pass, image, Mode::EVAL).double_value(&[0]);
    }

    fn validate(pass: Pass<Self>, setting: &Setting<Self>, set: &Set, tick: &mut dyn FnMut()) -> Result<Validation> {
        let number = |image: &Tensor| Ok(tch::no_grad(|| numbers(pass, image, Mode::EVAL).double_value(&[0])));
        validate(&number, setting, set, tick)
    }

    fn validate_outputs(
        outputs: &Outputs,
        _net: &Net,
        setting: &Setting<Self>,
        set: &Set,
        _threads: usize,
        tick: &mut dyn FnMut(),
    ) -> Result<Validation> {
        let number = |image: &Tensor| Ok(outputs(image)?.first().context("a file without number")?.double_value(&[0]));
        validate(&number, setting, set, tick)
    }

    fn scores(validation: &Validation, _classes: &[String]) -> Scores {
        let Validation { squared_errors, numbers, squares, len } = validation;
        let variance = squares - numbers * numbers / len;
        Scores { r2: (variance > 0.0).then(|| 1.0 - squared_errors / variance) }
    }

    fn probe_features(net: &Net, images: &Tensor, mode: Mode) -> Tensor {
        let Net::Fixed { body, .. } = net else { panic!("a supernet in the place of a network") };
        body.features(images, mode).pop().expect("a backbone has a last map")
    }
}
