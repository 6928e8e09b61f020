//! The one training loop: steps, epochs, metrics, checkpoints, exact resume.
//!
//! A job that is killed at any moment and resumed ends with the same bits as one that was not, because everything random
//! in step `n` follows from (seed, `n`), a checkpoint holds everything else, and the metrics file is cut back to the
//! checkpoint.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nas_datasets::{open_regular, rng};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tch::{Kind, Tensor};

use crate::nn::ranks;
use crate::optim::Named;
use crate::run::config;
use crate::run::interrupt::{self, Interrupted};
use crate::run::progress::Progress;
use crate::run::run_dir::{JsonLines, RunDir, pretty, read_json, read_text, write_atomic};
use crate::run::tensor_file::write_tensors_about;
pub use crate::run::tensor_file::{read_about, write_tensors};
use crate::run::tensorboard::Events;
use crate::run::times::{Mark, Times};

/// Named numbers, in the order they are printed.
pub type Metrics = Map<String, Value>;

/// Where a job is.
#[derive(Clone, Copy, Debug)]
pub struct At {
    /// Epoch, from 0.
    pub epoch: usize,
    /// Step within the epoch, from 0.
    pub step: usize,
    /// Step since the start, from 0.
    pub global_step: usize,
    /// Steps of the whole job.
    pub total_steps: usize,
}

impl At {
    /// Share of the job that is done, `0..1`.
    pub fn progress(&self) -> f64 {
        self.global_step as f64 / self.total_steps as f64
    }
}

/// What one step did.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Mean loss of the batch.
    pub loss: f64,
    /// Images that were seen.
    pub images: usize,
    /// Learning rate of the weights.
    pub lr: f64,
}

/// What the loop drives: a training or a search.
pub trait Job {
    /// Steps of one epoch.
    fn steps_per_epoch(&self) -> usize;

    /// Called before the first step of an epoch and on resume inside one: batches start at `step`.
    fn start_epoch(&mut self, epoch: usize, step: usize) -> Result<()>;

    /// One optimisation step. The global generator of libtorch is seeded for it.
    fn step(&mut self, at: At) -> Result<Step>;

    /// Metrics after the last step of an epoch; `last` is set for the last epoch.
    fn end_epoch(&mut self, epoch: usize, last: bool) -> Result<Metrics>;

    /// Whether the job ends before its last epoch. Asked after each epoch; a resumed job must answer as it did before.
    fn is_done(&self) -> bool {
        false
    }

    /// The metric, higher is better, that chooses `best.safetensors`; absent from the metrics of epochs that do not
    /// measure it.
    fn best_metric(&self) -> &'static str;

    /// Names of the classes that the model's outputs stand for, in their order; none where outputs are no classes.
    fn classes(&self) -> Vec<String> {
        Vec::new()
    }

    /// What is worth knowing about the model besides its classes, for its files: an object.
    fn about(&self) -> Metrics {
        Metrics::new()
    }

    /// Weights and statistics: what is saved to use the model.
    fn model(&self) -> Vec<Named>;

    /// What else a resume needs: optimizer state as tensors, and other state as JSON.
    fn extra_state(&self) -> (Vec<Named>, Value);

    /// Takes back all of [`Job::model`] and [`Job::extra_state`].
    fn load_state(&mut self, tensors: HashMap<String, Tensor>, json: Value) -> Result<()>;
}

/// Settings of the loop.
#[derive(Clone, Copy, Debug)]
pub struct LoopConfig {
    /// Passes over the data.
    pub epochs: usize,
    /// The run's seed.
    pub seed: u64,
    /// Time between checkpoints within an epoch; the end of an epoch always makes one.
    pub checkpoint_every: Duration,
}

impl LoopConfig {
    /// A loop that saves within an epoch at most every minute.
    pub fn new(epochs: usize, seed: u64) -> Self {
        Self { epochs, seed, checkpoint_every: Duration::from_secs(60) }
    }
}

/// Everything of the loop itself that a checkpoint holds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LoopState {
    epoch: usize,
    step: usize,
    loss_sum: f64,
    metrics_bytes: u64,
    best: Option<f64>,
    train_secs: f64,
    images: usize,
    /// Learning rate of the last step.
    lr: f64,
}

impl LoopState {
    /// Says what is outside the job: the numbers come from a file.
    fn check(&self, config: LoopConfig, steps: usize) -> Result<()> {
        let Self { epoch, step, loss_sum, train_secs, .. } = *self;
        ensure!(epoch <= config.epochs, "epoch {epoch} found, expected at most {}", config.epochs);
        ensure!(step <= steps, "step {step} found, expected at most {steps}");
        ensure!(
            loss_sum.is_finite() && train_secs.is_finite(),
            "loss {loss_sum} and {train_secs} s found, expected numbers"
        );
        Ok(())
    }
}

/// The readable part of a checkpoint.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    r#loop: LoopState,
    job: Value,
}

/// What the loop did, over all processes that worked on the run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Summary {
    /// Metrics of the last epoch.
    pub metrics: Metrics,
    /// Seconds in optimisation steps, data loading included, evaluation excluded.
    pub train_secs: f64,
    /// Images seen per second of those.
    pub images_per_sec: f64,
}

const STATE: &str = "loop_state.json";
const LAST: &str = "checkpoints/last.safetensors";

/// Runs `job` to its end in `dir`, from the last checkpoint where there is one.
pub fn run(job: &mut dyn Job, label: &str, dir: &RunDir, config: LoopConfig) -> Result<Summary> {
    let classes = job.classes();
    if !classes.is_empty() {
        dir.record_classes(&classes)?;
    }
    let mut state = load(job, &dir.path(LAST))?.unwrap_or_default();
    state.check(config, job.steps_per_epoch()).with_context(|| format!("{}: {STATE}", dir.path(LAST).display()))?;
    let mut lines = JsonLines::open(dir.path("metrics.jsonl"), state.metrics_bytes)?;
    let (mut times, marks) = Times::open(dir.root())?;
    let steps = job.steps_per_epoch();
    let total_steps = config.epochs * steps;
    let done = state.epoch * steps + state.step;
    let mut progress = Progress::new(label, total_steps, done, Some(&dir.path("run.log")))?;
    if done > 0 {
        progress.line(format!("resumed at epoch {}, step {} of {steps}", state.epoch + 1, state.step));
    }
    let mut before = marks.get(&(state.epoch as u64)).copied();
    let mut events = open_events(dir, &state)?;
    let mut metrics = last_metrics(&dir.path("metrics.jsonl"))?;
    while state.epoch < config.epochs && !job.is_done() {
        train_epoch(job, dir, config, &mut state, &mut progress)?;
        let mark = Mark { id: state.epoch as u64 + 1, secs: state.train_secs, images: state.images };
        times.add(mark)?;
        metrics = finish_epoch(job, dir, config, &mut state, &mut lines)?;
        if let Some(events) = &mut events {
            let speed = mark.images_per_sec(before.as_ref()).map(|speed| ("images_per_sec", speed));
            events.scalars(mark.id as i64, numbers(&metrics).chain(speed))?;
        }
        before = Some(mark);
        progress.line(describe(&metrics, config.epochs));
    }
    events.as_mut().map_or(Ok(()), |events| events.end(true))?;
    Ok(Summary { metrics, train_secs: state.train_secs, images_per_sec: state.images as f64 / state.train_secs })
}

/// The event file of a run that is told to TensorBoard, which begins with the run's settings.
fn open_events(dir: &RunDir, state: &LoopState) -> Result<Option<Events>> {
    /// Longer ones are lists of many numbers.
    const LONGEST: usize = 100;
    let Some(folder) = dir.tensorboard() else { return Ok(None) };
    let is_new = state.epoch == 0 && state.step == 0;
    let mut events = Events::create(&folder, (!is_new).then_some(state.epoch as i64 + 1))?;
    if is_new {
        let mut settings = BTreeMap::new();
        let config = config::read_table(&dir.path("config.toml"), &[])?;
        config::flatten(&toml::Value::Table(config), "", &mut settings);
        settings.retain(|_, text| text.len() <= LONGEST);
        events.start(&settings.into_iter().collect::<Vec<_>>())?;
    }
    Ok(Some(events))
}

/// The numbers among the metrics of an epoch.
pub fn numbers(metrics: &Metrics) -> impl Iterator<Item = (&str, f64)> {
    metrics
        .iter()
        .filter(|(name, _)| *name != "epoch")
        .filter_map(|(name, value)| Some((name.as_str(), value.as_f64()?)))
}

fn train_epoch(
    job: &mut dyn Job,
    dir: &RunDir,
    config: LoopConfig,
    state: &mut LoopState,
    progress: &mut Progress,
) -> Result<()> {
    let steps = job.steps_per_epoch();
    job.start_epoch(state.epoch, state.step)?;
    let mut last_save = Instant::now();
    while state.step < steps {
        let started = Instant::now();
        let global_step = state.epoch * steps + state.step;
        let at = At { epoch: state.epoch, step: state.step, global_step, total_steps: config.epochs * steps };
        tch::manual_seed(rng::torch_seed(config.seed, "step", global_step as u64));
        let Step { loss, images, lr } = job.step(at)?;
        let [loss, images, interrupted] = together(loss, images, interrupt::requested());
        let interrupted = interrupted > 0.0;
        if !loss.is_finite() {
            bail!(
                "the loss is {loss} at epoch {}, step {}; {}. A lower learning rate, a warm-up or gradient clipping usually \
                 cures this",
                at.epoch + 1,
                at.step,
                last_good(dir)
            );
        }
        state.step += 1;
        state.loss_sum += loss;
        state.images += images as usize;
        state.lr = lr;
        state.train_secs += started.elapsed().as_secs_f64();
        let (mean, speed) = (state.loss_sum / state.step as f64, state.images as f64 / state.train_secs);
        progress.step(|| format!("epoch {}/{} loss {mean:.4}, {speed:.1} images/s", at.epoch + 1, config.epochs));
        if interrupted || last_save.elapsed() >= config.checkpoint_every {
            save(job, dir, state)?;
            last_save = Instant::now();
        }
        if interrupted {
            return Err(Interrupted.into());
        }
    }
    Ok(())
}

/// Mean loss, number of images and whether a signal came, of all ranks: they stop after the same step.
fn together(loss: f64, images: usize, interrupted: bool) -> [f64; 3] {
    let sums = ranks::sum(&[loss, images as f64, f64::from(u8::from(interrupted))]);
    [sums[0] / ranks::world() as f64, sums[1], sums[2]]
}

/// Where the last good state is.
fn last_good(dir: &RunDir) -> String {
    let path = dir.path(LAST);
    match path.exists() {
        true => format!("{} holds the last good state", path.display()),
        false => "no state was saved yet".into(),
    }
}

fn finish_epoch(
    job: &mut dyn Job,
    dir: &RunDir,
    config: LoopConfig,
    state: &mut LoopState,
    lines: &mut JsonLines,
) -> Result<Metrics> {
    // Running statistics are of each rank's images; the first's are kept.
    ranks::broadcast(job.model().iter().map(|(_, tensor)| tensor));
    require_finite(&job.model())
        .and_then(|()| require_finite(&job.extra_state().0))
        .with_context(|| format!("after epoch {}; {}", state.epoch + 1, last_good(dir)))?;
    let mut metrics = Metrics::new();
    metrics.insert("epoch".into(), json!(state.epoch + 1));
    metrics.insert("loss".into(), json!(state.loss_sum / state.step as f64));
    metrics.insert("lr".into(), json!(state.lr));
    metrics.extend(job.end_epoch(state.epoch, state.epoch + 1 == config.epochs)?);
    state.metrics_bytes = lines.append(&metrics)?;
    let value = metrics.get(job.best_metric()).and_then(Value::as_f64);
    if let Some(value) = value.filter(|value| state.best.is_none_or(|best| *value > best)) {
        state.best = Some(value);
        if ranks::is_first() {
            write_tensors_about(&dir.path("checkpoints/best.safetensors"), job.model(), Some(&about(job, dir)?))?;
        }
    }
    *state = LoopState { epoch: state.epoch + 1, step: 0, loss_sum: 0.0, ..state.clone() };
    save(job, dir, state)?;
    Ok(metrics)
}

/// What the files of a run's model say about it: its classes, the job's own words, and what made it.
fn about(job: &dyn Job, dir: &RunDir) -> Result<Value> {
    let mut about = job.about();
    about.insert("classes".into(), json!(job.classes()));
    let meta: Value = read_json(&dir.path("meta.json"))?;
    let known = ["version", "commit", "command"].into_iter().filter_map(|key| Some((key, meta.get(key)?)));
    about.extend(known.map(|(key, value)| (key.to_string(), value.clone())));
    Ok(about.into())
}

/// One file holds all of a checkpoint, so that a kill cannot part its pieces; `state.json` repeats the readable part. It comes first:
/// behind the last checkpoint nothing would write it again.
fn save(job: &dyn Job, dir: &RunDir, state: &LoopState) -> Result<()> {
    if !ranks::is_first() {
        return Ok(());
    }
    let (mut tensors, extra) = job.extra_state();
    tensors.extend(job.model());
    let json = pretty(&json!({ "loop": state, "job": extra }));
    tensors.push((STATE.into(), Tensor::from_slice(json.as_bytes())));
    write_atomic(&dir.path("checkpoints/state.json"), json.as_bytes())?;
    write_tensors_about(&dir.path(LAST), tensors, Some(&about(job, dir)?))
}

fn load(job: &mut dyn Job, path: &Path) -> Result<Option<LoopState>> {
    if !path.exists() {
        return Ok(None);
    }
    let mut tensors = read_tensors(path)?;
    let json = tensors.remove(STATE).with_context(|| format!("{}: not a checkpoint of a run", path.display()))?;
    let bytes = Vec::<u8>::try_from(&json).with_context(|| format!("{}: {STATE} is no text", path.display()))?;
    let mut json = serde_json::Deserializer::from_slice(&bytes);
    let State { r#loop, job: extra } =
        serde_path_to_error::deserialize(&mut json).with_context(|| format!("{}: {STATE}", path.display()))?;
    job.load_state(tensors, extra).with_context(|| format!("{}: cannot resume from it", path.display()))?;
    Ok(Some(r#loop))
}

/// The lines of a run's `metrics.jsonl`; none where there is no file.
pub fn read_metrics(run: &Path) -> Result<Vec<Metrics>> {
    let path = run.join("metrics.jsonl");
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = read_text(&path)?;
    let parse = |(i, line): (usize, &str)| {
        serde_json::from_str(line).with_context(|| format!("{}: line {}", path.display(), i + 1))
    };
    text.lines().enumerate().map(parse).collect()
}

fn last_metrics(path: &Path) -> Result<Metrics> {
    let text = read_text(path)?;
    let last = text.lines().last().map(serde_json::from_str).transpose();
    Ok(last.with_context(|| format!("{}: the last line is no JSON object", path.display()))?.unwrap_or_default())
}

/// Reads a safetensors file; a file that is none is an error that names it.
pub fn read_tensors(path: &Path) -> Result<HashMap<String, Tensor>> {
    open_regular(path).with_context(|| format!("{}: cannot read", path.display()))?;
    let tensors = Tensor::read_safetensors(path);
    Ok(tensors.with_context(|| format!("{}: cannot read it as safetensors", path.display()))?.into_iter().collect())
}

/// Copies saved tensors into variables of the same names; a missing or misshapen one is an error that names it.
pub fn copy_into(variables: &[Named], saved: &HashMap<String, Tensor>) -> Result<()> {
    for (name, variable) in variables {
        let source = saved.get(name).with_context(|| format!("tensor {name} is missing"))?;
        if source.size() != variable.size() {
            bail!("tensor {name} has shape {:?}, expected {:?}", source.size(), variable.size());
        }
        tch::no_grad(|| variable.shallow_clone().copy_(source));
    }
    Ok(())
}

/// Copies the weights of a file into all variables of a network; another network's, and numbers that are none, are errors.
pub fn load_weights(path: &Path, vs: &tch::nn::VarStore) -> Result<()> {
    let saved = read_tensors(path)?;
    let variables = all_variables(vs);
    copy_into(&variables, &saved).with_context(|| format!("{}: other network", path.display()))?;
    require_finite(&variables).with_context(|| path.display().to_string())
}

/// An error that names the first tensor with NaN or infinite numbers.
pub fn require_finite(tensors: &[Named]) -> Result<()> {
    for (name, tensor) in tensors.iter().filter(|(_, tensor)| tensor.is_floating_point()) {
        let all = tch::no_grad(|| tensor.isfinite().all().int64_value(&[]) == 1);
        ensure!(all, "tensor {name} holds numbers that are NaN or infinite");
    }
    Ok(())
}

/// All variables of a store, statistics included, sorted by name.
pub fn all_variables(vs: &tch::nn::VarStore) -> Vec<Named> {
    let mut variables: Vec<Named> = vs.variables().into_iter().collect();
    variables.sort_by(|a, b| a.0.cmp(&b.0));
    variables
}

/// The value of a scalar loss.
pub fn scalar(loss: &Tensor) -> f64 {
    loss.to_kind(Kind::Double).double_value(&[])
}

/// The values of scalars of one device, read from it at once.
pub fn scalars(values: &[&Tensor]) -> Vec<f64> {
    let doubles: Vec<Tensor> = values.iter().map(|value| value.detach().to_kind(Kind::Double).reshape([])).collect();
    Vec::try_from(Tensor::stack(&doubles, 0).to_device(tch::Device::Cpu)).expect("a list of numbers")
}

fn describe(metrics: &Metrics, epochs: usize) -> String {
    let number = |value: &Value| match value.as_f64() {
        Some(number) if number != 0.0 && number.abs() < 1e-3 => format!("{number:.2e}"),
        Some(number) if !value.is_u64() => format!("{number:.4}"),
        _ => value.to_string(),
    };
    let rest = metrics.iter().skip(1).map(|(name, value)| format!("{name} {}", number(value)));
    format!("epoch {}/{epochs} {}", metrics["epoch"], rest.collect::<Vec<_>>().join(", "))
}
