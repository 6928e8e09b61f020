//! Where a layer's tensors come from: a variable store, or nowhere when only the cost is asked for.

use std::cell::RefCell;
use std::collections::HashMap;

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
pub struct VarBuilder<'a>(Place<'a>);

#[derive(Debug)]
enum Place<'a> {
    Nowhere,
    Store {
        path: nn::Path<'a>,
        /// Where what is made is noted, and the name of this place in the notes.
        notes: Option<(&'a Notes, String)>,
    },
    Shared {
        tensors: &'a HashMap<String, Tensor>,
        prefix: String,
        notes: Option<&'a Notes>,
    },
}

/// The tensors that layers asked for, by name and in their order.
pub type Notes = RefCell<Vec<(String, Tensor)>>;

impl<'a> VarBuilder<'a> {
    /// Weights are created in `vs`, on its device.
    pub fn new(vs: &'a nn::VarStore) -> Self {
        Self(Place::Store { path: vs.root(), notes: None })
    }

    /// Weights are undefined tensors: the network can be counted, not run.
    pub fn dry() -> VarBuilder<'static> {
        VarBuilder(Place::Nowhere)
    }

    /// Weights are parts of `tensors`, by name: the first entries along every dimension. So networks of different widths
    /// share the weights of the widest, and gradients and running statistics reach them.
    ///
    /// Asking it for a tensor that is not there, or for more of one than there is, is a bug of the caller's and panics.
    pub fn shared(tensors: &'a HashMap<String, Tensor>) -> Self {
        Self(Place::Shared { tensors, prefix: String::new(), notes: None })
    }

    /// The same place; what is asked for here and below is noted, with names that start here.
    pub fn noting(&self, notes: &'a Notes) -> Self {
        Self(match &self.0 {
            Place::Nowhere => Place::Nowhere,
            Place::Store { path, .. } => Place::Store { path: path.clone(), notes: Some((notes, String::new())) },
            Place::Shared { tensors, prefix, .. } => {
                Place::Shared { tensors, prefix: prefix.clone(), notes: Some(notes) }
            }
        })
    }

    /// The place `name` below this one.
    pub fn sub(&self, name: impl ToString) -> Self {
        let name = name.to_string();
        Self(match &self.0 {
            Place::Nowhere => Place::Nowhere,
            Place::Store { path, notes } => Place::Store {
                path: path.sub(&name),
                notes: notes.as_ref().map(|(notes, prefix)| (*notes, format!("{prefix}{name}."))),
            },
            Place::Shared { tensors, prefix, notes } => {
                Place::Shared { tensors, prefix: format!("{prefix}{name}."), notes: *notes }
            }
        })
    }

    /// A trained tensor.
    pub fn weight(&self, name: &str, dims: &[i64], init: Init) -> Tensor {
        self.tensor(name, dims, |path| path.var(name, dims, to_tch(init, dims)))
    }

    /// A tensor that is saved but not trained.
    pub fn buffer(&self, name: &str, dims: &[i64], value: f64) -> Tensor {
        self.tensor(name, dims, |path| path.add(name, Tensor::full(dims, value, (path.kind(), path.device())), false))
    }

    fn tensor(&self, name: &str, dims: &[i64], make: impl FnOnce(&nn::Path) -> Tensor) -> Tensor {
        let (tensor, notes, prefix) = match &self.0 {
            Place::Nowhere => return Tensor::new(),
            Place::Store { path, notes } => {
                let Some((notes, prefix)) = notes else { return make(path) };
                (make(path), *notes, prefix)
            }
            Place::Shared { tensors, prefix, notes } => {
                let tensor = first_of(tensors, &format!("{prefix}{name}"), dims);
                let Some(notes) = notes else { return tensor };
                (tensor, *notes, prefix)
            }
        };
        notes.borrow_mut().push((format!("{prefix}{name}"), tensor.shallow_clone()));
        tensor
    }
}

/// The first entries of a tensor along every dimension.
fn first_of(tensors: &HashMap<String, Tensor>, name: &str, dims: &[i64]) -> Tensor {
    let tensor = tensors.get(name).unwrap_or_else(|| panic!("no tensor {name} to share"));
    let size = tensor.size();
    let fits = size.len() == dims.len() && size.iter().zip(dims).all(|(size, dim)| dim <= size);
    assert!(fits, "{dims:?} of {name} {size:?}");
    let narrowed = size.iter().zip(dims).enumerate().filter(|(_, (size, dim))| dim < size);
    narrowed.fold(tensor.shallow_clone(), |part, (i, (_, dim))| part.narrow(i as i64, 0, *dim))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{BatchNorm, BnConfig, Conv2d, ConvConfig, Mode, Module};
    use tch::{Device, Kind};

    /// A convolution and its norm.
    fn layers(vb: &VarBuilder, c_in: i64, c_out: i64) -> (Conv2d, BatchNorm) {
        let conv = Conv2d::new(&vb.sub("conv"), c_in, c_out, 3, ConvConfig::default());
        (conv, BatchNorm::new(&vb.sub("bn"), c_out, BnConfig::default()))
    }

    #[test]
    fn narrow_layers_use_move_and_measure_the_first_channels_of_the_widest() {
        let vs = nn::VarStore::new(Device::Cpu);
        let notes = Notes::default();
        layers(&VarBuilder::new(&vs).sub("net").noting(&notes), 4, 6);
        let notes = notes.into_inner();
        assert_eq!(notes[0].0, "conv.weight");
        let tensors: HashMap<String, Tensor> = notes.into_iter().collect();
        let (conv, bn) = layers(&VarBuilder::shared(&tensors), 2, 3);
        let xs = Tensor::randn([2, 2, 5, 5], (Kind::Float, Device::Cpu));
        let ys = bn.forward(&conv.forward(&xs, Mode::train(0.0)), Mode::train(0.0));
        let weight = &tensors["conv.weight"];
        let kept = weight.narrow(0, 0, 3).narrow(1, 0, 2);
        let convolved = xs.conv2d(&kept, None::<&Tensor>, [1, 1], [1, 1], [1, 1], 1);
        assert_eq!(conv.forward(&xs, Mode::train(0.0)), convolved);
        ys.square().sum(Kind::Float).backward();
        let touched = weight.grad().ne(0.0).sum(Kind::Int64).int64_value(&[]);
        assert!(touched <= 3 * 2 * 9 && touched > 0);
        assert_eq!(weight.grad().narrow(0, 0, 3).narrow(1, 0, 2).ne(0.0).sum(Kind::Int64).int64_value(&[]), touched);
        let moved = tensors["bn.running_mean"].ne(0.0);
        assert_eq!(Vec::<bool>::try_from(moved).unwrap(), [true, true, true, false, false, false]);
    }
}
