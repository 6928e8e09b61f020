//! The training of one network, as a job of the training loop.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use nas_datasets::{DataError, Split, TrainLoader, require_same_classes, rng};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tch::{Tensor, nn::VarStore};

use super::commands::report::draw_curves;
use super::commands::train::TrainResult;
use super::experiment::{Experiment, Recipe, Setting, TrainExperiment, is_due};
use super::teacher::Teacher;
use super::{BatchOf, Losses, Pass, Scores, Task};
use crate::estimator::learning_curve::{Curve, Stopped};
use crate::nn::layers::{self, Layer};
use crate::nn::{Cost, Mode, Shape, VarBuilder, build_on, ranks, synchronise_batch_norm};
use crate::one_shot::{added, descend_along, scaled_gradients};
use crate::optim::{GradScaler, Named, Optimizer, Schedule, move_averages, named_parameters};
use crate::run::cli::{Compute, warn};
use crate::run::config::Growth;
use crate::run::device::expect_fixed_shapes;
use crate::run::import::init_from;
use crate::run::run_dir::{RunDir, last_weights};
use crate::run::words;
use crate::train::{
    self, At, Job, LoopConfig, Metrics, Step, all_variables, copy_into, load_weights, read_metrics, read_tensors,
    scalars,
};

/// Prefix of the trained weights in a checkpoint whose plain names hold their average.
const RAW: &str = "raw/";

/// Batches of one epoch.
pub(super) type Batches<T> = Box<dyn Iterator<Item = Result<BatchOf<T>, DataError>>>;

/// A network in training.
pub struct Supervised<T: Task> {
    seed: u64,
    model: T::Model,
    recipe: Recipe<T>,
    setting: Setting<T>,
    compute: Compute,
    vs: VarStore,
    net: T::Net,
    teacher: Option<Teacher<T>>,
    /// Averages of all variables, in the order of [`all_variables`].
    averages: Option<Vec<Named>>,
    optimizer: Box<dyn Optimizer>,
    scaler: Option<GradScaler>,
    loader: TrainLoader<T::Source>,
    batches: Option<Batches<T>>,
    val: T::Set,
    state: State<T>,
}

/// What a checkpoint keeps besides tensors.
#[derive(Serialize, Deserialize)]
#[serde(bound = "T: Task")]
struct State<T: Task> {
    parts: PartSums,
    validation: Option<T::Validation>,
    /// The main metric after every validated epoch; 0 where there was nothing to score.
    curve: Curve,
}

impl<T: Task> Supervised<T> {
    /// The network of `experiment` with the seed's initial weights, trained and validated on the splits of its data.
    pub fn new(experiment: TrainExperiment<T>, compute: Compute) -> Result<Self> {
        let (train, val) = (T::open(&experiment.data, Split::Train)?, T::open(&experiment.data, Split::Val)?);
        Self::on(experiment, train, val, compute)
    }

    /// The same, trained on `train` and validated on `val`.
    pub fn on(experiment: TrainExperiment<T>, train: T::Set, val: T::Set, compute: Compute) -> Result<Self> {
        experiment.check()?;
        if T::FIXED_SHAPES {
            expect_fixed_shapes(compute.device);
        }
        require_equal_classes(&T::classes(&train), &T::classes(&val))?;
        synchronise_batch_norm(experiment.train.sync_batch_norm);
        let setting = experiment.setting();
        let TrainExperiment { seed, model, train: recipe, .. } = experiment;
        let (vs, net) = new_network::<T>(&model, T::classes(&val).len(), seed, compute)?;
        T::fits(&setting, &net, T::classes(&val).len())?;
        if let Some(from) = &recipe.init {
            let report = start::<T>(from, recipe.init_prefix.as_deref(), &model, &vs)
                .with_context(|| format!("train.init = {:?}", from.display().to_string()))?;
            report.iter().filter(|_| ranks::is_first()).for_each(words::tell);
        }
        let teacher =
            recipe.teacher.clone().map(|teacher| Teacher::open(teacher, &setting, &T::classes(&val), compute));
        let teacher = teacher.transpose().context("train.teacher")?;
        let loader = T::loader(
            &setting,
            &train,
            None,
            setting.loading(recipe.batch_size / recipe.accumulate, compute),
            seed,
            "train",
        )?;
        let loader = loader.part(ranks::rank(), ranks::world())?;
        let copy = |(name, tensor): Named| (name, tensor.detach().copy());
        Ok(Self {
            seed,
            averages: (recipe.ema > 0.0).then(|| all_variables(&vs).into_iter().map(copy).collect()),
            optimizer: recipe.optimizer.build(named_parameters(&vs)),
            scaler: compute.amp.then(GradScaler::default),
            model,
            recipe,
            setting,
            compute,
            vs,
            net,
            teacher,
            loader,
            batches: None,
            val,
            state: State { parts: PartSums::default(), validation: None, curve: Curve::default() },
        })
    }

    /// What the last validation found.
    pub fn validation(&self) -> Option<&T::Validation> {
        self.state.validation.as_ref()
    }

    /// Why and when the run ended early, if it did.
    pub fn stopped(&self) -> Option<Stopped> {
        self.state.curve.stopped()
    }

    /// The network.
    pub fn net(&self) -> &T::Net {
        &self.net
    }

    fn pass(&self) -> Pass<'_, T> {
        Pass { net: &self.net, mixture: None, compute: self.compute }
    }

    fn losses(&self, batch: &BatchOf<T>, mode: Mode) -> Result<Losses> {
        let (pass, loss) = (self.pass(), &self.setting.loss);
        match &self.teacher {
            None => T::loss(pass, loss, batch, mode),
            Some(teacher) => teacher.losses(T::loss_and_logits(pass, loss, batch, mode)?, T::images(batch)),
        }
    }

    /// Validates, with the averaged weights where there are some.
    fn validate(&self) -> Result<T::Validation> {
        let validate = || T::validate(self.pass(), &self.setting, &self.val, &mut || {});
        let Some(averages) = &self.averages else { return validate() };
        let variables = all_variables(&self.vs);
        let trained: Vec<Tensor> = variables.iter().map(|(_, tensor)| tensor.detach().copy()).collect();
        assign(&variables, averages.iter().map(|(_, average)| average));
        let validation = validate();
        assign(&variables, trained.iter());
        validation
    }

    fn average(&self) {
        if let Some(averages) = &self.averages {
            move_averages(averages, &all_variables(&self.vs), self.recipe.ema);
        }
    }
}

/// Copies tensors into variables of the same order.
fn assign<'a>(variables: &[Named], sources: impl Iterator<Item = &'a Tensor>) {
    tch::no_grad(|| variables.iter().zip(sources).for_each(|((_, to), from)| to.shallow_clone().copy_(from)));
}

/// The network of a model with its random initial weights.
pub fn new_network<T: Task>(
    model: &T::Model,
    num_classes: usize,
    seed: u64,
    compute: Compute,
) -> Result<(VarStore, T::Net)> {
    tch::manual_seed(rng::torch_seed(seed, "init", 0));
    let (vs, net) = build_on(compute.device, |vb| T::build(model, vb, num_classes));
    Ok((vs, net?))
}

/// The network of a model with the weights of a file.
pub fn trained_network<T: Task>(
    model: &T::Model,
    num_classes: usize,
    weights: &Path,
    compute: Compute,
) -> Result<(VarStore, T::Net)> {
    let (vs, net) = new_network::<T>(model, num_classes, 0, compute)?;
    load_weights(weights, &vs)?;
    Ok((vs, net))
}

/// Takes over weights: with a prefix what fits, else all of the network. Returns what is worth telling.
fn start<T: Task>(from: &Path, prefix: Option<&str>, model: &T::Model, vs: &VarStore) -> Result<Option<String>> {
    if let Some(prefix) = prefix {
        return Ok(Some(init_from(vs, from, prefix)?.to_string()));
    }
    let left = T::inherit(from, model, vs)?;
    let names = || format!("{}: left at their initial weights: {}", from.display(), left.join(", "));
    Ok((!left.is_empty()).then(names))
}

/// Copies the weights of a run that has ended, or of a safetensors file, by name, as `select` gives them. A variable below one of
/// `class_layers` that has another shape keeps its initial values; whatever else has no counterpart of its shape is an error
/// that names it. Returns what was left out.
pub fn inherit(
    from: &Path,
    to: &VarStore,
    class_layers: &[&str],
    select: impl FnOnce(HashMap<String, Tensor>) -> Result<HashMap<String, Tensor>>,
) -> Result<Vec<String>> {
    let is_run = from.is_dir();
    ensure!(
        !is_run || from.join("result.json").exists(),
        "{}: no run that has ended (result.json is missing)",
        from.display()
    );
    let file = if is_run { last_weights(from) } else { from.to_path_buf() };
    let trained = select(read_tensors(&file)?)?;
    let of_other_classes = |(name, tensor): &Named| {
        class_layers.iter().any(|layer| name.starts_with(layer))
            && trained.get(name).is_some_and(|trained| trained.size() != tensor.size())
    };
    let (left_out, wanted): (Vec<Named>, Vec<Named>) = all_variables(to).into_iter().partition(of_other_classes);
    copy_into(&wanted, &trained).with_context(|| format!("{}: other network", from.display()))?;
    Ok(left_out.into_iter().map(|(name, _)| name).collect())
}

/// Class indices of one split mean nothing in another that has other classes.
pub fn require_equal_classes(train: &[String], val: &[String]) -> Result<()> {
    Ok(require_same_classes("the train split", train, "the val split", val)?)
}

/// Cost of the network of a model, counted without weights.
pub fn cost_of<T: Task>(model: &T::Model, num_classes: usize, input: Shape) -> Result<Cost> {
    T::cost(&T::build(model, &VarBuilder::dry(), num_classes)?, input)
}

/// Trains to the end in `dir`, on the splits of the experiment's data, and writes the result.
pub fn train<T: Task>(
    dir: &RunDir,
    experiment: TrainExperiment<T>,
    compute: Compute,
) -> Result<TrainResult<T::Scores>> {
    let setting = experiment.setting();
    let (train, val) = match experiment.held_out {
        None => setting.open_both_sound()?,
        Some(held_out) => setting.open_parts_sound(held_out, experiment.seed)?,
    };
    train_on(dir, experiment, (train, val), compute)
}

/// The same on other sets.
pub fn train_on<T: Task>(
    dir: &RunDir,
    experiment: TrainExperiment<T>,
    (train, val): (T::Set, T::Set),
    compute: Compute,
) -> Result<TrainResult<T::Scores>> {
    let settings = LoopConfig::new(experiment.train.epochs, experiment.seed);
    let (classes, input) = (T::classes(&val), T::input(&experiment.setting(), &val)?);
    let eval_input = T::eval_input(&experiment.setting(), &val)?;
    let momentum = T::slowest_momentum(&experiment.model);
    let (schedule, lr) = (experiment.train.schedule.clone(), experiment.train.optimizer.lr());
    let mut training = Supervised::on(experiment, train, val, compute)?;
    let steps = settings.epochs * training.steps_per_epoch();
    momentum.and_then(|momentum| unsettled_norms(momentum, steps)).iter().for_each(warn);
    let (cost, layers) = layers::noted(|| T::cost(training.net(), input));
    let cost = cost?;
    beyond_their_maps(&layers, input, eval_input).iter().for_each(warn);
    if let Some(jump) = dir.growth().and_then(|growth| jump(&schedule, lr, training.steps_per_epoch(), growth)) {
        words::tell(jump);
    }
    let summary = train::run(&mut training, "train", dir, settings)?;
    let validation = training.validation().context("the last epoch has no validation")?;
    T::confusion(validation, &classes).map_or(Ok(()), |confusion| confusion.write(dir.root()))?;
    T::precision_recall(validation).map_or(Ok(()), |curves| curves.write(dir.root()))?;
    let result = TrainResult::new(T::scores(validation, &classes), cost, training.stopped(), &summary, dir);
    draw_curves(dir.root(), &read_metrics(dir.root())?, T::CURVES)?;
    dir.finish(&result)?;
    Ok(result)
}

/// Says that a longer schedule takes another rate where the shorter one ended.
fn jump(schedule: &Schedule, lr: f64, steps: usize, growth: &Growth) -> Option<String> {
    let Growth { from, to, .. } = growth;
    let (done, total) = (*from as usize * steps, *to as usize * steps);
    let (before, now) = (schedule.lr(lr, done.saturating_sub(1), done), schedule.lr(lr, done, total));
    ((now - before).abs() > 1e-9 * lr).then(|| {
        format!(
            "the schedule now ends with epoch {to}: the learning rate goes on with {now:.3e} after {before:.3e}, and the run ends \
             otherwise than one of {to} epochs from the start"
        )
    })
}

/// Says that running statistics of `momentum` still hold their initial values after `steps`: they keep `(1 - momentum)^steps` of
/// them, and a validation normalises by them.
fn unsettled_norms(momentum: f64, steps: usize) -> Option<String> {
    const TIMES: f64 = 10.0;
    let needed = TIMES / momentum;
    ((steps as f64) < needed).then(|| {
        let kept = 100.0 * (1.0 - momentum).powf(steps as f64);
        format!(
            "batch-norm momentum {momentum} in a training of {steps} steps: {kept:.0} % of the initial statistics remain at its end; \
             expected {needed:.0} steps or more, or a larger momentum (0.1 is common)"
        )
    })
}

/// Says that outer taps of atrous convolutions see padding alone where a network is trained, on `input`, and more than that where it
/// is validated: what they weigh there was never learned.
fn beyond_their_maps(layers: &[Layer], input: Shape, eval_input: Shape) -> Option<String> {
    let beyond = |layer: &&Layer| match **layer {
        Layer::Conv { ksize: [kh, kw], dilation, size: (h, w), .. } => {
            dilation > 1 && (kh / 2 * dilation >= h || kw / 2 * dilation >= w)
        }
        _ => false,
    };
    let ((train_h, train_w), (h, w)) = (input.size(), eval_input.size());
    let layer = layers.iter().find(beyond).filter(|_| train_h < h || train_w < w)?;
    Some(format!(
        "{layer}: in a training on {train_h}x{train_w} pixels its outer taps see padding alone, on {h}x{w} they do not; expected a \
         dilation (d) whose kernel fits into the map, or a larger crop"
    ))
}

/// The metrics of scores, as an epoch's line or a trial's record holds them.
pub fn metrics_of<T: Task>(scores: &T::Scores) -> impl Iterator<Item = (&'static str, f64)> {
    T::METRICS.iter().filter_map(|(key, _)| Some((*key, scores.metric(key)?)))
}

/// The next batch of an epoch, on the device, and its number of images.
pub(super) fn next_batch<T: Task>(batches: &mut Option<Batches<T>>, compute: Compute) -> Result<(BatchOf<T>, usize)> {
    let next = batches.as_mut().and_then(Iterator::next);
    let batch = T::place(next.context("the loader ended before the epoch")??, compute);
    let images = T::images(&batch).size()[0] as usize;
    Ok((batch, images))
}

impl<T: Task> Job for Supervised<T> {
    fn classes(&self) -> Vec<String> {
        T::classes(&self.val)
    }

    fn steps_per_epoch(&self) -> usize {
        self.loader.batches_per_epoch() / self.recipe.accumulate
    }

    fn start_epoch(&mut self, epoch: usize, step: usize) -> Result<()> {
        self.batches = Some(Box::new(self.loader.epoch(epoch, step * self.recipe.accumulate)));
        Ok(())
    }

    fn step(&mut self, at: At) -> Result<Step> {
        let parts = self.recipe.accumulate;
        let lr = self.recipe.schedule.lr(self.recipe.optimizer.lr(), at.global_step, at.total_steps);
        let mut step = Step { loss: 0.0, images: 0, lr };
        let mut sum: Option<Vec<Tensor>> = None;
        for part in 1..=parts {
            let (batch, images) = next_batch::<T>(&mut self.batches, self.compute)?;
            let losses = self.losses(&batch, Mode::train(at.progress()))?;
            let scaler = self.scaler.as_mut();
            let grads = match parts {
                1 => scaled_gradients(&losses.total, self.optimizer.as_ref(), scaler),
                _ => scaled_gradients(&(&losses.total / parts as f64), self.optimizer.as_ref(), scaler),
            };
            sum = match (sum, grads) {
                (Some(sum), Some(grads)) => Some(added(sum, &grads)),
                (_, grads) => grads,
            };
            if let Some(grads) = sum.take_if(|_| part == parts) {
                let clip = self.recipe.grad_clip;
                descend_along(grads, self.optimizer.as_mut(), lr, clip, self.scaler.as_mut());
                self.average();
            }
            // The one time that the host waits for the device.
            let shown = losses.shown.as_ref().unwrap_or(&losses.total);
            step.loss += self.state.parts.add_with(shown, &losses) / parts as f64;
            step.images += images;
            if !step.loss.is_finite() {
                break;
            }
        }
        Ok(step)
    }

    fn end_epoch(&mut self, epoch: usize, last: bool) -> Result<Metrics> {
        self.batches = None;
        let mut metrics = self.state.parts.take();
        if !is_due(T::eval_every(&self.setting.eval), epoch, last) {
            return Ok(metrics);
        }
        let validation = self.validate()?;
        let scores = T::scores(&validation, &T::classes(&self.val));
        metrics.extend(metrics_of::<T>(&scores).map(|(name, value)| (name.to_string(), json!(value))));
        let Recipe { epochs, early_stop, .. } = &self.recipe;
        let main = scores.metric(T::METRICS[0].0).unwrap_or(0.0);
        self.state.curve.record(main, early_stop.as_ref(), (epoch, *epochs), self.seed)?;
        self.state.validation = Some(validation);
        if let Some(Stopped { probability, .. }) = self.stopped() {
            metrics.insert("stopped_at_probability".into(), json!(probability));
        }
        Ok(metrics)
    }

    fn is_done(&self) -> bool {
        self.stopped().is_some()
    }

    fn best_metric(&self) -> &'static str {
        T::METRICS[0].0
    }

    /// The network, what is done to images before, and what it started from.
    fn about(&self) -> Metrics {
        let augment = json!(self.setting.augment);
        let own = ["mean", "std"].into_iter().filter_map(|key| Some((key, augment.get(key)?.clone())));
        let init = self.recipe.init.iter().map(|init| ("init", json!(init)));
        let all = [("program", json!(T::PROGRAM)), ("model", json!(self.model))].into_iter().chain(own).chain(init);
        all.map(|(key, value)| (key.to_string(), value)).collect()
    }

    /// With averaging, the averages: they are what is used.
    fn model(&self) -> Vec<Named> {
        match &self.averages {
            Some(averages) => averages.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect(),
            None => all_variables(&self.vs),
        }
    }

    fn extra_state(&self) -> (Vec<Named>, Value) {
        let mut tensors = self.optimizer.state();
        if self.averages.is_some() {
            tensors.extend(all_variables(&self.vs).into_iter().map(|(name, tensor)| (format!("{RAW}{name}"), tensor)));
        }
        (tensors, json!({ "scaler": self.scaler, "training": self.state }))
    }

    fn load_state(&mut self, tensors: HashMap<String, Tensor>, mut json: Value) -> Result<()> {
        copy_into(&self.model(), &tensors)?;
        if self.averages.is_some() {
            let raw = tensors.iter().filter_map(|(name, tensor)| Some((name.strip_prefix(RAW)?, tensor)));
            let raw = raw.map(|(name, tensor)| (name.to_string(), tensor.shallow_clone())).collect();
            copy_into(&all_variables(&self.vs), &raw)?;
        }
        self.optimizer.load_state(&tensors);
        self.scaler = GradScaler::resumed(self.compute.amp, json["scaler"].take())?;
        self.state = serde_json::from_value(json["training"].take())?;
        Ok(())
    }
}

/// Parts of the loss, summed over the steps of an epoch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct PartSums {
    steps: usize,
    /// In the order in which they came.
    names: Vec<String>,
    sums: BTreeMap<String, f64>,
}

impl PartSums {
    pub fn add(&mut self, losses: &Losses) {
        if !losses.parts.is_empty() {
            self.add_with(&losses.total, losses);
        }
    }

    /// Adds the parts and returns the value of another number, all read from the device at once.
    pub fn add_with(&mut self, other: &Tensor, losses: &Losses) -> f64 {
        let all: Vec<&Tensor> = [other].into_iter().chain(losses.parts.iter().map(|(_, part)| part)).collect();
        let values = scalars(&all);
        self.steps += 1;
        for ((name, _), value) in losses.parts.iter().zip(&values[1..]) {
            if !self.sums.contains_key(*name) {
                self.names.push(name.to_string());
            }
            *self.sums.entry(name.to_string()).or_default() += value;
        }
        values[0]
    }

    /// Means over the steps, of all ranks; the sums are 0 again.
    pub fn take(&mut self) -> Metrics {
        let Self { steps, names, sums } = std::mem::take(self);
        names.into_iter().map(|name| (name.clone(), json!(ranks::mean(sums[&name] / steps as f64)))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_the_loss_are_means_and_begin_anew() {
        let part = |value: f64| Tensor::from(value);
        let losses = |value: f64| Losses {
            total: part(3.0 * value),
            shown: None,
            parts: vec![("regression_loss", part(2.0 * value)), ("classification_loss", part(value))],
        };
        let mut sums = PartSums::default();
        sums.add(&losses(1.0));
        // A checkpoint within an epoch keeps them.
        let mut sums: PartSums = serde_json::from_value(json!(sums)).unwrap();
        sums.add(&losses(3.0));
        let metrics = sums.take();
        let found: Vec<(&str, f64)> =
            metrics.iter().map(|(name, mean)| (name.as_str(), mean.as_f64().unwrap())).collect();
        assert_eq!(found, [("regression_loss", 4.0), ("classification_loss", 2.0)]);
        assert_eq!(sums, PartSums::default());
    }

    #[test]
    fn gradients_of_parts_add_up_to_those_of_the_batch() {
        use crate::optim::{OptimizerConfig, SgdConfig};
        use tch::{Device, Kind};
        tch::manual_seed(1);
        let double = (Kind::Double, Device::Cpu);
        let named = |name: &str| (name.to_string(), Tensor::randn([3, 1], double).set_requires_grad(true));
        let weights = vec![named("used"), named("idle")];
        let sgd = SgdConfig { lr: 0.1, momentum: 0.9, weight_decay: 0.0, nesterov: false };
        let (weight, optimizer) = (weights[0].1.shallow_clone(), OptimizerConfig::Sgd(sgd).build(weights));
        let (xs, ys) = (Tensor::randn([6, 3], double), Tensor::randn([6, 1], double));
        let loss = |from, count| {
            let (xs, ys) = (xs.narrow(0, from, count), ys.narrow(0, from, count));
            (xs.matmul(&weight) - ys).square().mean(None)
        };
        let grads = |loss: &Tensor| scaled_gradients(loss, optimizer.as_ref(), None).unwrap();
        let parts = [0, 2, 4].map(|from| grads(&(loss(from, 2) / 3.0)));
        let sum = parts.into_iter().reduce(|sum, grads| added(sum, &grads)).unwrap();
        assert!(sum[0].allclose(&grads(&loss(0, 6))[0], 1e-12, 1e-12, false) && !sum[1].defined());
    }

    #[test]
    fn a_schedule_that_grows_says_where_it_goes_on() {
        use crate::optim::Decay;
        let growth = Growth { key: "train.epochs".into(), from: 2, to: 4 };
        let cosine = Schedule { warmup_steps: 0, decay: Decay::Cosine { min_lr: 0.0 } };
        let text = jump(&cosine, 0.1, 10, &growth).unwrap();
        assert!(text.contains("epoch 4") && text.contains("5.000e-2 after 6.156e-4"), "{text}");
        let constant = Schedule { warmup_steps: 5, decay: Decay::Constant };
        assert_eq!(jump(&constant, 0.1, 10, &growth), None);
    }

    #[test]
    fn a_slow_norm_in_a_short_training_is_warned_of() {
        let warning = unsettled_norms(3e-4, 1000).unwrap();
        assert!(warning.contains("0.0003") && warning.contains("74 %") && warning.contains("33333 steps"), "{warning}");
        assert_eq!(unsettled_norms(0.1, 100), None);
        assert!(unsettled_norms(0.1, 99).is_some());
    }

    #[test]
    fn atrous_rates_are_to_fit_into_the_maps_of_the_crop() {
        let warning = |rate: &str, crop: i64| {
            let layers: Vec<Layer> =
                ["norm 8 12x15", rate].iter().map(|layer| layer.parse().expect("a layer")).collect();
            beyond_their_maps(&layers, Shape::new(3, crop, 240), Shape::new(3, 360, 240))
        };
        // The table of docs/results/camvid_table: 6, 12, 18 cost 3.7 points on crops of 180x240 at output stride 16.
        let text = warning("conv 96>96 3x3 s1x1 d12 g96 12x15", 180).unwrap();
        assert!(text.starts_with("conv 96>96 3x3 s1x1 d12 g96 12x15: in a training on 180x240 pixels"), "{text}");
        assert_eq!(warning("conv 96>96 3x3 s1x1 d9 g96 12x15", 180), None);
        assert_eq!(warning("conv 96>96 3x3 s1x1 d12 g96 12x15", 360), None, "it sees the same where it is validated");
    }
}
