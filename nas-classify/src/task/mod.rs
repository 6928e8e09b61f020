//! Image classification as a task: its data, networks, loss and scores.

mod space;

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use image::RgbImage;
use nas_core::nn::{Cost, Mode, Shape, VarBuilder, channels_last, ranks};
use nas_core::optim::{Decay, OptimizerConfig, Schedule, SgdConfig};
use nas_core::run::cli::Compute;
use nas_core::run::confusion::Confusion;
use nas_core::run::export::Outputs;
use nas_core::space::Mixture;
use nas_core::task::commands::init::{Facts, Survey};
use nas_core::task::experiment::{Recipe, Setting};
use nas_core::task::{Losses, NoPretrain, Pass, PerClass, Task};
use nas_datasets::classify::{
    ClassifyBatch, ClassifyDataConfig, ClassifyDataset, ClassifyEvalTransform, ClassifyTransform, Images, Part,
    eval_batches, train_loader,
};
use nas_datasets::{LoaderConfig, SampleSet, Size, Split, TrainLoader};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::loss::cross_entropy;
use crate::metric::{ClassScore, ConfusionMatrix, Scores};
use crate::model::{Classifier, Logits, ModelConfig};
use crate::search_net::{SearchNet, SpaceConfig};

/// Image classification.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Classification;

/// A network, fixed or a supernet.
#[derive(Debug)]
pub enum Net {
    /// One architecture.
    Fixed(Box<dyn Classifier>),
    /// All of a space.
    Shared(SearchNet),
}

impl Net {
    /// Logits of images `[B, 3, H, W]`; a supernet's are those of `mixture`.
    ///
    /// # Panics
    /// If a supernet gets no mixture.
    pub fn forward(&self, xs: &Tensor, mixture: Option<Mixture>, mode: Mode) -> Logits {
        match self {
            Self::Fixed(net) => net.forward(xs, mode),
            Self::Shared(net) => {
                let mixture = mixture.expect("a supernet runs a mixture");
                Logits { main: net.forward(xs, mixture, mode), aux: None }
            }
        }
    }

    /// The network of one architecture.
    ///
    /// # Panics
    /// If it is a supernet.
    pub fn fixed(&self) -> &dyn Classifier {
        match self {
            Self::Fixed(net) => &**net,
            Self::Shared(_) => panic!("a supernet in the place of a network"),
        }
    }
}

/// `[loss]`: cross entropy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LossConfig {
    /// Share of each target that is spread over all classes.
    pub label_smoothing: f64,
    /// Weight of the auxiliary head's loss, where the network has one.
    pub aux_weight: f64,
}

impl Default for LossConfig {
    fn default() -> Self {
        Self { label_smoothing: 0.0, aux_weight: 0.4 }
    }
}

/// `[eval]`: how accuracy is measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EvalConfig {
    /// Epochs between validations; the last epoch always has one. 0: only the last.
    pub every: usize,
    /// Length that the shorter side of an image is resized to before its middle is cut out; absent for the least that
    /// `augment.size` allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resize: Option<u32>,
    /// Images per forward pass.
    pub batch_size: usize,
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self { every: 1, resize: None, batch_size: 200 }
    }
}

impl nas_core::task::Scores for Scores {
    fn metric(&self, key: &str) -> Option<f64> {
        match key {
            "top1" => Some(self.top1),
            "top5" => Some(self.top5),
            _ => None,
        }
    }

    fn per_class(&self) -> Option<PerClass> {
        let row = |class: &ClassScore| (class.name.clone(), vec![class.acc]);
        Some(PerClass { scores: vec!["accuracy"], rows: self.classes.iter().map(row).collect() })
    }
}

type Set = Arc<dyn ClassifyDataset>;

fn transform(setting: &Setting<Classification>) -> Result<ClassifyEvalTransform> {
    Ok(ClassifyEvalTransform::like(&setting.augment, setting.eval.resize)?)
}

/// Logits `[B, K]` of images `[B, 3, H, W]`, in single precision.
pub fn logits(pass: Pass<Classification>, images: &Tensor, mode: Mode) -> Tensor {
    pass.autocast(|| pass.net.forward(&on_device(images, pass.compute), pass.mixture, mode).main).to_kind(Kind::Float)
}

/// This rank's part of a set by true and predicted class; `logits` gives `[B, K]` for images on the CPU.
fn count(
    logits: &dyn Fn(&Tensor) -> Result<Tensor>,
    setting: &Setting<Classification>,
    set: &Set,
    threads: usize,
    tick: &mut dyn FnMut(),
) -> Result<ConfusionMatrix> {
    let mut matrix = ConfusionMatrix::new(set.classes().len());
    let config = setting.loader.with(setting.eval.batch_size, threads);
    let own = set.subset(ranks::part_of(set.len(), config.batch_size.max(1)).collect());
    for batch in eval_batches(own, transform(setting)?, &config)? {
        let batch = batch?;
        matrix.add(&logits(&batch.images)?, &batch.labels);
        batch.indices.iter().for_each(|_| tick());
    }
    Ok(matrix)
}

fn on_device(images: &Tensor, compute: Compute) -> Tensor {
    let images = images.to_device(compute.device);
    if compute.device.is_cuda() { channels_last(&images) } else { images }
}

impl Task for Classification {
    const PROGRAM: &'static str = "nas-classify";
    const METRICS: &'static [(&'static str, &'static str)] = &[("top1", "top-1"), ("top5", "top-5")];
    const CURVES: &'static [&'static str] = &["loss", "top1", "top5"];
    const REDUCED: [&'static [&'static str]; 2] = [&["channels"], &["cells", "layers"]];
    const CLASS_LAYERS: &'static [&'static str] = &["classifier.", "fc.", "aux"];
    const OUTPUTS: &'static [&'static str] = &["logits"];

    const BENCHMARK: Option<&'static str> = Some("nasbench201");

    type Space = SpaceConfig;
    type Model = ModelConfig;
    type Loss = LossConfig;
    type Data = ClassifyDataConfig;
    type Augment = ClassifyTransform;
    type Eval = EvalConfig;
    type Pretrain = NoPretrain;
    type Set = Set;
    type Source = Images;
    type Net = Net;
    type Validation = ConfusionMatrix;
    type Scores = Scores;

    /// NAS-Bench-201's.
    fn recipe() -> Recipe<Self> {
        let sgd = SgdConfig { lr: 0.1, momentum: 0.9, weight_decay: 5e-4, nesterov: true };
        let schedule = Schedule { warmup_steps: 0, decay: Decay::Cosine { min_lr: 0.0 } };
        Recipe::new(200, 256, OptimizerConfig::Sgd(sgd), schedule, 0.0)
    }

    fn outputs(net: &Net, images: &Tensor) -> Vec<Tensor> {
        vec![net.forward(&channels_last(images), None, Mode::EVAL).main]
    }

    fn eval_every(eval: &EvalConfig) -> usize {
        eval.every
    }

    fn check(setting: &Setting<Self>) -> Result<()> {
        let LossConfig { label_smoothing, aux_weight } = setting.loss;
        ensure!(
            (0.0..1.0).contains(&label_smoothing),
            "loss.label_smoothing = {label_smoothing}; expected at least 0 and less than 1"
        );
        ensure!(aux_weight >= 0.0 && aux_weight.is_finite(), "loss.aux_weight = {aux_weight}; expected 0 or more");
        ensure!(setting.eval.batch_size > 0, "eval.batch_size = 0; expected at least 1");
        transform(setting).map(drop)
    }

    fn open(data: &ClassifyDataConfig, split: Split) -> Result<Set> {
        Ok(data.open(split)?)
    }

    fn classes(set: &Set) -> Vec<String> {
        set.classes().to_vec()
    }

    fn layouts(root: &Path) -> Vec<(&'static str, ClassifyDataConfig)> {
        let (root, part) = (root.to_path_buf(), Part::default());
        vec![
            ("cifar10", ClassifyDataConfig::Cifar10 { root: root.clone(), part: part.clone() }),
            ("cifar100", ClassifyDataConfig::Cifar100 { root: root.clone(), part: part.clone() }),
            ("mnist", ClassifyDataConfig::Mnist { root: root.clone(), part: part.clone() }),
            ("folder", ClassifyDataConfig::Folder { root, part }),
        ]
    }

    fn survey(set: &Set, index: usize) -> Result<Survey> {
        let (w, h) = set.image(index)?.dimensions();
        let mut counts = vec![0; set.classes().len()];
        counts[set.label(index)] = 1;
        Ok(Survey { sizes: vec![(h, w)], counts })
    }

    /// The image alone: its name in a folder of its class tells the truth.
    fn picture(set: &Set, index: usize) -> Result<RgbImage> {
        Ok(set.image(index)?)
    }

    fn starters(facts: &Facts) -> [String; 3] {
        crate::starters::starters(facts)
    }

    fn samples_of_classes(set: &Set) -> Vec<usize> {
        let mut counts = vec![0; set.classes().len()];
        (0..set.len()).for_each(|i| counts[set.label(i)] += 1);
        counts
    }

    fn loader(
        setting: &Setting<Self>,
        set: &Set,
        indices: Option<Vec<usize>>,
        config: LoaderConfig,
        seed: u64,
        purpose: &str,
    ) -> Result<TrainLoader<Images>> {
        Ok(train_loader(set.clone(), indices, setting.augment.clone(), config, seed, purpose)?)
    }

    fn resized(augment: &ClassifyTransform, eval: &EvalConfig, factor: f64) -> (ClassifyTransform, EvalConfig) {
        let side = |side: u32| ((f64::from(side) * factor).round() as u32).max(1);
        let size = Size::new(side(augment.size.height()), side(augment.size.width()));
        let eval = EvalConfig { resize: eval.resize.map(side), ..eval.clone() };
        (ClassifyTransform { size, ..augment.clone() }, eval)
    }

    fn input(setting: &Setting<Self>, _set: &Set) -> Result<Shape> {
        let size = setting.augment.size;
        Ok(Shape::new(3, size.height().into(), size.width().into()))
    }

    fn build(model: &ModelConfig, vb: &VarBuilder, num_classes: usize) -> Result<Net> {
        Ok(Net::Fixed(model.build(vb, num_classes as i64)?))
    }

    fn cost(net: &Net, input: Shape) -> Result<Cost> {
        Ok(net.fixed().cost(input))
    }

    fn place(batch: ClassifyBatch, compute: Compute) -> ClassifyBatch {
        let (images, device) = (on_device(&batch.images, compute), compute.device);
        let mixed = batch.mixed.map(|mixed| mixed.to_device(device));
        ClassifyBatch { images, labels: batch.labels.to_device(device), mixed, ..batch }
    }

    fn images(batch: &ClassifyBatch) -> &Tensor {
        &batch.images
    }

    fn loss(pass: Pass<Self>, loss: &LossConfig, batch: &ClassifyBatch, mode: Mode) -> Result<Losses> {
        Ok(Self::loss_and_logits(pass, loss, batch, mode)?.0)
    }

    fn loss_and_logits(
        pass: Pass<Self>,
        loss: &LossConfig,
        batch: &ClassifyBatch,
        mode: Mode,
    ) -> Result<(Losses, Option<Tensor>)> {
        let out = pass.autocast(|| pass.net.forward(&batch.images, pass.mixture, mode));
        let of = |logits: &Tensor| cross_entropy(logits, &batch.labels, batch.mixed.as_ref(), loss.label_smoothing);
        let main = of(&out.main);
        let losses = match &out.aux {
            Some(aux) => Losses { total: &main + of(aux) * loss.aux_weight, shown: Some(main), parts: Vec::new() },
            None => main.into(),
        };
        Ok((losses, Some(out.main)))
    }

    fn score(pass: Pass<Self>, batch: &ClassifyBatch, _num_classes: usize, mode: Mode) -> Result<f64> {
        let predicted = tch::no_grad(|| logits(pass, &batch.images, mode)).argmax(-1, false);
        let right = predicted.eq_tensor(&batch.labels).sum(Kind::Int64).int64_value(&[]);
        Ok(right as f64 / batch.indices.len() as f64)
    }

    fn run(pass: Pass<Self>, images: &Tensor, mode: Mode) {
        let _ = logits(pass, images, mode);
    }

    fn run_once(pass: Pass<Self>, image: &Tensor) {
        // Reading a value waits for the device.
        logits(pass, image, Mode::EVAL).double_value(&[0, 0]);
    }

    fn validate(
        pass: Pass<Self>,
        setting: &Setting<Self>,
        set: &Set,
        tick: &mut dyn FnMut(),
    ) -> Result<ConfusionMatrix> {
        let logits = |images: &Tensor| Ok(tch::no_grad(|| logits(pass, images, Mode::EVAL)));
        let mut matrix = ranks::together(|| count(&logits, setting, set, pass.compute.threads, tick))?;
        matrix.of_all_ranks();
        Ok(matrix)
    }

    fn validate_outputs(
        outputs: &Outputs,
        _net: &Net,
        setting: &Setting<Self>,
        set: &Set,
        threads: usize,
        tick: &mut dyn FnMut(),
    ) -> Result<ConfusionMatrix> {
        let logits = |images: &Tensor| outputs(images)?.into_iter().next().context("a file without logits");
        count(&logits, setting, set, threads, tick)
    }

    /// The probability of its class.
    fn judge(pass: Pass<Self>, setting: &Setting<Self>, set: &Set, index: usize) -> Result<Option<(f64, String)>> {
        let config = setting.loader.with(1, 1);
        let batch =
            eval_batches(set.subset(vec![index]), transform(setting)?, &config)?.next().context("a sample")??;
        let said = tch::no_grad(|| logits(pass, &batch.images, Mode::EVAL)).softmax(1, Kind::Float).get(0);
        let (names, class) = (set.classes(), set.label(index));
        let of = |class: usize| said.double_value(&[class as i64]);
        let best = said.argmax(0, false).int64_value(&[]) as usize;
        let text = match best == class {
            true => format!("{}: {:.1} %", names[class], 100.0 * of(class)),
            false => {
                format!("{}: {:.1} %, {}: {:.1} %", names[class], 100.0 * of(class), names[best], 100.0 * of(best))
            }
        };
        Ok(Some((of(class), text)))
    }

    fn scores(validation: &ConfusionMatrix, classes: &[String]) -> Scores {
        validation.scores(classes)
    }

    fn confusion(validation: &ConfusionMatrix, classes: &[String]) -> Option<Confusion> {
        Some(validation.named(classes))
    }

    fn quick_samples(setting: &Setting<Self>, _batch_size: usize) -> usize {
        setting.eval.batch_size
    }

    fn probe_logits(net: &Net, images: &Tensor, mode: Mode) -> Tensor {
        net.fixed().forward(images, mode).main
    }

    fn probe_features(net: &Net, images: &Tensor, mode: Mode) -> Tensor {
        net.fixed().features(images, mode)
    }

    fn probe_batch(setting: &Setting<Self>, set: &Set, indices: &[usize], side: u32) -> Result<(Tensor, Tensor)> {
        let training = ClassifyTransform { size: Size::new(side, side), ..setting.augment.clone() };
        let transform = ClassifyEvalTransform::like(&training, None)?;
        let images = indices.iter().map(|i| Ok(transform.apply(&set.image(*i)?))).collect::<Result<Vec<_>>>()?;
        let labels: Vec<i64> = indices.iter().map(|i| set.label(*i) as i64).collect();
        Ok((Tensor::cat(&images, 0), Tensor::from_slice(&labels)))
    }
}
