//! The training of a supernet and the search on it, as a job of the training loop.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use nas_datasets::{SampleSet, Split, TrainLoader, disjoint_halves, rng};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tch::{Tensor, nn::VarStore};

use super::experiment::{OneShotExperiment, Setting, is_due};
use super::latency::priced_latency;
use super::supervised::{Batches, PartSums, metrics_of, next_batch};
use super::{BatchOf, Pass, Task, TaskSpace};
use crate::estimator::supernet::SupernetEvaluator;
use crate::nn::ranks::{self, GivenUp};
use crate::nn::{Mode, Shape, VarBuilder, build_on, synchronise_batch_norm};
use crate::one_shot::{self, Chosen, Images, Objective, OneShot, Part, Problem, check_epochs, check_recalibration};
use crate::optim::{Named, named_parameters};
use crate::run::cli::{Compute, warn};
use crate::run::device::expect_fixed_shapes;
use crate::run::import::init_from;
use crate::run::interrupt::{self, Interrupted};
use crate::space::trial::Values;
use crate::space::{Architecture, ChoiceSpace, Mixture, WeightSharing};
use crate::train::{At, Job, Metrics, Step, all_variables, copy_into};

/// A supernet in search. The train split is divided once: weights see one part; the architecture parameters, or the candidates
/// of a search over the trained supernet, the other. The val split is not opened.
pub struct Shared<T: Task> {
    experiment: OneShotExperiment<T>,
    setting: Setting<T>,
    space: Rc<dyn WeightSharing>,
    method: Box<dyn OneShot>,
    supernet: Supernet<T>,
    weight_data: TrainLoader<T::Source>,
    arch_data: Option<TrainLoader<T::Source>>,
    seen: T::Set,
    held_out: T::Set,
    /// Samples of the smallest part that batches are taken from.
    smallest: usize,
}

/// The supernet and the batches of the running epoch.
struct Supernet<T: Task> {
    space: T::Space,
    model: Option<T::Model>,
    loss: T::Loss,
    weights: VarStore,
    net: T::Net,
    num_classes: usize,
    compute: Compute,
    /// Of the weights, of the architecture.
    batches: [Option<Batches<T>>; 2],
    current: [Option<BatchOf<T>>; 2],
    parts: RefCell<PartSums>,
}

impl<T: Task> Shared<T> {
    /// The supernet of `experiment` with the seed's initial weights, or those of `pretrained` where it has their names.
    pub fn new(
        experiment: OneShotExperiment<T>,
        pretrained: &HashMap<String, Tensor>,
        input: Shape,
        compute: Compute,
    ) -> Result<Self> {
        let (section, seed, setting) = (&experiment.one_shot, experiment.seed, experiment.setting());
        synchronise_batch_norm(section.sync_batch_norm);
        let train = T::open(&experiment.data, Split::Train)?;
        let space: Rc<dyn WeightSharing> = Rc::from(experiment.space.shared()?);
        let supernet = Supernet::new(&experiment, &*space, T::classes(&train).len(), compute)?;
        T::fits(&setting, &supernet.net, supernet.num_classes)?;
        let mut wanted = all_variables(&supernet.weights);
        wanted.retain(|(name, _)| pretrained.contains_key(name));
        copy_into(&wanted, pretrained).context("pretrain")?;
        if let Some(from) = &section.init {
            let prefix = section.init_prefix.as_deref().unwrap_or_default();
            warn(init_from(&supernet.weights, from, prefix).context("one_shot.init")?.to_string());
        }
        let weights = named_parameters(&supernet.weights);
        let problem_space = space.clone();
        let latency = priced_latency(&experiment)?;
        let method = section
            .method
            .build(Problem { space: problem_space, weights, input, latency, amp: compute.amp, seed })
            .context("one_shot")?;
        check_epochs(&*method, section.epochs).context("one_shot")?;
        let (purpose, (seen, held_out)) = match section.held_out {
            None => ("train_a", disjoint_halves(train.len(), seed)),
            Some(held_out) => ("train", held_out.split::<T>(&train, seed).context("one_shot")?),
        };
        let learns = method.arch_start_epoch().is_some();
        let smallest = if learns { seen.len().min(held_out.len()) } else { seen.len() };
        ensure!(
            smallest >= section.batch_size,
            "{} training images are split in {} of {} and {} for weights and architecture; {} must fill a batch of {}: lower \
             one_shot.batch_size or add images",
            train.len(),
            if section.held_out.is_none() { "halves" } else { "parts" },
            seen.len(),
            held_out.len(),
            if learns { "each" } else { "the first" },
            section.batch_size
        );
        let loader = |indices: &[usize], purpose| {
            let config = setting.loading(section.batch_size, compute);
            let loader = T::loader(&setting, &train, Some(indices.to_vec()), config, seed, purpose)?;
            Ok::<_, anyhow::Error>(loader.part(ranks::rank(), ranks::world())?)
        };
        let weight_data = loader(&seen, purpose)?;
        for (section, batches) in recalibrations(&experiment) {
            check_recalibration(section, batches, weight_data.batches_per_epoch())?;
        }
        let arch_data = method.arch_start_epoch().map(|_| loader(&held_out, "train_b")).transpose()?;
        let (seen, held_out) = (train.subset(seen), train.subset(held_out));
        Ok(Self { experiment, setting, space, method, supernet, weight_data, arch_data, seen, held_out, smallest })
    }

    /// The architecture that the method has found so far.
    pub fn derive(&self) -> Option<Architecture> {
        self.method.derive()
    }

    /// That of the architectures which `space` holds valid.
    pub fn derive_within(&self, space: &dyn ChoiceSpace) -> Option<Architecture> {
        self.method.derive_within(space)
    }

    /// Raw architecture parameters by name.
    pub fn arch_parameters(&self) -> Vec<Named> {
        self.method.arch_parameters()
    }

    /// Scores candidates on samples that the weights have not seen, with batch-norm statistics of `batches` of those they have.
    pub fn candidates(&self, batches: usize) -> Result<Candidates<'_, T>> {
        let batch_size = self.experiment.one_shot.batch_size;
        let wanted = (batches, batch_size);
        let (seed, compute) = (self.experiment.seed, self.supernet.compute);
        let images = T::statistics_images(&self.setting, &self.weight_data, &self.seen, wanted, seed, compute)?;
        let quick = T::quick_samples(&self.setting, batch_size).min(self.held_out.len());
        Ok(Candidates {
            evaluator: SupernetEvaluator::new(&all_variables(&self.supernet.weights), images),
            quick: self.held_out.subset((0..quick).collect()),
            shared: self,
        })
    }

    fn scores(&self, set: &T::Set, mixture: Mixture) -> Result<T::Scores> {
        let validation = T::validate(self.supernet.pass(mixture), &self.setting, set, &mut || {})?;
        Ok(T::scores(&validation, &T::classes(set)))
    }

    /// The largest batch that its parts of the train split allow.
    pub fn most_images(&self) -> usize {
        let of_statistics = recalibrations(&self.experiment).map(|(_, batches)| self.seen.len() / batches.max(1));
        of_statistics.fold(self.smallest, usize::min)
    }

    /// The first epoch in which the method does all that it does.
    pub fn first_epoch(&self) -> usize {
        self.method.arch_start_epoch().unwrap_or(0)
    }

    fn searches_arch(&self, epoch: usize) -> bool {
        self.method.arch_start_epoch().is_some_and(|first| epoch >= first)
    }
}

/// Batches of the weights' part that statistics are computed on anew, by the section that says how many.
fn recalibrations<T: Task>(experiment: &OneShotExperiment<T>) -> impl Iterator<Item = (&'static str, usize)> {
    let of_method =
        experiment.one_shot.method.second_stage().map(|stage| ("one_shot.method", stage.recalibration_batches));
    let of_honesty = experiment.honesty.as_ref().map(|honesty| ("honesty", honesty.recalibration_batches));
    of_method.into_iter().chain(of_honesty)
}

/// What the first rank asks all for.
#[derive(Serialize, Deserialize)]
enum Request {
    Scores(Architecture, Images),
    Weights(Architecture),
    End { stopped: bool },
}

/// A signal to one rank is one to all.
fn hear_signals() {
    if ranks::sum(&[f64::from(u8::from(interrupt::requested()))])[0] > 0.0 {
        interrupt::request();
    }
}

/// Candidates of a trained supernet.
pub struct Candidates<'a, T: Task> {
    evaluator: SupernetEvaluator,
    quick: T::Set,
    shared: &'a Shared<T>,
}

impl<T: Task> Candidates<'_, T> {
    /// Metrics of `arch` on the held-out samples or a few of them, under the names of [`candidate_metric`].
    pub fn scores(&self, arch: &Architecture, images: Images) -> Result<Values> {
        self.ask(&Request::Scores(arch.clone(), images))?;
        ranks::or_all_end(|| self.scores_of(arch, images))
    }

    /// The weights of `arch`'s network with statistics of its own, where its path is that network.
    pub fn weights(&self, arch: &Architecture) -> Result<Option<Vec<Named>>> {
        self.ask(&Request::Weights(arch.clone()))?;
        ranks::or_all_end(|| self.weights_of(arch))
    }

    /// Runs the first rank's `work`; the others do their parts of what it asks of these candidates, and have no answer.
    ///
    /// # Errors
    /// What ends the work; on the other ranks what ends their parts, and [`Interrupted`].
    pub fn share<R>(&self, work: impl FnOnce() -> Result<R>) -> Result<Option<R>> {
        if !ranks::is_first() {
            return self.serve().map(|()| None);
        }
        let done = work();
        let stopped = done.as_ref().is_err_and(|error| error.is::<Interrupted>());
        if done.is_ok() || stopped {
            self.ask(&Request::End { stopped })?;
        }
        done.map(Some)
    }

    /// Says what the other ranks are to do their part of, and hears whether a signal has come to one.
    fn ask(&self, request: &Request) -> Result<()> {
        if ranks::are_several() {
            ranks::bytes_of_first(&serde_json::to_vec(request)?);
            hear_signals();
        }
        Ok(())
    }

    fn serve(&self) -> Result<()> {
        loop {
            let request = serde_json::from_slice(&ranks::bytes_of_first(&[]))?;
            hear_signals();
            match request {
                // A candidate that all have given up is the first's to record.
                Request::Scores(arch, images) => match self.scores_of(&arch, images) {
                    Err(error) if !error.is::<GivenUp>() => return Err(error),
                    _ => {}
                },
                Request::Weights(arch) => _ = self.weights_of(&arch)?,
                Request::End { stopped: false } => return Ok(()),
                Request::End { stopped: true } => return Err(Interrupted.into()),
            }
        }
    }

    fn scores_of(&self, arch: &Architecture, images: Images) -> Result<Values> {
        let held_out = &self.shared.held_out;
        let set = if images == one_shot::Images::All { held_out } else { &self.quick };
        let path = Mixture::Path(arch);
        let scores = self.evaluate(path, || self.shared.scores(set, path))?;
        let values: Values = metrics_of::<T>(&scores).map(|(name, value)| (candidate_metric(name), value)).collect();
        anyhow::ensure!(
            values.contains_key(&main_candidate_metric::<T>()),
            "the held-out samples have nothing to score"
        );
        Ok(values)
    }

    /// Runs `work` on a candidate with statistics of its own. What it drops while they are computed is the same for every
    /// candidate, whatever was scored before and whichever rank has the batch.
    fn evaluate<R>(&self, path: Mixture, work: impl FnOnce() -> Result<R>) -> Result<R> {
        let forward = |batch: usize, xs: &Tensor, mode: Mode| {
            tch::manual_seed(rng::torch_seed(self.shared.experiment.seed, "statistics", batch as u64));
            T::run(self.shared.supernet.pass(path), xs, mode);
        };
        self.evaluator.evaluate(forward, work)
    }

    fn weights_of(&self, arch: &Architecture) -> Result<Option<Vec<Named>>> {
        let supernet = &self.shared.supernet;
        let copy = |(name, tensor): Named| (name, tensor.detach().copy());
        self.evaluate(Mixture::Path(arch), || {
            let weights = supernet.space.path_weights(&supernet.net, arch)?;
            Ok(weights.map(|weights| weights.into_iter().map(copy).collect()))
        })
    }
}

/// Name of a metric by the weights of a supernet.
pub fn candidate_metric(name: &str) -> String {
    format!("supernet_{name}")
}

/// What candidates are compared by.
pub fn main_candidate_metric<T: Task>() -> String {
    candidate_metric(T::METRICS[0].0)
}

impl<T: Task> Supernet<T> {
    fn new(
        experiment: &OneShotExperiment<T>,
        space: &dyn WeightSharing,
        num_classes: usize,
        compute: Compute,
    ) -> Result<Self> {
        tch::manual_seed(rng::torch_seed(experiment.seed, "init", 0));
        if T::FIXED_SHAPES {
            expect_fixed_shapes(compute.device);
        }
        let OneShotExperiment { space: config, model, loss, .. } = experiment;
        let build = |vb: &VarBuilder| config.supernet(space, model.as_ref(), vb, num_classes);
        let (weights, net) = build_on(compute.device, build);
        Ok(Self {
            net: net?,
            space: config.clone(),
            model: model.clone(),
            loss: loss.clone(),
            weights,
            num_classes,
            compute,
            batches: [None, None],
            current: [None, None],
            parts: RefCell::default(),
        })
    }

    fn pass<'a>(&'a self, mixture: Mixture<'a>) -> Pass<'a, T> {
        Pass { net: &self.net, mixture: Some(mixture), compute: self.compute }
    }

    fn batch(&self, part: Part) -> &BatchOf<T> {
        self.current[part as usize].as_ref().expect("the method took a batch")
    }
}

impl<T: Task> Objective for Supernet<T> {
    fn next(&mut self, part: Part) -> Result<usize> {
        let (batch, images) = next_batch::<T>(&mut self.batches[part as usize], self.compute)?;
        self.current[part as usize] = Some(batch);
        Ok(images)
    }

    fn loss(&self, part: Part, mixture: Mixture, at: At) -> Tensor {
        self.loss_and_logits(part, mixture, at).0
    }

    fn loss_and_logits(&self, part: Part, mixture: Mixture, at: At) -> (Tensor, Option<Tensor>) {
        let mode = Mode::train(at.progress());
        let losses = T::loss_and_logits(self.pass(mixture), &self.loss, self.batch(part), mode);
        let (losses, logits) = losses.expect("a batch of the loader fits the network");
        if part == Part::Weights {
            self.parts.borrow_mut().add(&losses);
        }
        (losses.total, logits)
    }

    fn score(&self, part: Part, mixture: Mixture, at: At) -> Result<f64> {
        let score = T::score(self.pass(mixture), self.batch(part), self.num_classes, Mode::train(at.progress()));
        Ok(ranks::mean(score?))
    }

    fn rebuild(&mut self, space: &dyn WeightSharing) -> Result<Vec<Named>> {
        let build = |vb: &VarBuilder| self.space.supernet(space, self.model.as_ref(), vb, self.num_classes);
        let (weights, net) = build_on(self.compute.device, build);
        (self.weights, self.net) = (weights, net?);
        Ok(named_parameters(&self.weights))
    }
}

impl<T: Task> Job for Shared<T> {
    fn steps_per_epoch(&self) -> usize {
        let of_arch = self.arch_data.as_ref().map_or(usize::MAX, TrainLoader::batches_per_epoch);
        self.weight_data.batches_per_epoch().min(of_arch)
    }

    fn start_epoch(&mut self, epoch: usize, step: usize) -> Result<()> {
        let arch_data = self.arch_data.as_ref().filter(|_| self.searches_arch(epoch));
        let arch = arch_data.map(|data| Box::new(data.epoch(epoch, step)) as Batches<T>);
        self.supernet.batches = [Some(Box::new(self.weight_data.epoch(epoch, step))), arch];
        Ok(())
    }

    fn step(&mut self, at: At) -> Result<Step> {
        self.method.step(at, &mut self.supernet)
    }

    /// What the method would choose is scored on the held-out part: the val split chooses nothing and is not opened.
    fn end_epoch(&mut self, epoch: usize, last: bool) -> Result<Metrics> {
        self.supernet.batches = [None, None];
        let mut metrics = self.supernet.parts.borrow_mut().take();
        let due = is_due(self.experiment.one_shot.eval_every, epoch, last);
        if let Some(chosen) = self.method.chosen().filter(|_| due) {
            let scores = self.scores(&self.held_out, chosen.as_mixture())?;
            metrics.extend(metrics_of::<T>(&scores).map(|(name, value)| (name.to_string(), json!(value))));
        }
        if let Some(arch) = self.derive().filter(|_| self.searches_arch(epoch)) {
            metrics.insert("architecture".into(), json!(arch));
            if let Some(Chosen::Weights(weights)) = self.method.chosen() {
                let evidence = self.space.evidence(&weights);
                metrics.extend(evidence.into_iter().map(|(name, value)| (name.to_string(), json!(value))));
            }
        }
        Ok(metrics)
    }

    fn best_metric(&self) -> &'static str {
        T::METRICS[0].0
    }

    fn model(&self) -> Vec<Named> {
        all_variables(&self.supernet.weights)
    }

    fn extra_state(&self) -> (Vec<Named>, Value) {
        let (tensors, method) = self.method.state();
        (tensors, json!({ "method": method, "parts": *self.supernet.parts.borrow() }))
    }

    fn load_state(&mut self, tensors: HashMap<String, Tensor>, mut json: Value) -> Result<()> {
        self.method.restore_form(&mut self.supernet, &json["method"])?;
        copy_into(&self.model(), &tensors)?;
        *self.supernet.parts.borrow_mut() = serde_json::from_value(json["parts"].take())?;
        self.method.load_state(&tensors, json["method"].take())
    }
}
