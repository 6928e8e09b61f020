//! DetNAS' supernet in training, path by path, and its candidates.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use nas_core::estimator::supernet::SupernetEvaluator;
use nas_core::nn::{Mode, Shape, VarBuilder};
use nas_core::run::cli::Compute;
use nas_core::space::Architecture;
use nas_core::space::trial::Values;
use nas_core::space::{ChoiceSpace, Mixture};
use nas_core::train::{At, Metrics, all_variables};
use nas_datasets::classify::{ClassifyBatch, Images, train_loader};
use nas_datasets::det::loader::Boxes;
use nas_datasets::det::{DetBatch, DetDataset, det_train_loader};
use nas_datasets::{Split, Subset, hold_out, rng};
use serde_json::Value;
use tch::{Kind, Reduction, Tensor, nn::VarStore};

use crate::backbone::{SuperClassifier, total};
use crate::detnas::{DetNasSpace, MacsTable};
use crate::eval::coco::MAX_DETS;
use crate::eval::report::CocoReport;
use crate::evaluation::{Reading, evaluate};
use crate::experiment::{CANDIDATE_AP, PretrainConfig, SearchExperiment};
use crate::inheritance::inherit_backbone;
use crate::model::SuperDetector;
use crate::training::{LossSums, Task, Training, check_padding, images_on};

/// Uniform paths of a space, one for every step.
struct Paths {
    space: DetNasSpace,
    seed: u64,
}

impl Paths {
    fn at(&self, step: At) -> Architecture {
        self.space.sample(&mut rng::stream(self.seed, "path", step.global_step as u64))
    }
}

/// A supernet as a classifier, for its pre-training.
pub struct Classification {
    net: SuperClassifier,
    paths: Paths,
    label_smoothing: f64,
    compute: Compute,
}

impl Training<Classification> {
    /// The supernet of `experiment` with its initial weights on the images of `pretrain`.
    pub fn of_classifier(experiment: &SearchExperiment, pretrain: &PretrainConfig, compute: Compute) -> Result<Self> {
        let (seed, config) = (experiment.seed, experiment.backbone()?);
        let dataset = pretrain.data.open(Split::Train)?;
        tch::manual_seed(rng::torch_seed(seed, "init", 1));
        let vs = VarStore::new(compute.device);
        let net = SuperClassifier::new(&VarBuilder::new(&vs), config, dataset.classes().len() as i64)?;
        let loading = experiment.loader.with(pretrain.train.batch_size, compute.threads);
        let loader = train_loader(dataset, None, pretrain.augment.clone(), loading, seed, "pretrain")?;
        let paths = Paths { space: config.space()?, seed };
        let task = Classification { net, paths, label_smoothing: pretrain.label_smoothing, compute };
        Ok(Self::new(task, pretrain.train.clone(), vs, loader, compute))
    }
}

impl Task for Classification {
    type Source = Images;

    fn loss(&mut self, batch: ClassifyBatch, at: At) -> Result<(Tensor, usize)> {
        let device = self.compute.device;
        let (images, path) = (images_on(&batch.images, device), self.paths.at(at));
        let forward = || self.net.forward(&images, Mixture::Path(&path), Mode::train(at.progress()));
        let logits = tch::autocast(self.compute.amp, forward).to_kind(Kind::Float);
        let target = batch.mixed.as_ref().unwrap_or(&batch.labels).to_device(device);
        let none = None::<&Tensor>;
        let loss = logits.cross_entropy_loss(&target, none, Reduction::Mean, -100, self.label_smoothing);
        Ok((loss, batch.indices.len()))
    }
}

/// A supernet as a detector. It is trained on the train split without the images that candidates are scored on.
pub struct SuperDetection {
    net: SuperDetector,
    paths: Paths,
    compute: Compute,
    sums: LossSums,
    /// What it is trained on.
    seen: Arc<dyn DetDataset>,
    /// What candidates are scored on.
    held_out: Arc<dyn DetDataset>,
}

impl Training<SuperDetection> {
    /// The supernet of `experiment` with its initial weights, the backbone's from `pretrained` where there is one.
    pub fn of_supernet(
        experiment: &SearchExperiment,
        pretrained: Option<&HashMap<String, Tensor>>,
        compute: Compute,
    ) -> Result<Self> {
        let seed = experiment.seed;
        let train = experiment.data.open(Split::Train)?;
        let (seen, held_out) = parts(train.len(), experiment.search.held_out, seed);
        tch::manual_seed(rng::torch_seed(seed, "init", 0));
        let vs = VarStore::new(compute.device);
        let net = experiment.model.build_supernet(&VarBuilder::new(&vs), train.classes().len() as i64)?;
        check_padding(&net.top, &experiment.augment)?;
        if let Some(pretrained) = pretrained {
            inherit_backbone(pretrained, &vs).context("pretrain")?;
        }
        let loading = experiment.loader.with(experiment.supernet.batch_size, compute.threads);
        let indices = Some(seen.clone());
        let loader = det_train_loader(train.clone(), indices, experiment.augment.clone(), loading, seed, "train")?;
        let task = SuperDetection {
            net,
            paths: Paths { space: experiment.backbone()?.space()?, seed },
            compute,
            sums: LossSums::default(),
            seen: Arc::new(Subset::new(train.clone(), seen)),
            held_out: Arc::new(Subset::new(train, held_out)),
        };
        Ok(Self::new(task, experiment.supernet.clone(), vs, loader, compute))
    }
}

impl Task for SuperDetection {
    type Source = Boxes;

    fn loss(&mut self, batch: DetBatch, at: At) -> Result<(Tensor, usize)> {
        let (images, path) = (images_on(&batch.images, self.compute.device), self.paths.at(at));
        let (count, _, h, w) = images.size4()?;
        let forward = || self.net.forward(&images, Mixture::Path(&path), Mode::train(at.progress()));
        let losses = self.net.top.loss(&tch::autocast(self.compute.amp, forward), (h, w), &batch.targets);
        Ok((self.sums.add(&losses), count as usize))
    }

    fn end_epoch(&mut self, _epoch: usize, _last: bool) -> Result<Metrics> {
        Ok(self.sums.take())
    }

    fn state(&self) -> Value {
        serde_json::json!(self.sums)
    }

    fn load_state(&mut self, state: Value) -> Result<()> {
        self.sums = serde_json::from_value(state)?;
        Ok(())
    }
}

/// Samples of a train split of `len` that are trained on, and the part of them that candidates are scored on.
pub fn parts(len: usize, held_out: f64, seed: u64) -> (Vec<usize>, Vec<usize>) {
    hold_out(len, ((len as f64 * held_out).round() as usize).clamp(1, len), seed)
}

/// Multiply-adds of candidates, by sums over a table: no network is built.
#[derive(Clone, Debug)]
pub struct CandidateMacs {
    backbone: MacsTable,
    /// Neck and head, which are the same for all.
    rest: u64,
}

impl CandidateMacs {
    /// Those of an experiment for detectors of `num_classes`.
    pub fn new(experiment: &SearchExperiment, num_classes: usize) -> Result<Self> {
        let (h, w) = experiment.search.macs_size;
        let input = Shape::new(3, h, w);
        let net = experiment.model.build(&VarBuilder::dry(), num_classes as i64)?;
        net.top.check_size((h, w)).context("search.macs_size")?;
        let [_, rest] = net.cost_parts((h, w));
        Ok(Self { backbone: experiment.backbone()?.space()?.macs_table(input), rest: total(&rest).macs })
    }

    /// Metrics of an architecture that need no trial.
    pub fn values(&self, arch: &Architecture) -> Values {
        let backbone = self.backbone.macs(arch);
        let values = [("backbone_macs", backbone), ("macs", backbone + self.rest)];
        values.into_iter().map(|(name, value)| (name.to_string(), value as f64)).collect()
    }
}

/// Scores the candidates of a trained supernet.
pub struct Candidates<'a> {
    supernet: &'a SuperDetection,
    reading: Reading,
    evaluator: SupernetEvaluator,
}

impl<'a> Candidates<'a> {
    /// Reads the images that batch-norm statistics are computed from: the same ones, without augmentation, for all.
    pub fn new(experiment: &SearchExperiment, training: &'a Training<SuperDetection>) -> Result<Self> {
        let supernet = &training.task;
        let compute = supernet.compute;
        let reading = Reading::new(&experiment.augment, &experiment.loader, &experiment.eval, compute);
        let (wanted, batch_size) = (experiment.search.recalibrate_images, experiment.supernet.batch_size);
        let count = wanted.div_ceil(batch_size) * batch_size;
        let len = supernet.seen.len();
        ensure!(
            count <= len,
            "search.recalibrate_images = {wanted}, in batches of {batch_size}: the supernet's part has {len} images"
        );
        let (_, chosen) = hold_out(len, count, experiment.seed);
        let chosen: Arc<dyn DetDataset> = Arc::new(Subset::new(supernet.seen.clone(), chosen));
        let of_batches = experiment.loader.with(batch_size, compute.threads);
        let batches = Reading { loader: of_batches, ..reading.clone() }.batches(&chosen)?;
        let images = batches.map(|batch| Ok(images_on(&batch?.images, compute.device))).collect::<Result<_>>()?;
        let evaluator = SupernetEvaluator::new(&all_variables(training.weights()), images);
        Ok(Self { supernet, reading, evaluator })
    }

    /// Average precision of `arch` on the held-out images.
    pub fn scores(&self, arch: &Architecture) -> Result<Values> {
        let SuperDetection { net, compute, held_out, .. } = self.supernet;
        let forward = |images: &Tensor, mode: Mode| {
            tch::autocast(compute.amp, || _ = net.forward(images, Mixture::Path(arch), mode));
        };
        let detect = |images: &Tensor| net.detect(images, arch);
        let score = || evaluate(&detect, held_out, &self.reading, *compute, |_, _| Ok(()));
        let scores = CocoReport::new(&self.evaluator.evaluate(forward, score)?, &MAX_DETS);
        ensure!(scores.ap >= 0.0, "the held-out images have no object to find");
        let values = [(CANDIDATE_AP, scores.ap), ("ap50", scores.ap50), ("ap75", scores.ap75)];
        Ok(values.into_iter().map(|(name, value)| (name.to_string(), value)).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use nas_core::train::Job;
    use tch::Device;

    use super::*;
    use crate::experiment::{self, SearchConfig};

    const COMPUTE: Compute = Compute { device: Device::Cpu, threads: 1, amp: false };

    fn search(sets: &[&str]) -> SearchExperiment {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/configs/tiny_detect_search.toml");
        experiment::load(&path, &sets.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap()
    }

    /// A supernet some steps from its start.
    fn trained(experiment: &SearchExperiment) -> Training<SuperDetection> {
        let mut training = Training::of_supernet(experiment, None, COMPUTE).unwrap();
        training.start_epoch(0, 0).unwrap();
        for step in 0..8 {
            training.step(At { epoch: 0, step, global_step: step, total_steps: 8 }).unwrap();
        }
        training
    }

    #[test]
    fn a_candidates_score_does_not_depend_on_those_before() {
        let experiment =
            search(&["eval.batch_size=8", "model.head.detect={score=0.0, per_level=200, iou=0.6, max=50}"]);
        let training = trained(&experiment);
        let before: Vec<Tensor> =
            all_variables(training.weights()).into_iter().map(|(_, tensor)| tensor.copy()).collect();
        let candidates = Candidates::new(&experiment, &training).unwrap();
        let [a, b]: [Architecture; 2] = ["0-1-2-3", "3-2-1-0"].map(|arch| arch.parse().unwrap());
        let first = candidates.scores(&a).unwrap();
        assert_ne!(candidates.scores(&b).unwrap(), first);
        assert_eq!(candidates.scores(&a).unwrap(), first);
        let after = all_variables(training.weights());
        assert!(before.iter().zip(&after).all(|(before, (_, after))| before == after), "the supernet is as it was");
        let raw = SearchExperiment {
            search: SearchConfig { recalibrate_images: 0, ..experiment.search },
            ..experiment.clone()
        };
        assert_ne!(Candidates::new(&raw, &training).unwrap().scores(&a).unwrap(), first, "recalibration counts");
        let more =
            SearchExperiment { search: SearchConfig { recalibrate_images: 65, ..experiment.search }, ..experiment };
        let error = Candidates::new(&more, &training).map(drop).unwrap_err().to_string();
        assert!(error.contains("search.recalibrate_images = 65") && error.contains("64 images"), "{error}");
    }

    #[test]
    fn pretraining_and_detection_start_at_the_same_backbone_when_it_is_handed_over() {
        let experiment = search(&[]);
        let pretrain = experiment.pretrain.as_ref().unwrap();
        let classifier = Training::of_classifier(&experiment, pretrain, COMPUTE).unwrap();
        let weights: HashMap<String, Tensor> = classifier.model().into_iter().collect();
        let detector = Training::of_supernet(&experiment, Some(&weights), COMPUTE).unwrap();
        let handed_over =
            detector.model().into_iter().filter(|(name, tensor)| weights.get(name) == Some(tensor)).count();
        let backbone = detector.model().iter().filter(|(name, _)| name.starts_with("backbone.")).count();
        assert_eq!(handed_over, backbone);
        // A path per step, and not always the same.
        let paths = &detector.task.paths;
        let path = |global_step| paths.at(At { epoch: 0, step: 0, global_step, total_steps: 9 });
        assert_eq!(path(4), path(4));
        assert!((0..9).any(|step| path(step) != path(4)));
    }
}
