//! Weights, running statistics and optimizer state on their way from parent to child.

use std::collections::HashMap;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use super::conv_net::{Spec, block_tensor};
use super::{ConvNet, ConvNetwork, Morphism, MorphismError, after_insertion};
use crate::nn::{BnConfig, Mode, VarBuilder};
use crate::optim::{Named, Optimizer, OptimizerConfig, named_parameters};

/// A network with its weights, its running statistics and the state of the optimizer that trained it.
#[derive(Debug)]
pub struct Trained {
    /// The description.
    pub net: ConvNet,
    /// Weights and running statistics by the names [`ConvNet::build`] gives them.
    pub tensors: HashMap<String, Tensor>,
    /// What [`Optimizer::state`] gave; empty for an optimizer at rest.
    pub optimizer: HashMap<String, Tensor>,
}

/// How tensors are carried.
#[derive(Clone, Copy, Debug)]
pub struct Morphing<'a> {
    /// How unevenly replicas share the weights that read them, `0..1`: shares are `1/r (1 + u)`, `u` uniform within
    /// `±noise` up to a shift that makes them sum to 1. This keeps the function, unlike Net2Net's noise on the weights
    /// themselves; at 0, replicas get equal gradients and never part.
    pub noise: f64,
    /// Training images `[B, C, H, W]` whose features the norm of a new block is fitted to. Without them the mean and
    /// variance of the features are derived from the scale and shift of the norm before, as if that norm's output were
    /// Gaussian.
    pub batch: Option<&'a Tensor>,
}

impl Default for Morphing<'_> {
    fn default() -> Self {
        Self { noise: 0.1, batch: None }
    }
}

/// What a tensor holds, hence how it changes with the network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Quantity {
    Value,
    /// Moments of a gradient: a sum of its powers.
    Gradient(i32),
}

/// State that optimizers keep for each parameter, and what it is. A number of steps is neither, it is copied.
const STATE: [(&str, Option<Quantity>); 4] = [
    ("velocity", Some(Quantity::Gradient(1))),
    ("first", Some(Quantity::Gradient(1))),
    ("second", Some(Quantity::Gradient(2))),
    ("steps", None),
];

impl Trained {
    /// Copies of what `vs` (with the network of `net` at its root) and `optimizer` hold.
    pub fn capture(net: ConvNet, vs: &VarStore, optimizer: Option<&dyn Optimizer>) -> Self {
        let copied = |named: Vec<Named>| {
            tch::no_grad(|| named.into_iter().map(|(name, tensor)| (name, tensor.detach().copy())).collect())
        };
        let state = optimizer.map(|optimizer| optimizer.state()).unwrap_or_default();
        Self { net, tensors: copied(vs.variables().into_iter().collect()), optimizer: copied(state) }
    }

    /// A second handle on the same tensors.
    pub fn shallow_clone(&self) -> Self {
        let cloned = |tensors: &HashMap<String, Tensor>| {
            tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect()
        };
        Self { net: self.net.clone(), tensors: cloned(&self.tensors), optimizer: cloned(&self.optimizer) }
    }

    /// The network with its weights in a new store on `device`.
    pub fn build(&self, device: Device) -> Result<(VarStore, ConvNetwork), MorphismError> {
        self.check()?;
        let mut vs = VarStore::new(device);
        let network = self.net.build(&VarBuilder::new(&vs));
        vs.set_kind(self.tensors["classifier.bias"].kind());
        tch::no_grad(|| vs.variables().iter_mut().for_each(|(name, tensor)| tensor.copy_(&self.tensors[name])));
        Ok((vs, network))
    }

    /// [`Trained::build`] and the optimizer to train on with, which starts from a copy of the state: a state that is
    /// loaded as it is changes with every step.
    pub fn resume(
        &self,
        device: Device,
        optimizer: &OptimizerConfig,
    ) -> Result<(VarStore, ConvNetwork, Box<dyn Optimizer>), MorphismError> {
        let (vs, network) = self.build(device)?;
        let mut optimizer = optimizer.build(named_parameters(&vs));
        optimizer.load_state(&self.optimizer.iter().map(|(name, tensor)| (name.clone(), tensor.copy())).collect());
        Ok((vs, network, optimizer))
    }

    /// Says which tensor is not as the description wants it.
    fn check(&self) -> Result<(), MorphismError> {
        let fault = |name: &str, found: String, expected: String| {
            Err(MorphismError::Tensor { name: name.to_string(), net: self.net.to_string(), found, expected })
        };
        let specs = self.net.specs();
        let by_name: HashMap<&str, &Spec> = specs.iter().map(|spec| (spec.name.as_str(), spec)).collect();
        for Spec { name, dims, .. } in &specs {
            match self.tensors.get(name).map(Tensor::size) {
                None => return fault(name, "none".into(), format!("shape {dims:?}")),
                Some(size) if size != *dims => {
                    return fault(name, format!("shape {size:?}"), format!("shape {dims:?}"));
                }
                _ => {}
            }
        }
        if let Some(name) = self.tensors.keys().find(|name| !by_name.contains_key(name.as_str())) {
            return fault(name, "a tensor".into(), "none of this name".into());
        }
        let counts = |key: &str| key.ends_with(".steps");
        let all = self.tensors.iter().chain(self.optimizer.iter().filter(|(key, _)| !counts(key)));
        if let Some((name, tensor)) = all.into_iter().find(|(_, tensor)| !tensor.is_floating_point()) {
            return fault(name, format!("kind {:?}", tensor.kind()), "a floating kind".into());
        }
        for (key, tensor) in &self.optimizer {
            let known = key.rsplit_once('.').and_then(|(name, suffix)| {
                let spec = by_name.get(name).filter(|spec| spec.trained)?;
                let (_, quantity) = STATE.iter().find(|(known, _)| *known == suffix)?;
                Some(if quantity.is_some() { spec.dims.clone() } else { Vec::new() })
            });
            match known {
                None => return fault(key, "optimizer state".into(), "that of a parameter of the network".into()),
                Some(dims) if dims != tensor.size() => {
                    return fault(key, format!("shape {:?}", tensor.size()), format!("shape {dims:?}"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The child of `parent` under `morphism`: a network of the same function (see the module), with the optimizer state that
/// the gradients' change implies.
///
/// A unit with `r` replicas passes `1/r` of its gradient to each, and `1/r²` of the gradient's square. What reads a
/// replica sees the same features as before, hence has the same gradient. Parameters that did not exist have no state:
/// an optimizer starts them fresh. New taps of a kernel have zero momentum and the mean second moment of the old ones:
/// at zero, Adam, whose bias correction is over by then, would move them several times the learning rate.
/// (The share of weight decay in SGD's momentum is treated like the rest.)
///
/// Errors name the block or tensor that is not as it should be.
pub fn morph(
    parent: &Trained,
    morphism: &Morphism,
    with: &Morphing,
    rng: &mut ChaCha8Rng,
) -> Result<Trained, MorphismError> {
    let net = morphism.apply(&parent.net)?;
    parent.check()?;
    with.check(&parent.net)?;
    tch::no_grad(|| match *morphism {
        Morphism::Widen { block, width } => {
            let tied = parent.net.tied(block);
            let replicas = Replicas::draw(parent.net.width(block), width, rng);
            let is_tied = |block: Option<usize>| block.is_some_and(|block| tied.contains(&block));
            Ok(carry(parent, net, same, |spec, mut tensor, quantity| {
                if is_tied(spec.rows) {
                    tensor = replicas.rows(&tensor, quantity);
                }
                if is_tied(spec.cols) {
                    tensor = replicas.cols(&tensor, quantity, with.noise, rng);
                }
                tensor
            }))
        }
        Morphism::Deepen { after, ksize } => {
            let moments = match with.batch {
                Some(batch) => measured_moments(parent, after, batch)?,
                None => derived_moments(parent, after),
            };
            let mut child = carry(parent, net, |i| after_insertion(after, i), unchanged);
            let like = &parent.tensors[&block_tensor(after, "bn.bias")];
            child.tensors.extend(identity_block(after + 1, ksize, moments, like));
            Ok(child)
        }
        Morphism::AddSkip { to, .. } => {
            let mut child = carry(parent, net, same, unchanged);
            let gate = parent.tensors[&block_tensor(to, "bn.bias")].zeros_like();
            child.tensors.insert(block_tensor(to, "gate"), gate);
            Ok(child)
        }
        Morphism::GrowKernel { block } => {
            let kernel = block_tensor(block, "conv.weight");
            Ok(carry(parent, net, same, |spec, tensor, quantity| match spec.name == kernel {
                true => bordered(&tensor, quantity),
                false => tensor,
            }))
        }
    })
}

impl Morphing<'_> {
    fn check(&self, net: &ConvNet) -> Result<(), MorphismError> {
        if !(0.0..1.0).contains(&self.noise) {
            return Err(MorphismError::Setting(format!("noise is {}; expected 0 or more, below 1", self.noise)));
        }
        match self.batch.map(Tensor::size) {
            Some(size) if size.len() != 4 || size[1] != net.c_in() || size.contains(&0) => {
                let c = net.c_in();
                Err(MorphismError::Setting(format!("the batch has the shape {size:?}; expected [B, {c}, H, W]")))
            }
            _ => Ok(()),
        }
    }
}

fn same(i: usize) -> usize {
    i
}

fn unchanged(_: &Spec, tensor: Tensor, _: Quantity) -> Tensor {
    tensor
}

/// Every tensor of `parent`, changed by `change`, under the name it has once block `i` is block `renumber(i)`.
fn carry(
    parent: &Trained,
    net: ConvNet,
    renumber: impl Fn(usize) -> usize,
    mut change: impl FnMut(&Spec, Tensor, Quantity) -> Tensor,
) -> Trained {
    let mut child = Trained { net, tensors: HashMap::new(), optimizer: HashMap::new() };
    for spec in parent.net.specs() {
        let name = match spec.rows {
            Some(i) => spec.name.replacen(&block_tensor(i, ""), &block_tensor(renumber(i), ""), 1),
            None => spec.name.clone(),
        };
        for (suffix, quantity) in STATE {
            let Some(state) = parent.optimizer.get(&format!("{}.{suffix}", spec.name)) else { continue };
            let state = match quantity {
                Some(quantity) => change(&spec, state.copy(), quantity),
                None => state.copy(),
            };
            child.optimizer.insert(format!("{name}.{suffix}"), state);
        }
        let value = change(&spec, parent.tensors[&spec.name].copy(), Quantity::Value);
        child.tensors.insert(name, value);
    }
    child
}

/// Which old unit each new one is a copy of: all once, then random ones.
pub(super) struct Replicas {
    sources: Vec<i64>,
    old: i64,
}

impl Replicas {
    fn draw(old: i64, new: i64, rng: &mut ChaCha8Rng) -> Self {
        Self { sources: (0..old).chain((old..new).map(|_| rng.random_range(0..old))).collect(), old }
    }

    /// Number of copies of each old unit.
    fn counts(&self) -> Vec<i64> {
        let mut counts = vec![0; self.old as usize];
        self.sources.iter().for_each(|&source| counts[source as usize] += 1);
        counts
    }

    /// The units along axis 0 replicated.
    fn rows(&self, tensor: &Tensor, quantity: Quantity) -> Tensor {
        let ys = tensor.index_select(0, &Tensor::from_slice(&self.sources).to_device(tensor.device()));
        let Quantity::Gradient(power) = quantity else { return ys };
        let counts = self.counts();
        let shares: Vec<f64> = self.sources.iter().map(|&i| (counts[i as usize] as f64).powi(-power)).collect();
        let mut dims = vec![1; ys.dim()];
        dims[0] = -1;
        ys.g_mul(&like(&Tensor::from_slice(&shares), tensor).view(dims.as_slice()))
    }

    /// The units along axis 1 replicated; replicas share a weight, each row in its own way.
    fn cols(&self, tensor: &Tensor, quantity: Quantity, noise: f64, rng: &mut ChaCha8Rng) -> Tensor {
        let ys = tensor.index_select(1, &Tensor::from_slice(&self.sources).to_device(tensor.device()));
        if quantity != Quantity::Value {
            return ys;
        }
        let counts = self.counts();
        let shares: Vec<f64> = (0..ys.size()[0]).flat_map(|_| self.shares(&counts, noise, rng)).collect();
        let mut dims = vec![1; ys.dim()];
        dims[..2].copy_from_slice(&ys.size()[..2]);
        ys.g_mul(&like(&Tensor::from_slice(&shares), tensor).view(dims.as_slice()))
    }

    /// For each new unit its share in the weight that reads the old one; those of the replicas of one unit sum to 1.
    fn shares(&self, counts: &[i64], noise: f64, rng: &mut ChaCha8Rng) -> Vec<f64> {
        let draws: Vec<f64> = self.sources.iter().map(|_| noise * rng.random_range(-1.0..=1.0)).collect();
        let mut means = vec![0.0; counts.len()];
        let units = || self.sources.iter().map(|&source| source as usize);
        units().zip(&draws).for_each(|(i, draw)| means[i] += draw / counts[i] as f64);
        units().zip(&draws).map(|(i, draw)| (1.0 + draw - means[i]) / counts[i] as f64).collect()
    }
}

/// `values` with the kind and device of `tensor`.
fn like(values: &Tensor, tensor: &Tensor) -> Tensor {
    values.to_kind(tensor.kind()).to_device(tensor.device())
}

/// A kernel with one more ring of taps.
fn bordered(tensor: &Tensor, quantity: Quantity) -> Tensor {
    let (c_out, c_in, k, _) = tensor.size4().expect("a kernel has four dimensions");
    let ys = match quantity {
        Quantity::Gradient(2) => {
            tensor.mean_dim([2i64, 3].as_slice(), true, None).expand([c_out, c_in, k + 2, k + 2], false).copy()
        }
        _ => Tensor::zeros([c_out, c_in, k + 2, k + 2], (tensor.kind(), tensor.device())),
    };
    ys.narrow(2, 1, k).narrow(3, 1, k).copy_(tensor);
    ys
}

/// Mean and biased variance per channel, double precision.
type Moments = (Tensor, Tensor);

/// The tensors of a block that passes on what it gets, if that is not negative: the norm's scale and shift are what it
/// divides by and subtracts. In training those are the batch's statistics, in evaluation the running ones; both are
/// `moments` here. A constant channel has the scale `sqrt(eps)`.
fn identity_block(i: usize, ksize: i64, (mean, var): Moments, like_this: &Tensor) -> Vec<Named> {
    let c = mean.size()[0];
    let options = (Kind::Double, mean.device());
    let kernel = Tensor::zeros([c, c, ksize, ksize], options);
    kernel.select(3, ksize / 2).select(2, ksize / 2).copy_(&Tensor::eye(c, options));
    let scale = (&var + BnConfig::default().eps).sqrt();
    [
        ("conv.weight", kernel),
        ("bn.weight", scale),
        ("bn.bias", mean.copy()),
        ("bn.running_mean", mean),
        ("bn.running_var", var),
    ]
    .map(|(name, tensor)| (block_tensor(i, name), like(&tensor, like_this)))
    .into()
}

/// Moments of the output of block `i` on a batch, as a training step sees it.
fn measured_moments(parent: &Trained, i: usize, batch: &Tensor) -> Result<Moments, MorphismError> {
    let (_vs, network) = parent.build(batch.device())?;
    let batch = batch.to_kind(parent.tensors["classifier.bias"].kind());
    let xs = network.outputs(&batch, Mode::train(0.0), i).remove(i).to_kind(Kind::Double);
    let dims = [0i64, 2, 3];
    Ok((xs.mean_dim(dims.as_slice(), false, None), xs.var_dim(dims.as_slice(), false, false)))
}

/// Moments of the output of block `i` if what its norm gives is Gaussian with the norm's shift as mean and scale as
/// deviation, independent of what is added to it.
fn derived_moments(parent: &Trained, i: usize) -> Moments {
    let tensor = |name: &str| parent.tensors[&block_tensor(i, name)].to_kind(Kind::Double);
    let (mean, var) = (tensor("bn.bias"), tensor("bn.weight").square());
    match parent.net.blocks()[i - 1].skip {
        Some(from) => {
            let ((skip_mean, skip_var), gate) = (derived_moments(parent, from), tensor("gate"));
            rectified_moments(&(mean + &gate * skip_mean), &(var + gate.square() * skip_var))
        }
        None => rectified_moments(&mean, &var),
    }
}

/// Mean and variance of `max(x, 0)` for a normal `x`: with `z = mean / sd`, `E = mean Φ(z) + sd φ(z)` and
/// `E² = (mean² + sd²) Φ(z) + mean sd φ(z)`.
pub(super) fn rectified_moments(mean: &Tensor, var: &Tensor) -> Moments {
    let sd = var.sqrt().clamp_min(1e-12);
    let z = mean / &sd;
    let cdf: Tensor = ((&z / 2f64.sqrt()).erf() + 1.0) / 2.0;
    let density: Tensor = (z.square() / -2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let first = mean * &cdf + &sd * &density;
    let second = (mean.square() + var) * &cdf + mean * &sd * &density;
    let variance = (second - first.square()).clamp_min(0.0);
    (first, variance)
}
