//! Looks inside a network without changing it: zero-cost proxies need pre-activations, outputs of convolutions, norm
//! statistics, or a pass without norms and rectifiers.
//!
//! A probe belongs to its thread and lasts as long as the closure it is given. Layers ask one thread-local byte whether
//! there is one, so that ordinary passes pay nothing.

use std::cell::{Cell, RefCell};

use tch::Tensor;

/// A place of a network that can be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// Input of a rectifier.
    PreActivation,
    /// Output of a convolution or linear layer.
    Weighted,
    /// Input of a batch norm.
    PreNorm,
    /// Output of a block (a cell, a residual block); of NAS-Bench-201 that of the stem too.
    Block,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Off,
    Recording,
    Linear,
}

struct Record {
    site: Site,
    map: fn(&Tensor) -> Tensor,
    seen: Vec<Tensor>,
}

thread_local! {
    static STATE: Cell<State> = const { Cell::new(State::Off) };
    static RECORD: RefCell<Option<Record>> = const { RefCell::new(None) };
}

/// Puts the former state back, after a panic too.
struct Restore(State, Option<Record>);

impl Restore {
    fn enter(state: State, record: Option<Record>) -> Self {
        Self(STATE.replace(state), RECORD.replace(record))
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        STATE.set(self.0);
        RECORD.set(self.1.take());
    }
}

/// The output `xs` of a block, which is a place to record.
pub fn block(xs: Tensor) -> Tensor {
    report(Site::Block, &xs);
    xs
}

/// The result of `run` with `map` of the tensor at every `site` it passed, in the order of computation. Batch norms use
/// the statistics of the batch as ever but leave their running ones alone, and nothing is activated in place.
pub fn record<T>(site: Site, map: fn(&Tensor) -> Tensor, run: impl FnOnce() -> T) -> (T, Vec<Tensor>) {
    let _restore = Restore::enter(State::Recording, Some(Record { site, map, seen: Vec::new() }));
    let result = run();
    (result, RECORD.take().map(|record| record.seen).unwrap_or_default())
}

/// The result of `run` without its traces: as [`record`] with nothing recorded.
pub fn untouched<T>(run: impl FnOnce() -> T) -> T {
    let _restore = Restore::enter(State::Recording, None);
    run()
}

/// The result of `run` with batch norms and rectifiers replaced by the identity.
pub fn linear<T>(run: impl FnOnce() -> T) -> T {
    let _restore = Restore::enter(State::Linear, None);
    run()
}

/// What layers say of the tensors they meet.
pub fn report(site: Site, xs: &Tensor) {
    if STATE.get() == State::Recording {
        RECORD.with_borrow_mut(|record| {
            if let Some(record) = record.as_mut().filter(|record| record.site == site) {
                record.seen.push((record.map)(xs));
            }
        });
    }
}

/// Whether the running statistics of norms must stay as they are.
pub(super) fn is_recording() -> bool {
    STATE.get() == State::Recording
}

/// Whether norms and rectifiers are the identity.
pub(super) fn is_linear() -> bool {
    STATE.get() == State::Linear
}

/// Whether layers behave as ever.
pub(super) fn is_off() -> bool {
    STATE.get() == State::Off
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, nn::VarStore};

    use super::*;
    use crate::nn::{Activation, BnConfig, ConvConfig, Mode, Module, VarBuilder, conv_bn};

    fn layer(vs: &VarStore) -> impl Module {
        conv_bn(&VarBuilder::new(vs), (3, 4), 3, ConvConfig::default(), BnConfig::default(), Activation::Relu)
    }

    fn images() -> Tensor {
        tch::manual_seed(1);
        Tensor::randn([2, 3, 5, 5], (Kind::Float, Device::Cpu))
    }

    #[test]
    fn a_record_holds_what_the_layers_saw_and_running_statistics_stay() {
        let vs = VarStore::new(Device::Cpu);
        let layer = layer(&vs);
        let mode = Mode::train(0.0);
        // Drawn once: other tests draw from the same generator.
        let xs = images();
        let forward = || layer.forward(&xs, mode);
        let (ys, inputs) = record(Site::PreActivation, Tensor::shallow_clone, forward);
        assert_eq!(inputs.len(), 1);
        assert!(inputs[0].min().double_value(&[]) < 0.0, "not overwritten by the rectifier");
        assert_eq!(inputs[0].relu(), ys);
        let (_, convolved) = record(Site::Weighted, Tensor::copy, forward);
        let (_, normed) = record(Site::PreNorm, Tensor::copy, forward);
        assert_eq!(convolved, normed);
        let running = &vs.variables()["bn.running_mean"];
        assert_eq!(running.abs().max().double_value(&[]), 0.0);
        assert_eq!(layer.forward(&xs, mode), ys);
        assert!(running.abs().max().double_value(&[]) > 0.0, "an ordinary pass updates them");
    }

    #[test]
    fn a_linear_pass_is_the_convolution_alone() {
        let vs = VarStore::new(Device::Cpu);
        let layer = layer(&vs);
        let xs = images();
        let ys = linear(|| layer.forward(&xs, Mode::train(0.0)));
        let expected = xs.conv2d(&vs.variables()["conv.weight"], None::<&Tensor>, [1, 1], [1, 1], [1, 1], 1);
        assert_eq!(ys, expected);
    }

    #[test]
    fn a_panic_inside_ends_the_probe() {
        let result = std::panic::catch_unwind(|| linear(|| panic!("inside")));
        assert!(result.is_err() && is_off());
    }
}
