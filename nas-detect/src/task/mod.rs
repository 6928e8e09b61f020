//! Object detection as a task: its data, networks, loss and scores.

pub mod evaluation;
pub mod pretraining;
pub mod space;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use image::RgbImage;
use nas_core::nn::{Cost, Mode, Shape, VarBuilder, channels_last, ranks};
use nas_core::optim::{Decay, OptimizerConfig, Schedule, SgdConfig};
use nas_core::run::cli::Compute;
use nas_core::run::export::Outputs;
use nas_core::run::picture::side_by_side;
use nas_core::run::precision_recall::PrecisionRecall;
use nas_core::run::run_dir::RunDir;
use nas_core::space::Mixture;
use nas_core::task::commands::init::{Facts, Survey};
use nas_core::task::experiment::{self, OneShotExperiment, Recipe, Setting};
use nas_core::task::{self, Pass, PerClass, Task, supervised};
use nas_datasets::det::loader::Boxes;
use nas_datasets::det::{
    CocoSplit, DetBatch, DetClasses, DetDataConfig, DetDataset, DetSample, DetTransform, Object, det_train_loader,
};
use nas_datasets::{LoaderConfig, SampleSet, Size, Split, TrainLoader, hold_out};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Tensor, nn::VarStore};

use crate::backbone::{BackboneConfig, total};
use crate::detnas::path_weights;
use crate::eval::coco::MAX_DETS;
use crate::eval::files::EvalFiles;
use crate::eval::report::{CocoClass, CocoReport};
use crate::head::{Detections, Predictions};
use crate::model::{Detector, ModelConfig, SuperDetector, Top};
use crate::picture::{Marked, draw, marked};
use crate::task::evaluation::{Reading, evaluate};
use crate::task::pretraining::{PretrainConfig, pretrain};
use crate::task::space::SpaceConfig;

/// Object detection.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Detection;

/// A detector, fixed or on a supernet.
#[derive(Debug)]
pub enum Net {
    /// One architecture.
    Fixed(Box<Detector>),
    /// All of DetNAS' space.
    Shared(Box<SuperDetector>),
}

impl Net {
    /// Predictions for images `[B, 3, H, W]`; a supernet's are those of `mixture`.
    ///
    /// # Panics
    /// If a supernet gets no mixture.
    pub fn forward(&self, images: &Tensor, mixture: Option<Mixture>, mode: Mode) -> Predictions {
        match self {
            Self::Fixed(net) => net.forward(images, mode),
            Self::Shared(net) => net.forward(images, mixture.expect("a supernet runs a mixture"), mode),
        }
    }

    /// What is found in each of the images `[B, 3, H, W]`, in pixels of these images.
    pub fn detect(&self, images: &Tensor, mixture: Option<Mixture>) -> Vec<Detections> {
        let (_, _, h, w) = images.size4().expect("images have four dimensions");
        tch::no_grad(|| self.top().detect(&self.forward(images, mixture, Mode::EVAL), (h, w)))
    }

    /// Scores `[B, N, K]` and boxes `[B, N, 4]` of all predictions for images `[B, 3, H, W]`, before suppression.
    pub fn scores_and_boxes(&self, images: &Tensor) -> [Tensor; 2] {
        let (_, _, h, w) = images.size4().expect("images have four dimensions");
        self.top().scores_and_boxes(&self.forward(images, None, Mode::EVAL), (h, w))
    }

    /// Neck and head.
    pub fn top(&self) -> &Top {
        match self {
            Self::Fixed(net) => &net.top,
            Self::Shared(net) => &net.top,
        }
    }

    /// The detector of one architecture.
    ///
    /// # Panics
    /// If it is a supernet.
    pub fn fixed(&self) -> &Detector {
        match self {
            Self::Fixed(net) => net,
            Self::Shared(_) => panic!("a supernet in the place of a detector"),
        }
    }
}

/// `[loss]`: the head's own, without settings here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LossConfig {}

/// `[eval]`: how average precision is measured; always in pixels of the original image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EvalConfig {
    /// Epochs between validations; the last epoch always has one. 0: only the last.
    pub every: usize,
    /// Images per forward pass. Images of several sizes are padded to the largest, which group norms of a head see: 1 gives
    /// every image's own result.
    pub batch_size: usize,
    /// Least score of a box that a comparison draws.
    pub min_score: f64,
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self { every: 0, batch_size: 1, min_score: 0.3 }
    }
}

/// -1 stands for "there was nothing to find".
fn found(value: f64) -> Option<f64> {
    (value >= 0.0).then_some(value)
}

impl task::Scores for CocoReport {
    fn metric(&self, key: &str) -> Option<f64> {
        let value = match key {
            "ap" => self.ap,
            "ap50" => self.ap50,
            "ap75" => self.ap75,
            _ => return None,
        };
        found(value)
    }

    fn per_class(&self) -> Option<PerClass> {
        let row = |class: &CocoClass| {
            let stats = class.stats[..3].iter().map(|value| found(*value)).collect();
            (class.category.name.clone(), stats)
        };
        Some(PerClass { scores: vec!["AP", "AP50", "AP75"], rows: self.per_class.iter().map(row).collect() })
    }
}

type Set = Arc<dyn DetDataset>;

/// Images of a batch on `device`.
pub fn images_on(images: &Tensor, device: Device) -> Tensor {
    let images = images.to_device(device);
    if device.is_cuda() { channels_last(&images) } else { images }
}

/// How a setting's images reach a network that is not trained.
pub fn reading(setting: &Setting<Detection>, compute: Compute) -> Reading {
    Reading::new(&setting.augment, &setting.loader, &setting.eval, compute)
}

/// The image of a sample with its boxes and their classes.
fn with_truth(sample: &DetSample, classes: &DetClasses) -> RgbImage {
    let mark = |object: &Object| Marked {
        bbox: object.bbox,
        class: object.class,
        text: classes.names()[object.class].clone(),
    };
    draw(&sample.image, &sample.objects.iter().map(mark).collect::<Vec<_>>())
}

/// Images `[B, 3, H, W]` of this rank, padded to the size that the whole batch has on one.
fn as_large_as_all(images: &Tensor) -> Tensor {
    let [height, width] = [2, 3].map(|side| images.size()[side]);
    let sizes = ranks::all(&[height as f64, width as f64]);
    let largest = |side: usize| sizes.iter().map(|size| size[side] as i64).max().unwrap_or(0);
    let (right, bottom) = (largest(1) - width, largest(0) - height);
    if right == 0 && bottom == 0 {
        return images.shallow_clone();
    }
    images.constant_pad_nd([0, right, 0, bottom])
}

impl Task for Detection {
    const PROGRAM: &'static str = "nas-detect";
    const METRICS: &'static [(&'static str, &'static str)] = &[("ap", "AP"), ("ap50", "AP50"), ("ap75", "AP75")];
    const CURVES: &'static [&'static str] = &["loss", "ap", "ap50"];
    const REDUCED: [&'static [&'static str]; 2] = [&["channels"], &["layers"]];
    const FIXED_SHAPES: bool = false;
    const SPEED_INCLUDES: &'static str = ", boxes included";
    const CLASS_LAYERS: &'static [&'static str] = &["head.logits."];
    const PREDICTS_CLASSES: bool = false;
    const OUTPUTS: &'static [&'static str] = &["scores", "boxes"];

    type Space = SpaceConfig;
    type Model = ModelConfig;
    type Loss = LossConfig;
    type Data = DetDataConfig;
    type Augment = DetTransform;
    type Eval = EvalConfig;
    type Pretrain = PretrainConfig;
    type Set = Set;
    type Source = Boxes;
    type Net = Net;
    type Validation = CocoReport;
    type Scores = CocoReport;

    /// The usual one on COCO (Lin et al. 2017), its step decay replaced by a cosine, and its gradients clipped.
    fn recipe() -> Recipe<Self> {
        let sgd = SgdConfig { lr: 0.01, weight_decay: 1e-4, ..Default::default() };
        let schedule = Schedule { warmup_steps: 500, decay: Decay::Cosine { min_lr: 0.0 } };
        Recipe::new(12, 16, OptimizerConfig::Sgd(sgd), schedule, 10.0)
    }

    fn eval_every(eval: &EvalConfig) -> usize {
        eval.every
    }

    fn check(setting: &Setting<Self>) -> Result<()> {
        ensure!(setting.eval.batch_size > 0, "eval.batch_size = 0; expected at least 1");
        Ok(())
    }

    fn open(data: &DetDataConfig, split: Split) -> Result<Set> {
        Ok(data.open(split)?)
    }

    /// Whose ids are the same too: a file of another numbering would be scored as if nothing were found.
    fn open_both(data: &DetDataConfig) -> Result<[Set; 2]> {
        Ok(data.open_both()?)
    }

    fn classes(set: &Set) -> Vec<String> {
        set.classes().names().to_vec()
    }

    fn layouts(root: &Path) -> Vec<(&'static str, DetDataConfig)> {
        let root = root.to_path_buf();
        let split = |name: &str| CocoSplit { annotations: root.join(format!("{name}.json")), images: root.join(name) };
        vec![
            ("coco", DetDataConfig::Coco { root: root.clone() }),
            ("voc", DetDataConfig::Voc { root: root.clone(), classes: None }),
            ("coco_files", DetDataConfig::CocoFiles { train: split("train"), val: split("val") }),
        ]
    }

    fn survey(set: &Set, index: usize) -> Result<Survey> {
        let sample = set.load(index)?;
        let mut counts = vec![0; set.classes().names().len()];
        sample.objects.iter().for_each(|object| counts[object.class] += 1);
        let (w, h) = sample.image.dimensions();
        Ok(Survey { sizes: vec![(h, w)], counts })
    }

    /// The photo with its boxes.
    fn picture(set: &Set, index: usize) -> Result<RgbImage> {
        Ok(with_truth(&set.load(index)?, set.classes()))
    }

    fn starters(facts: &Facts) -> [String; 3] {
        crate::starters::starters(facts)
    }

    fn loader(
        setting: &Setting<Self>,
        set: &Set,
        indices: Option<Vec<usize>>,
        config: LoaderConfig,
        seed: u64,
        purpose: &str,
    ) -> Result<TrainLoader<Boxes>> {
        Ok(det_train_loader(set.clone(), indices, setting.augment.clone(), config, seed, purpose)?)
    }

    fn resized(augment: &DetTransform, eval: &EvalConfig, factor: f64) -> (DetTransform, EvalConfig) {
        let side = |side: u32| ((f64::from(side) * factor).round() as u32).max(1);
        let crop = augment.crop.map(|size| Size::new(side(size.height()), side(size.width())));
        let augment = DetTransform { short: side(augment.short), long: side(augment.long), crop, ..augment.clone() };
        (augment, eval.clone())
    }

    /// That of the first image as the network sees it.
    fn input(setting: &Setting<Self>, set: &Set) -> Result<Shape> {
        let (h, w) = reading(setting, Compute { device: Device::Cpu, threads: 1, amp: false }).image_size(set)?;
        Ok(Shape::new(3, h, w))
    }

    /// How long suppression takes depends on what is found.
    fn timed_image(setting: &Setting<Self>, set: &Set) -> Result<(Tensor, &'static str)> {
        let reading = reading(setting, Compute { device: Device::Cpu, threads: 1, amp: false });
        Ok((reading.first_image(set)?, "the first of the val split"))
    }

    fn build(model: &ModelConfig, vb: &VarBuilder, num_classes: usize) -> Result<Net> {
        Ok(Net::Fixed(Box::new(model.build(vb, num_classes as i64)?)))
    }

    fn cost(net: &Net, input: Shape) -> Result<Cost> {
        let net = net.fixed();
        net.top.check_size(input.size())?;
        Ok(total(&net.cost_parts(input.size()).concat()))
    }

    /// A neck may not take the sizes that images are padded to.
    fn fits(setting: &Setting<Self>, net: &Net, _num_classes: usize) -> Result<()> {
        let pad = i64::from(setting.augment.pad_multiple);
        net.top().check_size((pad, pad)).map_err(|error| error.context(format!("augment.pad_multiple = {pad}")))
    }

    fn outputs(net: &Net, images: &Tensor) -> Vec<Tensor> {
        net.fixed().scores_and_boxes(images).into()
    }

    /// Of a search it is the backbone's path through the supernet.
    fn inherit(from: &Path, model: &ModelConfig, to: &VarStore) -> Result<Vec<String>> {
        supervised::inherit(from, to, Self::CLASS_LAYERS, |trained| {
            let config = from.join("config.toml");
            if !config.exists() || experiment::kind_at(&config, &[])? != Some(experiment::Kind::OneShot) {
                return Ok(trained);
            }
            let BackboneConfig::Detnas(backbone) = &model.backbone else {
                anyhow::bail!("the run of a search serves model.backbone.kind = \"detnas\" alone");
            };
            Ok(path_weights(&trained, &backbone.arch()?, "backbone"))
        })
    }

    fn pretrain(
        config: &PretrainConfig,
        experiment: &OneShotExperiment<Self>,
        dir: &RunDir,
        compute: Compute,
    ) -> Result<HashMap<String, Tensor>> {
        pretrain(config, experiment, dir, compute)
    }

    fn place(batch: DetBatch, compute: Compute) -> DetBatch {
        DetBatch { images: images_on(&as_large_as_all(&batch.images), compute.device), ..batch }
    }

    fn images(batch: &DetBatch) -> &Tensor {
        &batch.images
    }

    fn loss(pass: Pass<Self>, _loss: &LossConfig, batch: &DetBatch, mode: Mode) -> Result<task::Losses> {
        let (_, _, h, w) = batch.images.size4()?;
        let predictions = pass.autocast(|| pass.net.forward(&batch.images, pass.mixture, mode));
        let losses = pass.net.top().loss(&predictions, (h, w), &batch.targets);
        let total = losses.total();
        let mut parts = vec![("classification_loss", losses.classification), ("regression_loss", losses.regression)];
        // The loss of centre-ness stands beside the least that it can be.
        parts.extend(losses.centerness.map(|part| ("centerness_loss", part)));
        parts.extend(losses.centerness_floor.map(|part| ("centerness_floor", part)));
        Ok(task::Losses { total, shown: None, parts })
    }

    /// What is larger when the loss is smaller: average precision of a batch says little.
    fn score(pass: Pass<Self>, batch: &DetBatch, _num_classes: usize, mode: Mode) -> Result<f64> {
        let losses = tch::no_grad(|| Self::loss(pass, &LossConfig {}, batch, mode))?;
        Ok((-nas_core::train::scalar(&losses.total)).exp())
    }

    fn run(pass: Pass<Self>, images: &Tensor, mode: Mode) {
        pass.autocast(|| _ = pass.net.forward(images, pass.mixture, mode));
    }

    fn run_once(pass: Pass<Self>, image: &Tensor) {
        let _ = pass.autocast(|| pass.net.detect(image, pass.mixture));
    }

    fn validate(pass: Pass<Self>, setting: &Setting<Self>, set: &Set, tick: &mut dyn FnMut()) -> Result<CocoReport> {
        let detect = |images: &Tensor| Ok(pass.net.detect(images, pass.mixture));
        let reading = reading(setting, pass.compute);
        // Batches are those of one process: what an image is padded to depends on its batch.
        let own = ranks::part_of(set.len(), reading.loader.batch_size.max(1));
        let part = set.subset(own.clone().collect());
        let mut files = ranks::together(|| {
            evaluate(&detect, &part, &reading, pass.compute, |_, _| {
                tick();
                Ok(())
            })
        })?;
        if ranks::are_several() {
            let moved = |image: &mut usize| *image += own.start;
            files.truths.iter_mut().for_each(|truth| moved(&mut truth.image));
            files.detections.iter_mut().for_each(|found| moved(&mut found.image));
            files = EvalFiles::joined(ranks::gather((files.images, files.truths, files.detections))?, files.categories);
        }
        Ok(CocoReport::new(&files, &MAX_DETS))
    }

    fn validate_outputs(
        outputs: &Outputs,
        net: &Net,
        setting: &Setting<Self>,
        set: &Set,
        threads: usize,
        tick: &mut dyn FnMut(),
    ) -> Result<CocoReport> {
        let detect = |images: &Tensor| {
            let (_, _, h, w) = images.size4()?;
            let outputs = outputs(images)?;
            match <[Tensor; 4]>::try_from(outputs) {
                Ok(detections) => Detections::of_padded(&detections),
                Err(outputs) => {
                    let [scores, boxes] =
                        outputs.try_into().ok().context("expected scores and boxes, or detections")?;
                    net.top().detections(&scores, &boxes, (h, w))
                }
            }
        };
        let compute = Compute { device: Device::Cpu, threads, amp: false };
        let files = evaluate(&detect, set, &reading(setting, compute), compute, |_, _| {
            tick();
            Ok(())
        })?;
        Ok(CocoReport::new(&files, &MAX_DETS))
    }

    fn precision_recall(validation: &CocoReport) -> Option<PrecisionRecall> {
        Some(validation.curves.clone())
    }

    fn scores(validation: &CocoReport, _classes: &[String]) -> CocoReport {
        validation.clone().numbers()
    }

    /// Ground truth, then every network.
    fn sheet(nets: &[Pass<Self>], setting: &Setting<Self>, set: &Set, index: usize) -> Result<Option<RgbImage>> {
        let (shown, sample, classes) = (set.subset(vec![index]), set.load(index)?, set.classes());
        let mut sheet = vec![with_truth(&sample, classes)];
        for pass in nets {
            let detect = |images: &Tensor| Ok(pass.net.detect(images, pass.mixture));
            evaluate(&detect, &shown, &reading(setting, pass.compute), pass.compute, |_, found| {
                sheet.push(draw(&sample.image, &marked(found, classes, setting.eval.min_score)));
                Ok(())
            })?;
        }
        Ok(Some(side_by_side(&sheet)))
    }

    /// The same images, without augmentation, for all candidates.
    fn statistics_images(
        setting: &Setting<Self>,
        _loader: &TrainLoader<Boxes>,
        seen: &Set,
        (batches, batch_size): (usize, usize),
        seed: u64,
        compute: Compute,
    ) -> Result<Vec<Tensor>> {
        if batches == 0 {
            return Ok(Vec::new());
        }
        let (_, chosen) = hold_out(seen.len(), batches * batch_size, seed);
        let loader = setting.loading(batch_size, compute);
        let batches = Reading { loader, ..reading(setting, compute) }.batches(&seen.subset(chosen))?;
        batches.map(|batch| Ok(images_on(&batch?.images, compute.device))).collect()
    }

    /// Of the backbone: a head's logits depend on the number of objects, so that proxies see the means of these maps.
    fn probe_features(net: &Net, images: &Tensor, mode: Mode) -> Tensor {
        let features = net.fixed().backbone.features(&channels_last(images), mode);
        features.into_iter().last().expect("a backbone has a last map")
    }

    /// The class of an image is that of its largest object.
    fn probe_batch(setting: &Setting<Self>, set: &Set, indices: &[usize], side: u32) -> Result<(Tensor, Tensor)> {
        let augment = DetTransform { short: side, long: side, pad_multiple: side, ..setting.augment.clone() };
        let setting = Setting { augment, ..setting.clone() };
        let reading = reading(&setting, Compute { device: Device::Cpu, threads: 1, amp: false });
        let (mut images, mut labels) = (Vec::new(), Vec::new());
        for batch in reading.batches(&set.subset(indices.to_vec()))? {
            let batch = batch?;
            images.push(batch.images);
            labels.extend(batch.samples.iter().map(|sample| {
                let largest = sample.objects.iter().max_by(|a, b| a.area.total_cmp(&b.area));
                largest.map_or(0, |object| object.class as i64)
            }));
        }
        Ok((Tensor::cat(&images, 0), Tensor::from_slice(&labels)))
    }
}
