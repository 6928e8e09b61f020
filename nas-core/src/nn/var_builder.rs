//! Where a layer's tensors come from: a variable store, or nowhere when only the cost is asked for.

use tch::{Tensor, nn};

/// Initial values of a weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// One value.
    Const(f64),
    /// `U(-1/sqrt(fan_in), 1/sqrt(fan_in))`: TF's variance scaling with factor 1/3, the default of convolutions here.
    FanIn,
    /// He et al. 2015 with fan-out, for nets with rectifiers.
    KaimingFanOut,
    /// `N(0, stdev²)`.
    Normal(f64),
}

/// A named place for a layer's weights.
#[derive(Debug)]
pub struct VarBuilder<'a> {
    path: Option<nn::Path<'a>>,
}

impl<'a> VarBuilder<'a> {
    /// Weights are created in `vs`, on its device.
    pub fn new(vs: &'a nn::VarStore) -> Self {
        Self { path: Some(vs.root()) }
    }

    /// Weights are undefined tensors: the network can be counted, not run.
    pub fn dry() -> VarBuilder<'static> {
        VarBuilder { path: None }
    }

    /// The place `name` below this one.
    pub fn sub(&self, name: impl ToString) -> Self {
        Self { path: self.path.as_ref().map(|path| path.sub(name)) }
    }

    /// A trained tensor.
    pub fn weight(&self, name: &str, dims: &[i64], init: Init) -> Tensor {
        let Some(path) = &self.path else { return Tensor::new() };
        path.var(name, dims, to_tch(init, dims))
    }

    /// A tensor that is saved but not trained.
    pub fn buffer(&self, name: &str, dims: &[i64], value: f64) -> Tensor {
        let Some(path) = &self.path else { return Tensor::new() };
        path.add(name, Tensor::full(dims, value, (path.kind(), path.device())), false)
    }
}

fn to_tch(init: Init, dims: &[i64]) -> nn::Init {
    let receptive: i64 = dims.iter().skip(2).product();
    match init {
        Init::Const(value) => nn::Init::Const(value),
        Init::FanIn => {
            let bound = 1.0 / ((dims[1] * receptive) as f64).sqrt();
            nn::Init::Uniform { lo: -bound, up: bound }
        }
        Init::KaimingFanOut => nn::Init::Randn { mean: 0.0, stdev: (2.0 / (dims[0] * receptive) as f64).sqrt() },
        Init::Normal(stdev) => nn::Init::Randn { mean: 0.0, stdev },
    }
}
