//! The largest batch that fits the device: real steps of a training, or of a search on shared weights, on batches that double until one
//! does not fit, then bisecting.

use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use nas_datasets::{SampleSet, Split, rng};
use serde::{Deserialize, Serialize};

use super::Task;
use super::experiment::{OneShotExperiment, OneShotSection, Recipe, TrainExperiment};
use super::shared::Shared;
use super::supervised::Supervised;
use crate::nn::Shape;
use crate::run::cli::{Compute, count, is_lack_of_memory, text_of};
use crate::run::device::{available_memory_bytes, describe, peak_memory_bytes, resident_memory_bytes};
use crate::run::interrupt::{self, Interrupted};
use crate::train::{At, Job};

/// The part of the memory that is free at the start which a training on the CPU may take. There the system ends processes that take
/// too much, so that no batch is tried that is expected to.
pub const FREE_PART: f64 = 0.8;

/// Norms need two images.
const LEAST: usize = 2;

/// The last one shows what the optimizer's state adds.
const STEPS: usize = 2;

/// How a command is asked for the largest batch.
#[derive(Clone, Copy, Debug, Args)]
pub struct FindBatchArgs {
    /// Train nothing: find the largest batch whose steps fit the device, and print what to put into the experiment
    #[arg(long, conflicts_with = "procs")]
    pub find_batch: bool,
    /// Memory that such a batch may take [default: on the CPU 80 % of what is free at the start; of a card all that it gives]
    #[arg(long, value_name = "MIB", requires = "find_batch", value_parser = count(1, 1 << 30))]
    pub memory: Option<usize>,
}

impl FindBatchArgs {
    /// `--memory` in bytes.
    pub fn limit(self) -> Option<u64> {
        self.memory.map(|mib| (mib as u64) << 20)
    }
}

/// What `--find-batch` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FoundBatch {
    /// Section of the experiment whose `batch_size` it is: `train` or `one_shot`.
    pub section: String,
    /// Largest batch whose steps fit.
    pub batch_size: usize,
    /// Whether the train split has no more images, or the parts in which a search sees it.
    pub whole_split: bool,
    /// Memory of its steps.
    pub memory_mib: u64,
    /// What it must not exceed, where that is known before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_mib: Option<u64>,
    /// Where it was tried.
    pub device: String,
    /// `batch_size` of the experiment.
    pub configured: usize,
    /// The smallest `train.accumulate` by which the experiment's own batch fits, 1 where it fits as it is; none in a search.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accumulate: Option<usize>,
}

impl fmt::Display for FoundBatch {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { section, batch_size, whole_split, memory_mib, limit_mib, device, configured, accumulate } = self;
        write!(f, "largest batch: {batch_size} images, {memory_mib} MiB")?;
        limit_mib.iter().try_for_each(|limit| write!(f, " of {limit} MiB"))?;
        write!(f, " on {device}")?;
        if *whole_split {
            write!(f, "; the train split has no more")?;
        }
        write!(f, "\n[{section}]\nbatch_size = {batch_size}")?;
        match accumulate {
            Some(parts @ 2..) => write!(
                f,
                "\n# Or, for the experiment's own batch in parts of {} images (norms see a part):\n# batch_size = {configured}\n\
                 # accumulate = {parts}",
                configured / parts
            ),
            _ if configured <= batch_size => write!(f, "\n# The experiment's own batch_size = {configured} fits too."),
            _ => Ok(()),
        }
    }
}

/// Tries the training of `experiment` with more and more images per step. On the CPU it may take `limit` bytes, or
/// [`FREE_PART`] of what is free; on a card as much as the card gives, or `limit`.
pub fn find_batch<T: Task>(
    experiment: &TrainExperiment<T>,
    compute: Compute,
    limit: Option<u64>,
) -> Result<FoundBatch> {
    let room = Room::new(compute, limit)?;
    let (train, val) = experiment.setting().open_both_sound()?;
    let configured = experiment.train.batch_size;
    let found = room.largest("train", train.len(), configured, |batch| {
        let (init, init_prefix, early_stop) = (None, None, None);
        let recipe = experiment.train.clone();
        let train_section = Recipe { batch_size: batch, accumulate: 1, init, init_prefix, early_stop, ..recipe };
        let experiment = TrainExperiment { train: train_section, ..experiment.clone() };
        let seed = experiment.seed;
        let all = |set: &T::Set| set.subset((0..set.len()).collect());
        take_steps(&mut Supervised::on(experiment, all(&train), all(&val), compute)?, seed, 0)
    })?;
    let fits = |parts: &usize| configured.is_multiple_of(*parts) && configured / parts <= found.batch_size;
    Ok(FoundBatch { accumulate: Some((1..=configured).find(fits).unwrap_or(1)), ..found })
}

/// The same of a search on shared weights: steps of an epoch in which the architecture is searched too, on images of shape `input`. A method
/// that draws paths is tried with the paths of those steps, not with the largest.
pub fn find_shared_batch<T: Task>(
    experiment: &OneShotExperiment<T>,
    input: Shape,
    compute: Compute,
    limit: Option<u64>,
) -> Result<FoundBatch> {
    let room = Room::new(compute, limit)?;
    experiment.setting().open_sound(Split::Train)?;
    let supernet = |batch_size: usize| {
        let (init, init_prefix) = (None, None);
        let one_shot = OneShotSection { batch_size, init, init_prefix, ..experiment.one_shot.clone() };
        Shared::new(OneShotExperiment { one_shot, ..experiment.clone() }, &HashMap::new(), input, compute)
    };
    let most = supernet(LEAST)?.most_images();
    room.largest("one_shot", most, experiment.one_shot.batch_size, |batch| {
        let mut supernet = supernet(batch)?;
        let first = supernet.first_epoch();
        take_steps(&mut supernet, experiment.seed, first)
    })
}

fn take_steps(job: &mut impl Job, seed: u64, first_epoch: usize) -> Result<()> {
    for step in 0..STEPS {
        tch::manual_seed(rng::torch_seed(seed, "step", step as u64));
        // An epoch may have one step.
        let epoch = first_epoch + step;
        job.start_epoch(epoch, 0)?;
        job.step(At { epoch, step: 0, global_step: step, total_steps: STEPS })?;
    }
    Ok(())
}

/// Memory that steps may take.
struct Room {
    compute: Compute,
    limit: Option<u64>,
    /// What the process has taken before any.
    before: u64,
}

impl Room {
    fn new(compute: Compute, limit: Option<u64>) -> Result<Self> {
        let on_card = compute.device.is_cuda();
        let free = || available_memory_bytes().map(|bytes| (bytes as f64 * FREE_PART) as u64);
        let limit = if on_card { limit } else { limit.or_else(free) };
        ensure!(limit.is_some() || on_card, "this system does not say how much memory is free; expected --memory MIB");
        let before = if on_card { 0 } else { resident_memory_bytes().context("the memory of this process")? };
        Ok(Self { compute, limit, before })
    }

    /// The largest batch of at most `most` images that `steps` ends with, an error where it fails of something else than memory.
    fn largest(
        &self,
        section: &str,
        most: usize,
        configured: usize,
        steps: impl Fn(usize) -> Result<()>,
    ) -> Result<FoundBatch> {
        let Self { compute: Compute { device, .. }, limit, before } = *self;
        let probe = |batch: usize| -> Result<Option<u64>> {
            if interrupt::requested() {
                return Err(Interrupted.into());
            }
            match catch_unwind(AssertUnwindSafe(|| steps(batch))) {
                Ok(Ok(())) => {}
                Ok(Err(error)) if is_lack_of_memory(&format!("{error:#}")) => return Ok(None),
                Ok(Err(error)) => return Err(error.context(format!("a step of {batch} images"))),
                Err(panic) if text_of(&*panic).is_some_and(is_lack_of_memory) => return Ok(None),
                Err(panic) => std::panic::resume_unwind(panic),
            }
            let peak = peak_memory_bytes(device).context("the memory of this process")?;
            Ok(Some(peak.saturating_sub(before)))
        };
        let Some((batch_size, bytes)) = largest(most, limit, probe)? else {
            bail!("not even a batch of {LEAST} fits; a smaller network or smaller images need less memory")
        };
        Ok(FoundBatch {
            section: section.into(),
            batch_size,
            whole_split: batch_size == most,
            memory_mib: bytes.div_ceil(1 << 20),
            limit_mib: limit.map(|limit| limit >> 20),
            device: describe(device),
            configured,
            accumulate: None,
        })
    }
}

/// The largest number, to 3 %, of [`LEAST`] to `most` for which `probe` gives bytes, and these are within `limit`. What is expected
/// to exceed the limit is not probed; numbers that are probed grow as long as `probe` always gives bytes.
fn largest(
    most: usize,
    limit: Option<u64>,
    mut probe: impl FnMut(usize) -> Result<Option<u64>>,
) -> Result<Option<(usize, u64)>> {
    let within = |bytes: u64| limit.is_none_or(|limit| bytes <= limit);
    // What fits, in the order of size.
    let mut fitting: Vec<(usize, u64)> = Vec::new();
    let mut too_many = None;
    let mut next = LEAST.min(most).max(1);
    loop {
        let found = match expected(&fitting, next).is_none_or(within) {
            true => probe(next)?.filter(|bytes| within(*bytes)),
            false => None,
        };
        match found {
            Some(bytes) => fitting.push((next, bytes)),
            None => too_many = Some(next),
        }
        let Some((largest, _)) = fitting.last() else { return Ok(None) };
        next = match too_many {
            None if *largest == most => break,
            None => (2 * largest).min(most),
            Some(high) if high - largest <= 1 + largest / 32 => break,
            Some(high) => (largest + high) / 2,
        };
    }
    Ok(fitting.pop())
}

/// Bytes of `n` images by those that fit: on the line through the two largest; of one, in proportion, which is the most that they
/// can be.
fn expected(fitting: &[(usize, u64)], n: usize) -> Option<u64> {
    match fitting {
        [] => None,
        [(images, bytes)] => Some((*bytes as f64 * n as f64 / *images as f64) as u64),
        [.., (a, of_a), (b, of_b)] => {
            let slope = (*of_b as f64 - *of_a as f64).max(0.0) / (b - a) as f64;
            Some((*of_b as f64 + slope * (n - b) as f64) as u64)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory of 100 bytes and 10 for every image. Returns what was found and the numbers that were tried.
    fn search(most: usize, limit: Option<u64>, room: u64) -> (Option<(usize, u64)>, Vec<usize>) {
        let mut tried = Vec::new();
        let found = largest(most, limit, |n| {
            tried.push(n);
            let bytes = 100 + 10 * n as u64;
            Ok((bytes <= room).then_some(bytes))
        });
        (found.unwrap(), tried)
    }

    #[test]
    fn batches_double_and_the_last_step_is_bisected() {
        // 40 images take 500 bytes. The device has no more: 64 is tried, and does not fit.
        let (found, tried) = search(1000, None, 500);
        assert_eq!(found, Some((40, 500)));
        assert_eq!(tried, [2, 4, 8, 16, 32, 64, 48, 40, 44, 42]);
        // As many as there are.
        assert_eq!(search(50, None, 10_000).0, Some((50, 600)));
        assert_eq!(search(1, None, 10_000), (Some((1, 110)), vec![1]));
    }

    #[test]
    fn what_is_expected_to_exceed_a_limit_is_never_tried() {
        let (found, tried) = search(1000, Some(500), u64::MAX);
        assert_eq!(found, Some((40, 500)));
        assert!(tried.iter().all(|n| *n <= 40) && tried.is_sorted(), "{tried:?}");
        assert_eq!(search(1000, Some(100), u64::MAX), (None, vec![2]));
        assert_eq!(search(1000, None, 50), (None, vec![2]));
    }

    #[test]
    fn the_result_says_what_to_write() {
        let found = FoundBatch {
            section: "train".into(),
            batch_size: 40,
            whole_split: false,
            memory_mib: 500,
            limit_mib: Some(512),
            device: "cpu (Abacus)".into(),
            configured: 128,
            accumulate: Some(4),
        };
        let text = found.to_string();
        assert!(
            text.starts_with(
                "largest batch: 40 images, 500 MiB of 512 MiB on cpu (Abacus)\n[train]\nbatch_size = 40\n"
            )
        );
        assert!(
            text.contains("parts of 32 images") && text.ends_with("# batch_size = 128\n# accumulate = 4"),
            "{text}"
        );
        let text = FoundBatch { accumulate: Some(1), configured: 16, ..found.clone() }.to_string();
        assert!(text.ends_with("# The experiment's own batch_size = 16 fits too."), "{text}");
        // A search has nothing to accumulate.
        let text = FoundBatch { section: "one_shot".into(), accumulate: None, ..found }.to_string();
        assert!(text.ends_with("\n[one_shot]\nbatch_size = 40"), "{text}");
    }
}
