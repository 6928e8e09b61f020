//! Semantic segmentation as a task: its data, networks, loss and scores.

pub mod evaluation;
pub mod space;

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use image::{GrayImage, RgbImage};
use nas_core::nn::{Cost, Mode, Shape, VarBuilder, channels_last};
use nas_core::optim::{Decay, OptimizerConfig, Schedule, SgdConfig};
use nas_core::run::cli::Compute;
use nas_core::run::confusion::Confusion;
use nas_core::run::export::Outputs;
use nas_core::run::picture::side_by_side;
use nas_core::space::Mixture;
use nas_core::task::commands::init::{Facts, Survey};
use nas_core::task::experiment::{Recipe, Setting};
use nas_core::task::{Losses, NoPretrain, Pass, PerClass, Task};
use nas_datasets::seg::loader::Pairs;
use nas_datasets::{
    Batch, Classes, DataConfig, EvalTransform, IGNORE, LoaderConfig, MAX_PIXELS, SampleSet, SegDataset, Size, Split,
    TrainLoader, TrainTransform, eval_samples,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::auto_deeplab::SearchNet;
use crate::loss::{cross_entropy, soft_jaccard};
use crate::metric::{ConfusionMatrix, Scores};
use crate::mobile_seg::MobileSegSupernet;
use crate::model::{ModelConfig, SegNet};
use crate::picture::overlay;
use crate::task::evaluation::{evaluate, predict};
use crate::task::space::SpaceConfig;

/// Semantic segmentation.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Segmentation;

/// A network, fixed or a supernet.
#[derive(Debug)]
pub enum Net {
    /// One architecture.
    Fixed(SegNet),
    /// All of Auto-DeepLab's space.
    AutoDeeplab(SearchNet),
    /// All of the space of inverted residuals.
    MobileSeg(MobileSegSupernet),
}

impl Net {
    /// Logits `[B, K, H, W]` of images `[B, 3, H, W]`; a supernet's are those of `mixture`.
    ///
    /// # Panics
    /// If a supernet gets no mixture.
    pub fn forward(&self, xs: &Tensor, mixture: Option<Mixture>, mode: Mode) -> Tensor {
        match self {
            Self::Fixed(net) => net.forward(xs, mode),
            Self::AutoDeeplab(net) => net.forward(xs, mixture.expect("a supernet runs a mixture"), mode),
            Self::MobileSeg(net) => net.forward_mixture(xs, mixture.expect("a supernet runs a mixture"), mode),
        }
    }

    /// Why it computes in another way on images of another size, where it does.
    pub fn varies_with_size(&self) -> Option<&'static str> {
        match self {
            Self::Fixed(net) => net.head.varies_with_size(),
            _ => None,
        }
    }

    /// The network of one architecture.
    ///
    /// # Panics
    /// If it is a supernet.
    pub fn fixed(&self) -> &SegNet {
        match self {
            Self::Fixed(net) => net,
            Self::AutoDeeplab(_) | Self::MobileSeg(_) => panic!("a supernet in the place of a network"),
        }
    }
}

/// `[loss]`: pixel cross entropy, or a mean of it and of what mIOU counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LossConfig {
    /// Weight of each class; empty for 1.
    pub class_weights: Vec<f64>,
    /// Share of the loss that is one minus the soft Jaccard index, mean over the classes of a batch (Rahman and Wang 2016); the rest is
    /// the cross entropy.
    #[serde(skip_serializing_if = "is_zero")]
    pub jaccard: f64,
}

fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

/// `[eval]`: how mIOU is measured; always at the label's own resolution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EvalConfig {
    /// Epochs between validations; the last epoch always has one. 0: only the last.
    pub every: usize,
    /// Size the images are resized to, `[height, width]`; absent for their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resize: Option<Size>,
    /// Scales whose probabilities are averaged.
    pub scales: Vec<f64>,
    /// Adds the mirrored image at every scale.
    pub flip: bool,
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self { every: 0, resize: None, scales: vec![1.0], flip: false }
    }
}

/// What pixels by class amount to.
pub fn scores(confusion: &Confusion) -> Scores {
    Scores { classes: confusion.classes.clone(), ..ConfusionMatrix::of(confusion).scores() }
}

impl nas_core::task::Scores for Scores {
    fn metric(&self, key: &str) -> Option<f64> {
        match key {
            "miou" => Some(self.miou),
            "pixel_acc" => Some(self.pixel_acc),
            _ => None,
        }
    }

    fn per_class(&self) -> Option<PerClass> {
        let name = |class: usize| self.classes.get(class).cloned().unwrap_or_else(|| class.to_string());
        let rows = self.iou.iter().enumerate().map(|(class, iou)| (name(class), vec![*iou])).collect();
        Some(PerClass { scores: vec!["IoU"], rows })
    }
}

type Set = Arc<dyn SegDataset>;

fn transform(setting: &Setting<Segmentation>) -> EvalTransform {
    EvalTransform::like(&setting.augment, setting.eval.resize)
}

fn ids(tensor: &Tensor) -> Result<Vec<u8>> {
    Ok(Vec::<u8>::try_from(tensor.to_kind(Kind::Uint8).to_device(Device::Cpu).flatten(0, -1))?)
}

impl Task for Segmentation {
    const PROGRAM: &'static str = "nas-segment";
    const METRICS: &'static [(&'static str, &'static str)] = &[("miou", "mIOU"), ("pixel_acc", "pixel acc")];
    const CURVES: &'static [&'static str] = &["loss", "miou", "pixel_acc"];
    const REDUCED: [&'static [&'static str]; 2] = [&["filters"], &["layers"]];
    const CLASS_LAYERS: &'static [&'static str] = &["head.logits."];
    const OUTPUTS: &'static [&'static str] = &["logits"];

    type Space = SpaceConfig;
    type Model = ModelConfig;
    type Loss = LossConfig;
    type Data = DataConfig;
    type Augment = TrainTransform;
    type Eval = EvalConfig;
    type Pretrain = NoPretrain;
    type Set = Set;
    type Source = Pairs;
    type Net = Net;
    type Validation = Confusion;
    type Scores = Scores;

    /// Auto-DeepLab's retraining, except for its length.
    fn recipe() -> Recipe<Self> {
        let sgd = SgdConfig { lr: 0.05, weight_decay: 4e-5, ..Default::default() };
        let schedule = Schedule { warmup_steps: 0, decay: Decay::Poly { power: 0.9 } };
        Recipe::new(100, 8, OptimizerConfig::Sgd(sgd), schedule, 0.0)
    }

    fn outputs(net: &Net, images: &Tensor) -> Vec<Tensor> {
        vec![net.forward(images, None, Mode::EVAL)]
    }

    fn eval_every(eval: &EvalConfig) -> usize {
        eval.every
    }

    fn check(setting: &Setting<Self>) -> Result<()> {
        let scales = &setting.eval.scales;
        let sensible = |scale: &f64| (0.05..=8.0).contains(scale);
        ensure!(
            !scales.is_empty() && scales.iter().all(sensible),
            "eval.scales = {scales:?}; expected at least one, each of 0.05 to 8"
        );
        if let Some(size) = setting.eval.resize {
            let largest = scales.iter().fold(1.0, |a: f64, b| a.max(*b));
            let pixels = f64::from(size.height()) * f64::from(size.width()) * largest * largest;
            ensure!(
                pixels <= MAX_PIXELS as f64,
                "eval.resize = [{}, {}] times eval.scales = {scales:?}; expected at most {MAX_PIXELS} pixels",
                size.height(),
                size.width()
            );
        }
        let weights = &setting.loss.class_weights;
        let positive = weights.iter().all(|weight| *weight > 0.0 && weight.is_finite());
        ensure!(positive, "loss.class_weights = {weights:?}; expected positive numbers");
        Ok(())
    }

    fn preset_classes(name: &str) -> Option<Vec<String>> {
        name.starts_with("squeezenas_").then(|| Classes::cityscapes().names)
    }

    /// Of SqueezeNAS' smallest network, which its authors trained on Cityscapes (MIT licence, `weights/LICENSE.squeezenas`).
    fn shipped_weights(name: &str) -> Option<&'static [u8]> {
        (name == "squeezenas_mac_small").then_some(include_bytes!("../../weights/squeezenas_mac_small.safetensors"))
    }

    fn slowest_momentum(model: &ModelConfig) -> Option<f64> {
        Some(match model {
            ModelConfig::Deeplabv3plus(config) => config.bn.momentum.min(config.head.bn.momentum),
            ModelConfig::AutoDeeplab(config) => config.bn.momentum.min(config.head.bn.momentum),
            ModelConfig::MobileSeg(config) => config.bn.momentum,
        })
    }

    fn open(data: &DataConfig, split: Split) -> Result<Set> {
        Ok(data.open(split)?)
    }

    fn classes(set: &Set) -> Vec<String> {
        set.classes().names.clone()
    }

    fn layouts(root: &Path) -> Vec<(&'static str, DataConfig)> {
        let root = root.to_path_buf();
        vec![
            ("folder", DataConfig::Folder { root: root.clone() }),
            ("cityscapes", DataConfig::Cityscapes { root: root.clone() }),
            ("camvid", DataConfig::Camvid { root }),
        ]
    }

    fn survey(set: &Set, index: usize) -> Result<Survey> {
        let sample = set.load(index)?;
        let mut counts = vec![0; set.classes().len()];
        for value in sample.label.iter().flat_map(|label| label.as_raw()) {
            counts.get_mut(usize::from(*value)).into_iter().for_each(|count| *count += 1);
        }
        let (w, h) = sample.image.dimensions();
        Ok(Survey { sizes: vec![(h, w)], counts })
    }

    /// The photo beside itself under the colours of its classes.
    fn picture(set: &Set, index: usize) -> Result<RgbImage> {
        let sample = set.load(index)?;
        let truth = sample.label.map(|label| overlay(&sample.image, &label, set.classes()));
        Ok(side_by_side(&std::iter::once(sample.image).chain(truth).collect::<Vec<_>>()))
    }

    fn starters(facts: &Facts) -> [String; 3] {
        crate::starters::starters(facts)
    }

    /// Masks of 0 and 255 are read as one class and pixels without one: every network is then right everywhere.
    fn require_trainable(set: &Set) -> Result<()> {
        let mut ignored = None;
        for i in 0..set.len() {
            let Some(label) = set.load(i)?.label else { continue };
            if label.iter().any(|value| (1..IGNORE).contains(value)) {
                return Ok(());
            }
            ignored = ignored.or(label.contains(&IGNORE).then_some(i));
        }
        let Some(i) = ignored else { return Ok(()) };
        bail!(
            "every pixel of its labels is of class {:?} (0) or of none ({IGNORE}), in {} too; expected pixels of two classes: \
             masks of 0 and 255 are to hold 0 and 1",
            Self::classes(set)[0],
            set.name(i)
        )
    }

    fn loader(
        setting: &Setting<Self>,
        set: &Set,
        indices: Option<Vec<usize>>,
        config: LoaderConfig,
        seed: u64,
        purpose: &str,
    ) -> Result<TrainLoader<Pairs>> {
        Ok(TrainLoader::new(set.clone(), indices, setting.augment.clone(), config, seed, purpose)?)
    }

    fn resized(augment: &TrainTransform, eval: &EvalConfig, factor: f64) -> (TrainTransform, EvalConfig) {
        let side = |side: u32| ((f64::from(side) * factor).round() as u32).max(1);
        let size = |size: Size| Size::new(side(size.height()), side(size.width()));
        // Scales that refer to a size shrink with it.
        let (rest, scales) = match eval.resize {
            Some(_) => (eval.resize.map(size), eval.scales.clone()),
            None => (None, eval.scales.iter().map(|scale| scale * factor).collect()),
        };
        let scale = if augment.resize.is_some() { augment.scale } else { augment.scale.map(|scale| scale * factor) };
        let step = if augment.resize.is_some() { augment.scale_step } else { augment.scale_step * factor };
        let augment = TrainTransform {
            resize: augment.resize.map(size),
            scale,
            scale_step: step,
            crop: size(augment.crop),
            ..augment.clone()
        };
        (augment, EvalConfig { resize: rest, scales, ..eval.clone() })
    }

    fn input(setting: &Setting<Self>, _set: &Set) -> Result<Shape> {
        let crop = setting.augment.crop;
        Ok(Shape::new(3, crop.height().into(), crop.width().into()))
    }

    fn eval_input(setting: &Setting<Self>, set: &Set) -> Result<Shape> {
        let (h, w) = match setting.eval.resize {
            Some(size) => (size.height(), size.width()),
            None => {
                let image = set.load(0)?.image;
                (image.height(), image.width())
            }
        };
        Ok(Shape::new(3, h.into(), w.into()))
    }

    fn build(model: &ModelConfig, vb: &VarBuilder, num_classes: usize) -> Result<Net> {
        Ok(Net::Fixed(model.build(vb, num_classes as i64)?))
    }

    fn cost(net: &Net, input: Shape) -> Result<Cost> {
        Ok(net.fixed().cost(input.size()))
    }

    fn fits(setting: &Setting<Self>, _net: &Net, num_classes: usize) -> Result<()> {
        let weights = &setting.loss.class_weights;
        ensure!(
            weights.is_empty() || weights.len() == num_classes,
            "loss.class_weights = {weights:?}: expected one positive number for each of the {num_classes} classes"
        );
        Ok(())
    }

    fn place(batch: Batch, compute: Compute) -> Batch {
        let images = batch.images.to_device(compute.device);
        let images = if compute.device.is_cuda() { channels_last(&images) } else { images };
        Batch { images, labels: batch.labels.to_device(compute.device), ..batch }
    }

    fn images(batch: &Batch) -> &Tensor {
        &batch.images
    }

    fn loss(pass: Pass<Self>, loss: &LossConfig, batch: &Batch, mode: Mode) -> Result<Losses> {
        Ok(Self::loss_and_logits(pass, loss, batch, mode)?.0)
    }

    fn loss_and_logits(
        pass: Pass<Self>,
        loss: &LossConfig,
        batch: &Batch,
        mode: Mode,
    ) -> Result<(Losses, Option<Tensor>)> {
        let logits = pass.autocast(|| pass.net.forward(&batch.images, pass.mixture, mode));
        let weights = (!loss.class_weights.is_empty()).then(|| {
            let weights = Tensor::from_slice(&loss.class_weights).to_kind(Kind::Float);
            weights.to_device(pass.compute.device)
        });
        let entropy = cross_entropy(&logits, &batch.labels, weights.as_ref());
        let total = match loss.jaccard {
            0.0 => entropy,
            share => entropy * (1.0 - share) + soft_jaccard(&logits, &batch.labels) * share,
        };
        Ok((total.into(), Some(logits)))
    }

    fn score(pass: Pass<Self>, batch: &Batch, num_classes: usize, mode: Mode) -> Result<f64> {
        let logits = tch::no_grad(|| pass.autocast(|| pass.net.forward(&batch.images, pass.mixture, mode)));
        let mut matrix = ConfusionMatrix::new(num_classes);
        matrix.add(&ids(&batch.labels)?, &ids(&logits.argmax(1, false))?);
        Ok(matrix.scores().miou)
    }

    fn run(pass: Pass<Self>, images: &Tensor, mode: Mode) {
        pass.autocast(|| _ = pass.net.forward(images, pass.mixture, mode));
    }

    fn run_once(pass: Pass<Self>, image: &Tensor) {
        let logits = pass.autocast(|| pass.net.forward(image, pass.mixture, Mode::EVAL));
        // Reading a value waits for the device.
        logits.double_value(&[0, 0, 0, 0]);
    }

    fn validate(pass: Pass<Self>, setting: &Setting<Self>, set: &Set, tick: &mut dyn FnMut()) -> Result<Confusion> {
        let net = |xs: &Tensor, mode| Ok(pass.net.forward(xs, pass.mixture, mode));
        evaluate(&net, set, &transform(setting), &setting.eval, pass.compute, tick)
    }

    fn validate_outputs(
        outputs: &Outputs,
        _net: &Net,
        setting: &Setting<Self>,
        set: &Set,
        threads: usize,
        tick: &mut dyn FnMut(),
    ) -> Result<Confusion> {
        let net = |xs: &Tensor, _: Mode| outputs(xs)?.into_iter().next().context("a file without logits");
        let compute = Compute { device: Device::Cpu, threads, amp: false };
        evaluate(&net, set, &transform(setting), &setting.eval, compute, tick)
    }

    fn scores(validation: &Confusion, _classes: &[String]) -> Scores {
        scores(validation)
    }

    fn confusion(validation: &Confusion, _classes: &[String]) -> Option<Confusion> {
        Some(validation.clone())
    }

    /// Photo, ground truth, then every network.
    fn sheet(nets: &[Pass<Self>], setting: &Setting<Self>, set: &Set, index: usize) -> Result<Option<RgbImage>> {
        let threads = nets.first().map_or(1, |pass| pass.compute.threads);
        let own: Set = set.subset(vec![index]);
        let sample = eval_samples(own, transform(setting), threads, 1).next().context("a sample")??;
        let photo = set.load(index)?.image;
        let (h, w) = sample.size;
        let predictions = nets.iter().map(|pass| {
            let net = |xs: &Tensor, mode| Ok(pass.net.forward(xs, pass.mixture, mode));
            let ids = predict(&net, &sample.image, (h.into(), w.into()), &setting.eval, pass.compute)?;
            Ok(overlay(&photo, &GrayImage::from_raw(w, h, ids).expect("one id per pixel"), set.classes()))
        });
        let predictions = predictions.collect::<Result<Vec<_>>>()?;
        let truth = sample.label.map(|label| overlay(&photo, &label, set.classes()));
        Ok(Some(side_by_side(&std::iter::once(photo.clone()).chain(truth).chain(predictions).collect::<Vec<_>>())))
    }

    /// Means over pixels.
    fn probe_logits(net: &Net, images: &Tensor, mode: Mode) -> Tensor {
        net.fixed().forward(images, mode).mean_dim([2i64, 3].as_slice(), false, None::<Kind>)
    }

    fn probe_features(net: &Net, images: &Tensor, mode: Mode) -> Tensor {
        let features = net.fixed().backbone.features(&channels_last(images), mode);
        features.into_iter().last().expect("a backbone has a last map")
    }

    /// The class of an image is its most frequent one.
    fn probe_batch(setting: &Setting<Self>, set: &Set, indices: &[usize], side: u32) -> Result<(Tensor, Tensor)> {
        let transform = EvalTransform { resize: Some(Size::new(side, side)), ..transform(setting) };
        let (mut images, mut labels) = (Vec::new(), Vec::new());
        for i in indices {
            let sample = set.load(*i)?;
            let mut counts = vec![0usize; set.classes().len()];
            let pixels = sample.label.iter().flat_map(|label| label.as_raw());
            pixels.for_each(|id| counts.get_mut(usize::from(*id)).into_iter().for_each(|count| *count += 1));
            let most = (0..counts.len()).max_by_key(|class| (counts[*class], usize::MAX - class)).unwrap_or(0);
            images.push(transform.apply(&sample.image));
            labels.push(most as i64);
        }
        Ok((Tensor::cat(&images, 0), Tensor::from_slice(&labels)))
    }
}

/// Reads one trained network: its experiment's model with the weights of a file.
pub fn trained(model: &ModelConfig, num_classes: usize, weights: &Path, compute: Compute) -> Result<Net> {
    // The store of the weights is shared by the tensors that the network holds.
    Ok(nas_core::task::supervised::trained_network::<Segmentation>(model, num_classes, weights, compute)?.1)
}
