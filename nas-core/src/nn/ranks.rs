//! Data-parallel work: processes, called ranks, that run the same steps, each on its part of every batch. What is added up here
//! is equal on all of them afterwards; alone, every function does nothing. All ranks make the same calls in the same order.
//!
//! A rank that cannot be reached ends the others by a panic whose text `lost` finds; so does `or_all_end`.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tch::{Device, Kind, Tensor};

use super::torch::collectives;
pub(crate) use super::torch::collectives::Meeting;
use crate::run::cli::text_of;

/// This process among the ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    rank: usize,
    world: usize,
    /// Whether what lies on cards goes from card to card, not through the host's memory.
    cards: bool,
}

const ALONE: Place = Place { rank: 0, world: 1, cards: false };

static PLACE: Mutex<Place> = Mutex::new(ALONE);

/// Begins what is said when a rank is lost.
pub(crate) const LOST: &str = "another process of this run cannot be reached";

/// Begins what is said when a rank has failed in the middle of work that the others wait for.
const FAILED: &str = "this process has failed, and the others of this run with it";

/// Longest time that a rank waits for the slowest. One that ends closes its connections, which is seen at once.
const PATIENCE: Duration = Duration::from_secs(30 * 60);

fn place() -> Place {
    *PLACE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn set_place(place: Place) {
    *PLACE.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = place;
}

/// Makes this process one of `world` ranks, which meet at `at`.
pub(crate) fn join(at: &Meeting, rank: usize, world: usize) -> Result<()> {
    collectives::join(at, rank, world, PATIENCE)?;
    set_place(Place { rank, world, cards: false });
    Ok(())
}

/// Has the ranks' cards talk to each other, if every rank has one of its own and finds NCCL: NCCL's version, or why they do not.
/// All ranks get the same.
pub(crate) fn join_cards(device: Device) -> Result<std::result::Result<String, String>> {
    let Place { rank, world, .. } = place();
    let own = match device {
        Device::Cuda(_) if std::env::var("NAS_NCCL").is_ok_and(|text| text == "0") => Err(anyhow!("NAS_NCCL=0")),
        Device::Cuda(card) => nccl_version().and_then(|version| {
            let id = if rank == 0 { collectives::cards_id()?.to_vec() } else { Vec::new() };
            Ok((card, version, id))
        }),
        _ => Err(anyhow!("it computes on the CPU")),
    };
    if let Some(why) = first_reason(&own)? {
        return Ok(Err(why));
    }
    let (card, version, id) = own?;
    let id = bytes_of_first(&id);
    let joined = collectives::join_cards(id[..].try_into()?, rank, world, card);
    if let Some(why) = first_reason(&joined)? {
        collectives::leave_cards();
        return Ok(Err(why));
    }
    set_place(Place { rank, world, cards: true });
    Ok(Ok(version))
}

/// NCCL's version, once it has summed on this card alone what it should.
pub(crate) fn check_nccl(card: usize) -> Result<String> {
    let version = nccl_version()?;
    collectives::join_cards(&collectives::cards_id()?, 0, 1, card)?;
    let values = Tensor::arange(1000, (Kind::Float, Device::Cuda(card)));
    let sum = values.copy();
    let done = collectives::sum(&sum);
    collectives::leave_cards();
    done?;
    ensure!(sum == values, "the sum over this card alone is not what it has");
    Ok(version)
}

fn nccl_version() -> Result<String> {
    let version = collectives::nccl_version()?;
    Ok(format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100))
}

/// Of what failed on any rank the first one's reason, on all ranks.
fn first_reason<T>(own: &Result<T>) -> Result<Option<String>> {
    let reasons = gather(own.as_ref().err().map(|error| format!("{error:#}")))?;
    Ok(reasons.into_iter().enumerate().find_map(|(rank, why)| Some(format!("rank {rank}: {}", why?))))
}

/// Leaves the others: from now on this process is alone.
pub(crate) fn leave() {
    if are_several() {
        set_place(ALONE);
        collectives::leave();
    }
}

/// Runs work that this rank does as if it were alone.
pub(crate) fn apart<R>(work: impl FnOnce() -> R) -> R {
    struct Back(Place);
    impl Drop for Back {
        fn drop(&mut self) {
            set_place(self.0);
        }
    }
    let _back = Back(place());
    set_place(ALONE);
    work()
}

/// Why a part of work failed, which all ranks have given up for it.
#[derive(Debug, thiserror::Error)]
#[error("rank {rank}: {reason}")]
pub(crate) struct GivenUp {
    /// Whose part failed.
    rank: usize,
    reason: String,
}

/// Runs this rank's part of work, in which it calls no other. Where that fails or panics on any, it fails on all, and they are as far
/// as each other.
///
/// # Errors
/// What `work` fails with; among several the reason of the first whose part failed, and its number.
pub fn together<R>(work: impl FnOnce() -> Result<R>) -> Result<R> {
    if !are_several() {
        return work();
    }
    let done = caught(work);
    // libtorch's messages carry a stack trace of many lines.
    let reason = done.as_ref().err().and_then(|reason| reason.lines().next()).map(str::to_owned);
    let reasons = gather(reason)?;
    match reasons.into_iter().enumerate().find_map(|(rank, reason)| Some(GivenUp { rank, reason: reason? })) {
        Some(given_up) => Err(given_up.into()),
        None => done.map_err(anyhow::Error::msg),
    }
}

/// Runs a part of work that the other ranks have parts of. Where it fails among several, but by [`together`], they would wait for
/// it: then the run ends, whoever would catch the error.
pub(crate) fn or_all_end<R>(work: impl FnOnce() -> Result<R>) -> Result<R> {
    if !are_several() {
        return work();
    }
    // What all have given up is an error like any other.
    let done = caught(|| match work() {
        Err(error) if error.is::<GivenUp>() => Ok(Err(error)),
        done => done.map(Ok),
    });
    done.unwrap_or_else(|reason| resume_unwind(Box::new(format!("{FAILED}: {reason}"))))
}

/// Runs `work`; the text of its error or its panic, unless a rank is lost.
fn caught<R>(work: impl FnOnce() -> Result<R>) -> std::result::Result<R, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done.map_err(|error| format!("{error:#}")),
        Err(panic) => match text_of(&*panic) {
            Some(text) if lost(text).is_none() => Err(text.to_owned()),
            _ => resume_unwind(panic),
        },
    }
}

/// Number of this rank; 0 where it is alone.
pub fn rank() -> usize {
    place().rank
}

/// Number of ranks.
pub fn world() -> usize {
    place().world
}

/// Whether there are other ranks.
pub fn are_several() -> bool {
    world() > 1
}

/// Whether this rank speaks and writes for all.
pub fn is_first() -> bool {
    rank() == 0
}

/// This rank's part of `0..len`, whose bounds are multiples of `unit` or the end.
pub fn part_of(len: usize, unit: usize) -> Range<usize> {
    let Place { rank, world, .. } = place();
    let units = len.div_ceil(unit);
    let bound = |rank: usize| (units * rank / world * unit).min(len);
    bound(rank)..bound(rank + 1)
}

/// What went wrong between ranks, in the text of a panic, if that is what it tells.
pub(crate) fn lost(text: &str) -> Option<&str> {
    // Gloo ends its messages with advice for users of PyTorch.
    const ADVICE: &str = ". This is typically";
    let text = &text[text.find(LOST).or_else(|| text.find(FAILED))?..];
    Some(text.split_once(ADVICE).map_or(text, |(reason, _)| reason))
}

fn reached<T>(outcome: Result<T>) -> T {
    outcome.unwrap_or_else(|error| {
        let reason = format!("{error:#}");
        let text = lost(&reason).map_or_else(|| format!("{LOST}: {reason}"), str::to_owned);
        // No bug: nothing is printed where it is raised.
        resume_unwind(Box::new(text))
    })
}

/// Sums over all ranks.
pub fn sum(values: &[f64]) -> Vec<f64> {
    if !are_several() {
        return values.to_vec();
    }
    let sums = Tensor::from_slice(values);
    reached(collectives::sum(&sums));
    Vec::try_from(&sums).expect("a vector of numbers")
}

/// Mean over all ranks.
pub fn mean(value: f64) -> f64 {
    sum(&[value])[0] / world() as f64
}

/// Sums of counts, exact to 2^53.
pub fn sum_counts(counts: &mut [u64]) {
    if are_several() {
        let sums = sum(&counts.iter().map(|count| *count as f64).collect::<Vec<_>>());
        counts.iter_mut().zip(sums).for_each(|(count, sum)| *count = sum as u64);
    }
}

/// The mean of a tensor over all ranks, without its gradient: what a loss of the whole batch is divided by, for its parts' mean
/// to be that loss.
pub fn mean_of(tensor: &Tensor) -> Tensor {
    if !are_several() {
        return tensor.shallow_clone();
    }
    tch::no_grad(|| {
        let sum = copy_to_send(tensor);
        reached(collectives::sum(&sum));
        (sum / world() as f64).to_device(tensor.device())
    })
}

/// A tensor as it is sent: where cards talk to each other as it lies, else in the host's memory.
fn sendable(tensor: &Tensor) -> Tensor {
    let device = if place().cards { tensor.device() } else { Device::Cpu };
    tensor.to_device(device).contiguous()
}

/// A copy of a tensor to send.
fn copy_to_send(tensor: &Tensor) -> Tensor {
    let sent = sendable(tensor);
    if sent.data_ptr() == tensor.data_ptr() { sent.copy() } else { sent }
}

/// The sum of a tensor over all ranks, through which gradients pass.
pub fn summed(tensor: &Tensor) -> Tensor {
    if are_several() { reached(collectives::summed(tensor)) } else { tensor.shallow_clone() }
}

/// Means of tensors that every rank has the `share` of, such as what it has computed from so many of all batches, in place.
pub(crate) fn average_of_shares(tensors: &mut [Tensor], share: f64) {
    if are_several() {
        let weight = share * world() as f64;
        tch::no_grad(|| tensors.iter_mut().for_each(|tensor| _ = tensor.g_mul_scalar_(weight)));
        average(tensors);
    }
}

/// Means of gradients over all ranks, in place; those of a kind on a device travel together. Where one has none, all have none.
pub(crate) fn average(grads: &mut [Tensor]) {
    if !are_several() {
        return;
    }
    let key = |grad: &Tensor| (grad.kind(), grad.device());
    let mut keys: Vec<(Kind, Device)> = Vec::new();
    for grad in grads.iter().filter(|grad| grad.defined()) {
        if !keys.contains(&key(grad)) {
            keys.push(key(grad));
        }
    }
    tch::no_grad(|| {
        for (kind, device) in keys {
            let mut alike: Vec<&mut Tensor> =
                grads.iter_mut().filter(|grad| grad.defined() && key(grad) == (kind, device)).collect();
            let flat: Vec<Tensor> = alike.iter().map(|grad| grad.reshape([-1])).collect();
            // Half precision is added up in single precision.
            let wide = if kind == Kind::Double { Kind::Double } else { Kind::Float };
            let sum = sendable(&Tensor::cat(&flat, 0).to_kind(wide));
            reached(collectives::sum(&sum));
            let mean = (sum / world() as f64).to_device(device);
            let sizes: Vec<i64> = alike.iter().map(|grad| grad.numel() as i64).collect();
            for (grad, mean) in alike.iter_mut().zip(mean.split_with_sizes(&sizes[..], 0)) {
                // In the memory order of the gradient, which the optimizer's operators expect.
                grad.copy_(&mean.view_as(grad));
            }
        }
    });
}

/// Overwrites tensors by those of the first rank.
pub(crate) fn broadcast<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) {
    if !are_several() {
        return;
    }
    tch::no_grad(|| {
        for tensor in tensors {
            let sent = copy_to_send(tensor);
            reached(collectives::broadcast(&sent, 0));
            tensor.shallow_clone().copy_(&sent);
        }
    });
}

/// The bytes that rank `root` gives.
fn bytes_of(root: usize, own: &[u8]) -> Vec<u8> {
    let len = sum(&[if rank() == root { own.len() as f64 } else { 0.0 }])[0] as usize;
    let bytes =
        if rank() == root { Tensor::from_slice(own) } else { Tensor::zeros([len as i64], (Kind::Uint8, Device::Cpu)) };
    if len > 0 {
        reached(collectives::broadcast(&bytes, root));
    }
    Vec::try_from(&bytes).expect("a vector of bytes")
}

/// The bytes that the first rank gives.
pub(crate) fn bytes_of_first(own: &[u8]) -> Vec<u8> {
    if are_several() { bytes_of(0, own) } else { own.to_vec() }
}

/// Numbers that every rank has, as many each, in the order of the ranks.
pub fn all(own: &[f64]) -> Vec<Vec<f64>> {
    let (Place { rank, world, .. }, len) = (place(), own.len());
    let mut values = vec![0.0; world * len];
    values[rank * len..][..len].copy_from_slice(own);
    sum(&values).chunks(len.max(1)).map(<[f64]>::to_vec).collect()
}

/// What every rank has, in the order of their numbers.
///
/// # Errors
/// If it is no JSON.
pub fn gather<T: Serialize + DeserializeOwned>(own: T) -> Result<Vec<T>> {
    if !are_several() {
        return Ok(vec![own]);
    }
    let own = serde_json::to_vec(&own)?;
    (0..world()).map(|rank| Ok(serde_json::from_slice(&bytes_of(rank, &own))?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alone_nothing_changes() {
        let mut tensors = [Tensor::from_slice(&[2.0f32])];
        average_of_shares(&mut tensors, 0.5);
        assert_eq!(Vec::<f32>::try_from(&tensors[0]).unwrap(), [2.0]);
        assert_eq!((rank(), world(), part_of(10, 3)), (0, 1, 0..10));
        assert_eq!((sum(&[1.0, 2.0]), mean(3.0), gather(4).unwrap()), (vec![1.0, 2.0], 3.0, vec![4]));
        assert_eq!(all(&[5.0, 6.0]), [[5.0, 6.0]]);
        let mut grads = [Tensor::from_slice(&[1.0f32, 2.0]), Tensor::new()];
        average(&mut grads);
        assert_eq!(Vec::<f32>::try_from(&grads[0]).unwrap(), [1.0, 2.0]);
    }

    #[test]
    fn a_lost_rank_is_told_from_a_bug() {
        let panic = std::panic::catch_unwind(|| reached::<()>(Err(anyhow::anyhow!("closed")))).unwrap_err();
        let text = panic.downcast_ref::<String>().unwrap();
        assert_eq!(lost(&format!("libtorch: {text}. This is typically you")), Some(text.as_str()));
        assert!(
            lost(&format!("libtorch: {text}")).is_some_and(|text| text.starts_with(LOST) && text.contains("closed"))
        );
        assert_eq!(lost("index out of bounds"), None);
        // Alone, an error is an error.
        assert_eq!(or_all_end(|| anyhow::bail!("no") as Result<()>).unwrap_err().to_string(), "no");
        assert_eq!(together(|| anyhow::bail!("no") as Result<()>).unwrap_err().to_string(), "no");
        assert!(lost(&format!("{FAILED}: no")).is_some_and(|text| text.ends_with(": no")));
    }
}
