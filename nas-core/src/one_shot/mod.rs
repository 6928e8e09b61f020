//! One-shot search methods, one file each: the weights of a supernet are trained, and with them or afterwards an
//! architecture is found. A method sees a supernet's loss and score on batches of two halves of the data, never a file, a
//! data set or a head.

mod asng;
pub mod bench;
mod bignas;
mod config;
mod cost_term;
mod darts;
mod ddpnas;
mod drnas;
mod enas;
mod fbnet;
mod gdas;
mod gumbel;
mod mdenas;
mod p_darts;
mod paths;
mod pc_darts;
mod proxyless_nas;
mod random_nas_ws;
mod relaxed;
mod second_stage;
mod snas;
mod spos;
mod weights;
mod within;

use std::collections::HashMap;
use std::rc::Rc;

use anyhow::{Result, bail, ensure};
use serde_json::Value;
use tch::Tensor;

pub use bignas::extremes;
pub use config::{OneShotDef, OneShotInfo};
pub use cost_term::{CostOf, CostTable, CostTermConfig};
pub use darts::Order;
pub use gumbel::straight_through;
pub use second_stage::{Images, SecondStage, check_recalibration};
pub use weights::{added, descend, descend_along, scaled_gradients};

use crate::nn::Shape;
use crate::optim::Named;
use crate::space::{Architecture, ChoiceSpace, Mixture, WeightSharing};
use crate::strategy::registry::registry;
use crate::train::{At, Step};

registry! {
    /// `method` of a config: `kind` and the method's parameters, each with a default.
    pub enum OneShotConfig: OneShotDef {
        /// DARTS, first or second order.
        Darts(darts::DartsConfig),
        /// PC-DARTS.
        PcDarts(pc_darts::PcDartsConfig),
        /// P-DARTS.
        PDarts(p_darts::PDartsConfig),
        /// SNAS.
        Snas(snas::SnasConfig),
        /// GDAS.
        Gdas(gdas::GdasConfig),
        /// DrNAS.
        Drnas(drnas::DrnasConfig),
        /// ProxylessNAS.
        ProxylessNas(proxyless_nas::ProxylessNasConfig),
        /// FBNet.
        Fbnet(fbnet::FbnetConfig),
        /// ENAS.
        Enas(enas::EnasConfig),
        /// MdeNAS on shared weights.
        Mdenas(mdenas::MdenasConfig),
        /// DDPNAS on shared weights.
        Ddpnas(ddpnas::DdpnasConfig),
        /// ASNG on shared weights.
        Asng(asng::AsngConfig),
        /// SPOS.
        Spos(spos::SposConfig),
        /// BigNAS.
        Bignas(bignas::BignasConfig),
        /// RandomNAS with weight sharing.
        RandomNasWs(random_nas_ws::RandomNasWsConfig),
    }
}

/// A half of the training data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Trains the weights.
    Weights,
    /// Trains the architecture.
    Arch,
}

/// A supernet on batches of both halves of the data. A method may ask for several losses and scores of one batch.
pub trait Objective {
    /// Takes the next batch of `part`; returns its number of images.
    fn next(&mut self, part: Part) -> Result<usize>;

    /// Loss of the supernet under `mixture` on the current batch of `part`.
    fn loss(&self, part: Part, mixture: Mixture, at: At) -> Tensor;

    /// [`Objective::loss`] and the logits that it is of, `[B, K, ...]`; none where a network's outputs are no classes.
    fn loss_and_logits(&self, part: Part, mixture: Mixture, at: At) -> (Tensor, Option<Tensor>) {
        (self.loss(part, mixture, at), None)
    }

    /// Accuracy, mIOU or another fraction that is better when larger, of the supernet under `mixture` with batch statistics,
    /// on the current batch of `part`.
    fn score(&self, part: Part, mixture: Mixture, at: At) -> Result<f64>;

    /// Puts a new supernet of `space`, its weights drawn from libtorch's generator, in the place of the present one; returns
    /// its trained tensors.
    fn rebuild(&mut self, space: &dyn WeightSharing) -> Result<Vec<Named>> {
        bail!("the supernet of {} cannot be built anew during a search", space.name())
    }
}

/// What a method is built on.
#[derive(Debug)]
pub struct Problem {
    /// The space.
    pub space: Rc<dyn WeightSharing>,
    /// Trained tensors of the supernet.
    pub weights: Vec<Named>,
    /// Shape of an image, for the cost of architectures.
    pub input: Shape,
    /// What choices take on a device, in microseconds, where that is known.
    pub latency: Option<CostTable>,
    /// Forward passes run in half precision; losses are scaled.
    pub amp: bool,
    /// The run's seed.
    pub seed: u64,
}

/// The candidates that a method would keep at present.
#[derive(Debug)]
pub enum Chosen {
    /// All of them by weight.
    Weights(Vec<Tensor>),
    /// One architecture.
    Path(Architecture),
}

impl Chosen {
    /// As a supernet takes it.
    pub fn as_mixture(&self) -> Mixture<'_> {
        match self {
            Self::Weights(weights) => Mixture::Weights(weights),
            Self::Path(arch) => Mixture::Path(arch),
        }
    }
}

/// A method at work. All it draws comes from libtorch's generator, which the loop seeds for every step, or from
/// `rng::stream`.
pub trait OneShot {
    /// One step of the weights and, where it is their turn, of the architecture. It takes one batch of [`Part::Weights`] and,
    /// from [`OneShot::arch_start_epoch`] on, one of [`Part::Arch`], so that a resumed search finds its place in both.
    fn step(&mut self, at: At, objective: &mut dyn Objective) -> Result<Step>;

    /// First epoch, from 0, that takes batches of [`Part::Arch`]; `None` where none does.
    fn arch_start_epoch(&self) -> Option<usize>;

    /// What a validation of the supernet runs; `None` where nothing distinguishes the candidates.
    fn chosen(&self) -> Option<Chosen>;

    /// The architecture found so far; `None` for methods that leave the choice to a search over the trained supernet.
    fn derive(&self) -> Option<Architecture>;

    /// [`OneShot::derive`] of the architectures that `space`, the method's own within bounds, holds valid; `None` where it finds none.
    fn derive_within(&self, space: &dyn ChoiceSpace) -> Option<Architecture>;

    /// Raw architecture parameters by name; empty for methods without them.
    fn arch_parameters(&self) -> Vec<Named> {
        Vec::new()
    }

    /// All that a resume needs besides the supernet's weights.
    fn state(&self) -> (Vec<Named>, Value);

    /// Gives the supernet the form in which it was when [`OneShot::state`] gave `json`. Its weights and then the method's own
    /// state are restored afterwards.
    fn restore_form(&mut self, _objective: &mut dyn Objective, _json: &Value) -> Result<()> {
        Ok(())
    }

    /// Takes back [`OneShot::state`].
    fn load_state(&mut self, tensors: &HashMap<String, Tensor>, json: Value) -> Result<()>;
}

/// Refuses a search of `epochs` that would end before `method` learns any architecture.
pub fn check_epochs(method: &dyn OneShot, epochs: usize) -> Result<()> {
    let first = method.arch_start_epoch().unwrap_or(0);
    ensure!(
        first < epochs,
        "method.arch_start_epoch = {first}: a search of {epochs} epochs ends before it learns any architecture"
    );
    Ok(())
}
