//! Trainings as jobs of the training loop: of one detector, of a supernet on detection, of a supernet on classification.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use nas_core::estimator::learning_curve::{Curve, Stopped};
use nas_core::nn::{Mode, VarBuilder, channels_last};
use nas_core::one_shot::descend;
use nas_core::optim::{GradScaler, Named, Optimizer, named_parameters};
use nas_core::run::cli::Compute;
use nas_core::task::experiment::is_due;
use nas_core::train::{At, Job, Metrics, Step, all_variables, copy_into, scalar};
use nas_datasets::det::loader::Boxes;
use nas_datasets::det::{DetBatch, DetDataset, DetTransform, det_train_loader};
use nas_datasets::{DataError, Source, Split, TrainLoader, rng};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tch::{Device, Tensor, nn::VarStore};

use crate::eval::coco::MAX_DETS;
use crate::eval::report::CocoReport;
use crate::evaluation::{Reading, evaluate};
use crate::experiment::{TrainConfig, TrainExperiment};
use crate::head::Losses;
use crate::inheritance::inherit_run;
use crate::model::{Detector, Top};

/// What is trained, and what a step makes of a batch.
pub trait Task {
    /// Where batches come from.
    type Source: Source;

    /// Mean loss of a batch, and its number of images.
    fn loss(&mut self, batch: <Self::Source as Source>::Batch, at: At) -> Result<(Tensor, usize)>;

    /// Metrics after the last step of an epoch.
    fn end_epoch(&mut self, _epoch: usize, _last: bool) -> Result<Metrics> {
        Ok(Metrics::new())
    }

    /// Whether the training ends before its last epoch.
    fn is_done(&self) -> bool {
        false
    }

    /// What a resume needs besides the weights.
    fn state(&self) -> Value {
        Value::Null
    }

    /// Takes back [`Task::state`].
    fn load_state(&mut self, _state: Value) -> Result<()> {
        Ok(())
    }
}

type Batches<S> = Box<dyn Iterator<Item = Result<<S as Source>::Batch, DataError>>>;

/// A task in training.
pub struct Training<T: Task> {
    /// What is trained.
    pub task: T,
    recipe: TrainConfig,
    vs: VarStore,
    optimizer: Box<dyn Optimizer>,
    scaler: Option<GradScaler>,
    loader: TrainLoader<T::Source>,
    batches: Option<Batches<T::Source>>,
}

impl<T: Task> Training<T> {
    /// Trains the weights of `vs` on the batches of `loader` by `recipe`.
    pub fn new(task: T, recipe: TrainConfig, vs: VarStore, loader: TrainLoader<T::Source>, compute: Compute) -> Self {
        let optimizer = recipe.optimizer.build(named_parameters(&vs));
        let scaler = compute.amp.then(GradScaler::default);
        Self { task, recipe, vs, optimizer, scaler, loader, batches: None }
    }

    /// The weights.
    pub fn weights(&self) -> &VarStore {
        &self.vs
    }
}

impl<T: Task> Job for Training<T> {
    fn steps_per_epoch(&self) -> usize {
        self.loader.batches_per_epoch()
    }

    fn start_epoch(&mut self, epoch: usize, step: usize) -> Result<()> {
        self.batches = Some(Box::new(self.loader.epoch(epoch, step)));
        Ok(())
    }

    fn step(&mut self, at: At) -> Result<Step> {
        let batch = self.batches.as_mut().and_then(Iterator::next).context("the loader ended before the epoch")??;
        let (loss, images) = self.task.loss(batch, at)?;
        let recipe = &self.recipe;
        let lr = recipe.schedule.lr(recipe.optimizer.lr(), at.global_step, at.total_steps);
        descend(&loss, self.optimizer.as_mut(), lr, recipe.grad_clip, self.scaler.as_mut());
        Ok(Step { loss: scalar(&loss), images })
    }

    fn end_epoch(&mut self, epoch: usize, last: bool) -> Result<Metrics> {
        self.batches = None;
        self.task.end_epoch(epoch, last)
    }

    fn is_done(&self) -> bool {
        self.task.is_done()
    }

    fn best_metric(&self) -> &'static str {
        "ap"
    }

    fn model(&self) -> Vec<Named> {
        all_variables(&self.vs)
    }

    fn extra_state(&self) -> (Vec<Named>, Value) {
        (self.optimizer.state(), json!({ "scaler": self.scaler, "task": self.task.state() }))
    }

    fn load_state(&mut self, tensors: HashMap<String, Tensor>, mut json: Value) -> Result<()> {
        copy_into(&self.model(), &tensors)?;
        self.optimizer.load_state(&tensors);
        self.scaler = serde_json::from_value(json["scaler"].take())?;
        self.task.load_state(json["task"].take())
    }
}

/// Parts of the loss, summed over the steps of an epoch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LossSums {
    steps: usize,
    classification: f64,
    regression: f64,
    centerness: Option<f64>,
    centerness_floor: Option<f64>,
}

impl LossSums {
    /// Adds a step; returns its whole loss.
    pub fn add(&mut self, losses: &Losses) -> Tensor {
        let add = |sum: &mut Option<f64>, part: &Option<Tensor>| {
            if let Some(part) = part {
                *sum = Some(sum.unwrap_or(0.0) + scalar(part));
            }
        };
        self.steps += 1;
        self.classification += scalar(&losses.classification);
        self.regression += scalar(&losses.regression);
        add(&mut self.centerness, &losses.centerness);
        add(&mut self.centerness_floor, &losses.centerness_floor);
        losses.total()
    }

    /// Means over the steps; the sums are 0 again. The loss of centre-ness stands beside the least that it can be.
    pub fn take(&mut self) -> Metrics {
        let Self { steps, classification, regression, centerness, centerness_floor } = std::mem::take(self);
        let mut metrics = Metrics::new();
        let mut mean = |name: &str, sum: f64| _ = metrics.insert(name.into(), json!(sum / steps.max(1) as f64));
        mean("classification_loss", classification);
        mean("regression_loss", regression);
        centerness.into_iter().for_each(|sum| mean("centerness_loss", sum));
        centerness_floor.into_iter().for_each(|sum| mean("centerness_floor", sum));
        metrics
    }
}

/// Images of a batch on `device`.
pub fn images_on(images: &Tensor, device: Device) -> Tensor {
    let images = images.to_device(device);
    if device.is_cuda() { channels_last(&images) } else { images }
}

/// One detector, validated on the val split.
pub struct Detection {
    experiment: TrainExperiment,
    compute: Compute,
    net: Detector,
    val: Arc<dyn DetDataset>,
    reading: Reading,
    sums: LossSums,
    scores: Option<CocoReport>,
    /// AP after every validated epoch; 0 where there was nothing to find.
    curve: Curve,
}

impl Detection {
    /// The scores of the last validation.
    pub fn scores(&self) -> Option<&CocoReport> {
        self.scores.as_ref()
    }

    /// Why and when the run ended early, if it did.
    pub fn stopped(&self) -> Option<Stopped> {
        self.curve.stopped()
    }

    /// The network.
    pub fn net(&self) -> &Detector {
        &self.net
    }

    /// Height and width of the first validation image as the network sees it.
    pub fn image_size(&self) -> Result<(i64, i64)> {
        self.reading.image_size(&self.val)
    }
}

impl Training<Detection> {
    /// The network of `experiment` with its initial weights, trained and validated on the splits of its data.
    pub fn of_detector(experiment: TrainExperiment, compute: Compute) -> Result<Self> {
        let (train, val) = (experiment.data.open(Split::Train)?, experiment.data.open(Split::Val)?);
        Self::on(experiment, train, val, compute)
    }

    /// The same, trained on `train` and validated on `val`.
    pub fn on(
        experiment: TrainExperiment,
        train: Arc<dyn DetDataset>,
        val: Arc<dyn DetDataset>,
        compute: Compute,
    ) -> Result<Self> {
        experiment.check()?;
        let (vs, net) = new_network(&experiment, val.classes().len(), compute)?;
        check_padding(&net.top, &experiment.augment)?;
        if let Some(run) = &experiment.train.init {
            let left_out = inherit_run(run, &experiment.model.backbone, &vs)?;
            if !left_out.is_empty() {
                eprintln!(
                    "{}: for other classes; left at their initial weights: {}",
                    run.display(),
                    left_out.join(", ")
                );
            }
        }
        let config = experiment.loader.with(experiment.train.batch_size, compute.threads);
        let loader = det_train_loader(train, None, experiment.augment.clone(), config, experiment.seed, "train")?;
        let reading = Reading::new(&experiment.augment, &experiment.loader, &experiment.eval, compute);
        let recipe = experiment.train.clone();
        let task = Detection {
            experiment,
            compute,
            net,
            val,
            reading,
            sums: LossSums::default(),
            scores: None,
            curve: Curve::default(),
        };
        Ok(Self::new(task, recipe, vs, loader, compute))
    }
}

/// The experiment's network with its random initial weights.
pub fn new_network(experiment: &TrainExperiment, num_classes: usize, compute: Compute) -> Result<(VarStore, Detector)> {
    tch::manual_seed(rng::torch_seed(experiment.seed, "init", 0));
    let vs = VarStore::new(compute.device);
    let net = experiment.model.build(&VarBuilder::new(&vs), num_classes as i64)?;
    Ok((vs, net))
}

/// Says when a neck does not take the sizes that images are padded to.
pub fn check_padding(top: &Top, transform: &DetTransform) -> Result<()> {
    let pad = i64::from(transform.pad_multiple);
    top.check_size((pad, pad)).with_context(|| format!("augment.pad_multiple = {pad}"))
}

/// Class indices of one split mean nothing in another that has other classes.
pub fn require_equal_classes(train: &dyn DetDataset, val: &dyn DetDataset) -> Result<()> {
    let (train, val) = (train.classes(), val.classes());
    ensure!(train == val, "the splits have different classes: {:?} in train, {:?} in val", train.names(), val.names());
    Ok(())
}

impl Task for Detection {
    type Source = Boxes;

    fn loss(&mut self, batch: DetBatch, at: At) -> Result<(Tensor, usize)> {
        let images = images_on(&batch.images, self.compute.device);
        let (count, _, h, w) = images.size4()?;
        let predictions = tch::autocast(self.compute.amp, || self.net.forward(&images, Mode::train(at.progress())));
        let losses = self.net.top.loss(&predictions, (h, w), &batch.targets);
        Ok((self.sums.add(&losses), count as usize))
    }

    fn end_epoch(&mut self, epoch: usize, last: bool) -> Result<Metrics> {
        let mut metrics = self.sums.take();
        if is_due(self.experiment.eval.every, epoch, last) {
            let detect = |images: &Tensor| self.net.detect(images);
            let files = evaluate(&detect, &self.val, &self.reading, self.compute, |_, _| Ok(()))?;
            let scores = CocoReport::new(&files, &MAX_DETS);
            metrics.extend(val_metrics(&scores));
            let TrainConfig { epochs, early_stop, .. } = &self.experiment.train;
            self.curve.record(scores.ap.max(0.0), early_stop.as_ref(), (epoch, *epochs), self.experiment.seed)?;
            if let Some(Stopped { probability, .. }) = self.stopped() {
                metrics.insert("stopped_at_probability".into(), json!(probability));
            }
            self.scores = Some(scores);
        }
        Ok(metrics)
    }

    fn is_done(&self) -> bool {
        self.stopped().is_some()
    }

    fn state(&self) -> Value {
        json!({ "sums": self.sums, "scores": self.scores, "curve": self.curve })
    }

    fn load_state(&mut self, mut state: Value) -> Result<()> {
        self.sums = serde_json::from_value(state["sums"].take())?;
        self.scores = serde_json::from_value(state["scores"].take())?;
        self.curve = serde_json::from_value(state["curve"].take())?;
        Ok(())
    }
}

/// What a validation adds to an epoch's metrics.
fn val_metrics(scores: &CocoReport) -> Metrics {
    let numbers = [("ap", scores.ap), ("ap50", scores.ap50), ("ap75", scores.ap75)];
    numbers.into_iter().map(|(name, value)| (name.to_string(), json!(value))).collect()
}

#[cfg(test)]
mod tests {
    use nas_core::run::run_dir::RunDir;
    use nas_core::train::{LoopConfig, run};
    use nas_datasets::det::coco_json::{CocoAnnotation, CocoCategory, CocoFile, CocoImage};
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::experiment;

    const COMPUTE: Compute = Compute { device: Device::Cpu, threads: 1, amp: false };

    /// The tests' experiment on images of which one is empty, one holds a crowd alone and one an object too.
    fn experiment(dir: &Path, crowd_only: bool) -> TrainExperiment {
        let image = |id: i64| CocoImage { id, width: None, height: None, file_name: Some(format!("{id}.png")) };
        let annotation = |id, image_id, iscrowd| CocoAnnotation {
            id: Some(id),
            image_id,
            category_id: 5,
            bbox: [4.0, 6.0, 30.0, 20.0],
            area: None,
            iscrowd,
            difficult: false,
            ignore: false,
        };
        let mut annotations = vec![annotation(1, 2, true)];
        annotations.extend((!crowd_only).then(|| annotation(2, 3, false)));
        let file = CocoFile {
            images: [1, 2, 3, 4].map(image).into(),
            annotations,
            categories: vec![CocoCategory { id: 5, name: "cat".into() }],
        };
        let path = dir.join("boxes.json");
        std::fs::write(&path, serde_json::to_vec(&file).unwrap()).unwrap();
        for id in 1..=4 {
            image::RgbImage::from_fn(48, 40, |x, y| image::Rgb([x as u8, y as u8, id]))
                .save(dir.join(format!("{id}.png")))
                .unwrap();
        }
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/configs/tiny_detect.toml");
        let split = format!("{{annotations='{}', images='{}'}}", path.display(), dir.display());
        let sets = [format!("data={{kind='coco_files', train={split}, val={split}}}"), "train.epochs=2".into()];
        experiment::load(&config, &sets).unwrap()
    }

    fn train(experiment: TrainExperiment, out: &Path) -> (Metrics, Training<Detection>) {
        let dir = RunDir::open(out, "", false, &()).unwrap();
        let settings = LoopConfig { epochs: experiment.train.epochs, seed: 0, checkpoint_every: Duration::MAX };
        let mut training = Training::of_detector(experiment, COMPUTE).unwrap();
        (run(&mut training, "test", &dir, settings).unwrap().metrics, training)
    }

    #[test]
    fn empty_images_and_crowds_train_and_score_without_a_number_that_is_none() {
        for crowd_only in [false, true] {
            let temp = tempfile::tempdir().unwrap();
            let (metrics, training) = train(experiment(temp.path(), crowd_only), &temp.path().join("run"));
            for (name, value) in &metrics {
                assert!(value.as_f64().is_some_and(f64::is_finite), "{name}: {value}");
            }
            // pycocotools' -1 where crowds alone are there.
            assert_eq!(metrics["ap"] == -1.0, crowd_only, "{metrics:?}");
            for (name, tensor) in training.model() {
                assert!(tensor.isfinite().all().int64_value(&[]) == 1, "{name}");
            }
        }
    }

    #[test]
    fn weights_of_a_training_are_inherited_but_for_other_classes() {
        let temp = tempfile::tempdir().unwrap();
        let from = temp.path().join("run");
        let experiment = experiment(temp.path(), false);
        std::fs::create_dir(&from).unwrap();
        let (_, trained) = train(experiment.clone(), &from);
        let init = |run: &Path| TrainConfig { init: Some(run.into()), ..experiment.train.clone() };
        let next = |data| {
            let experiment = TrainExperiment { seed: 9, train: init(&from), data, ..experiment.clone() };
            Training::of_detector(experiment, COMPUTE)
        };
        let error = format!("{:#}", next(experiment.data.clone()).map(drop).unwrap_err());
        assert!(error.contains("train.init") && error.contains("result.json is missing"), "{error}");
        std::fs::write(from.join("result.json"), "{}").unwrap();

        let same = next(experiment.data.clone()).unwrap();
        assert!(trained.model() == same.model());
        let shapes = nas_datasets::det::DetDataConfig::Shapes { num_images: 4, num_val: 1, seed: 0 };
        for ((name, a), (_, b)) in trained.model().iter().zip(next(shapes).unwrap().model()) {
            assert_eq!(*a == b, !name.starts_with("head.logits."), "{name}");
        }
    }

    #[test]
    fn parts_of_the_loss_are_means_and_begin_anew() {
        let part = |value: f64| Tensor::from(value);
        let losses = |value: f64| Losses {
            classification: part(value),
            regression: part(2.0 * value),
            centerness: None,
            centerness_floor: None,
            positives: 1,
        };
        let mut sums = LossSums::default();
        assert_eq!(scalar(&sums.add(&losses(1.0))), 3.0);
        // A checkpoint within an epoch keeps them.
        let mut sums: LossSums = serde_json::from_value(json!(sums)).unwrap();
        let _ = sums.add(&losses(3.0));
        let metrics = sums.take();
        assert_eq!(
            (metrics["classification_loss"].as_f64(), metrics["regression_loss"].as_f64()),
            (Some(2.0), Some(4.0))
        );
        assert!(!metrics.contains_key("centerness_loss"));
        assert_eq!(sums, LossSums::default());
    }
}
