//! The largest batch that fits the device: real steps of a training, on batches that double until one does not fit, then bisecting.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Context, Result, bail, ensure};
use nas_datasets::{SampleSet, rng};
use serde::{Deserialize, Serialize};

use super::Task;
use super::experiment::{Recipe, TrainExperiment};
use super::supervised::Supervised;
use crate::run::cli::{Compute, is_lack_of_memory, text_of};
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

/// What `train --find-batch` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FoundBatch {
    /// Largest batch whose steps fit.
    pub batch_size: usize,
    /// Whether the train split has no more images.
    pub whole_split: bool,
    /// Memory of its steps.
    pub memory_mib: u64,
    /// What it must not exceed, where that is known before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_mib: Option<u64>,
    /// Where it was tried.
    pub device: String,
    /// `train.batch_size` of the experiment.
    pub configured: usize,
    /// The smallest `train.accumulate` by which the experiment's own batch fits; 1 where it fits as it is.
    pub accumulate: usize,
}

impl fmt::Display for FoundBatch {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { batch_size, whole_split, memory_mib, limit_mib, device, configured, accumulate } = self;
        write!(f, "largest batch: {batch_size} images, {memory_mib} MiB")?;
        limit_mib.iter().try_for_each(|limit| write!(f, " of {limit} MiB"))?;
        write!(f, " on {device}")?;
        if *whole_split {
            write!(f, "; the train split has no more")?;
        }
        write!(f, "\n[train]\nbatch_size = {batch_size}")?;
        match accumulate {
            1 => write!(f, "\n# The experiment's own batch_size = {configured} fits too."),
            parts => write!(
                f,
                "\n# Or, for the experiment's own batch in parts of {} images (norms see a part):\n# batch_size = {configured}\n\
                 # accumulate = {parts}",
                configured / parts
            ),
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
    let on_card = compute.device.is_cuda();
    let free = || available_memory_bytes().map(|bytes| (bytes as f64 * FREE_PART) as u64);
    let limit = if on_card { limit } else { limit.or_else(free) };
    ensure!(limit.is_some() || on_card, "this system does not say how much memory is free; expected --memory MIB");
    let before = if on_card { 0 } else { resident_memory_bytes().context("the memory of this process")? };
    let (train, val) = experiment.setting().open_both_sound()?;
    let most = train.len();
    let probe = |batch: usize| -> Result<Option<u64>> {
        if interrupt::requested() {
            return Err(Interrupted.into());
        }
        let all = |set: &T::Set| set.subset((0..set.len()).collect());
        if !steps_fit(experiment, (all(&train), all(&val)), compute, batch)? {
            return Ok(None);
        }
        let peak = peak_memory_bytes(compute.device).context("the memory of this process")?;
        Ok(Some(peak.saturating_sub(before)))
    };
    let found = largest(most, limit, probe)?;
    let Some((batch_size, bytes)) = found else {
        bail!("not even a batch of {LEAST} fits; a smaller network or smaller images need less memory")
    };
    let configured = experiment.train.batch_size;
    let fits = |parts: &usize| configured.is_multiple_of(*parts) && configured / parts <= batch_size;
    Ok(FoundBatch {
        batch_size,
        whole_split: batch_size == most,
        memory_mib: bytes.div_ceil(1 << 20),
        limit_mib: limit.map(|limit| limit >> 20),
        device: describe(compute.device),
        configured,
        accumulate: (1..=configured).find(fits).unwrap_or(1),
    })
}

/// Whether steps of `batch` images end; an error where they fail of something else than memory.
fn steps_fit<T: Task>(
    experiment: &TrainExperiment<T>,
    (train, val): (T::Set, T::Set),
    compute: Compute,
    batch: usize,
) -> Result<bool> {
    let (init, init_prefix, early_stop) = (None, None, None);
    let recipe = experiment.train.clone();
    let train_section = Recipe { batch_size: batch, accumulate: 1, init, init_prefix, early_stop, ..recipe };
    let experiment = TrainExperiment { train: train_section, ..experiment.clone() };
    let seed = experiment.seed;
    let steps = || -> Result<()> {
        let mut job = Supervised::on(experiment, train, val, compute)?;
        for step in 0..STEPS {
            tch::manual_seed(rng::torch_seed(seed, "step", step as u64));
            // An epoch may have one step.
            job.start_epoch(step, 0)?;
            job.step(At { epoch: step, step: 0, global_step: step, total_steps: STEPS })?;
        }
        Ok(())
    };
    match catch_unwind(AssertUnwindSafe(steps)) {
        Ok(Ok(())) => Ok(true),
        Ok(Err(error)) if is_lack_of_memory(&format!("{error:#}")) => Ok(false),
        Ok(Err(error)) => Err(error.context(format!("a step of {batch} images"))),
        Err(panic) if text_of(&*panic).is_some_and(is_lack_of_memory) => Ok(false),
        Err(panic) => std::panic::resume_unwind(panic),
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
            batch_size: 40,
            whole_split: false,
            memory_mib: 500,
            limit_mib: Some(512),
            device: "cpu (Abacus)".into(),
            configured: 128,
            accumulate: 4,
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
        let text = FoundBatch { accumulate: 1, configured: 16, ..found }.to_string();
        assert!(text.ends_with("# The experiment's own batch_size = 16 fits too."), "{text}");
    }
}
