//! Zero-cost proxies: scores of an untrained network from one batch. Survey and practice: Abdelfattah et al. 2021, arXiv
//! 2101.08134; each proxy's own paper is at [`Proxy`].
//!
//! Higher is meant to be better. A proxy leaves the network as it was: weights that it replaces are put back, running
//! statistics of norms do not move. "Weights" below are the kernels and matrices (parameters of two or more dimensions);
//! biases, scales and shifts of norms take no part in a score. Rectifiers, norms and convolutions are seen where they are
//! layers of `nn` or report to [`probe`] themselves.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::nn::Cost;
use crate::nn::probe::{self, Site};
use crate::optim::Named;

/// A network that can be scored.
pub trait Model {
    /// Logits `[B, K]` of images `[B, C, H, W]`, norms in training mode; of kind double where images and parameters are.
    fn logits(&self, xs: &Tensor) -> Tensor;

    /// The last feature map `[B, C', H', W']` of images, before pooling and classifier, norms in training mode.
    fn features(&self, xs: &Tensor) -> Tensor;

    /// The trained tensors, of kind float.
    fn parameters(&self) -> Vec<Named>;

    /// Cost for one image.
    fn cost(&self) -> Cost;
}

/// A score of an untrained network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Proxy {
    /// `sum w dR/dw` of the linear network with absolute weights in double precision, `R` the sum of the logits of an image
    /// of ones; norms and rectifiers are left out. Tanaka et al. 2020, arXiv 2006.05467. It spans tens of decades: compare
    /// ranks or logarithms.
    Synflow,
    /// `sum w ln(1 + dR/dw)` of the same network. Cavagnero et al. 2023 (FreeREA), arXiv 2207.05135.
    Logsynflow,
    /// `ln |det K|`, `K_ij` the number of rectifiers that are on or off for both of images i and j. Mellor et al. 2021,
    /// arXiv 2006.04647.
    Naswot,
    /// `sum |w dL/dw|`. Lee et al. 2019, arXiv 1810.02340.
    Snip,
    /// `-sum w (Hg)`, the Hessian of the loss times its gradient. Wang et al. 2020, arXiv 2002.07376.
    Grasp,
    /// `1/2 sum_c mean_n (sum_hw a dL/da)²` over the outputs `a` of convolutions and linear layers. Turner et al. 2020, arXiv
    /// 1906.04113.
    Fisher,
    /// Sum over weights of the Euclidean norm of the gradient.
    GradNorm,
    /// `-sum (ln(v + k) + 1 / (v + k))`, `v` the eigenvalues of the correlation of the images' input gradients, `k = 1e-5`.
    /// Mellor et al. 2020, arXiv 2006.04647v1.
    JacobCov,
    /// Log of the mean change of the last feature map under `0.01 N(0, 1)` on normal images and normal weights, plus the log
    /// standard deviations that the norms take out. Lin et al. 2021, arXiv 2102.01063; residual connections stay. Draws from
    /// libtorch's generator: seed it first.
    Zen,
    /// `sum_l ln sum (mean |g| / deviation of g)` over the weights of a layer that have a deviation, `g` the gradients of the two
    /// halves of the batch. Li et al. 2023, arXiv 2301.11300; the deviation is that of signed gradients, as in the authors'
    /// program, where their formula has absolute ones.
    Zico,
    /// Sum over blocks of the entropy of the normalised eigenvalues of the covariance of the channels, on normal images and
    /// Kaiming-normal weights. Lee and Ham 2024 (AZ-NAS), arXiv 2403.19232, as is the next one.
    /// They draw from libtorch's generator: seed it first.
    AzExpressivity,
    /// Least growth of that entropy from one block to the next.
    AzProgressivity,
    /// Sum over weights of the Euclidean norm.
    L2,
    /// Number of parameters.
    Params,
    /// Multiply-adds of one image.
    Macs,
}

impl Proxy {
    /// All proxies.
    pub const ALL: [Proxy; 15] = [
        Proxy::Synflow,
        Proxy::Logsynflow,
        Proxy::Naswot,
        Proxy::Snip,
        Proxy::Grasp,
        Proxy::Fisher,
        Proxy::GradNorm,
        Proxy::JacobCov,
        Proxy::Zen,
        Proxy::Zico,
        Proxy::AzExpressivity,
        Proxy::AzProgressivity,
        Proxy::L2,
        Proxy::Params,
        Proxy::Macs,
    ];

    /// The name in configs.
    pub fn name(self) -> &'static str {
        match self {
            Proxy::Synflow => "synflow",
            Proxy::Logsynflow => "logsynflow",
            Proxy::Naswot => "naswot",
            Proxy::Snip => "snip",
            Proxy::Grasp => "grasp",
            Proxy::Fisher => "fisher",
            Proxy::GradNorm => "grad_norm",
            Proxy::JacobCov => "jacob_cov",
            Proxy::Zen => "zen",
            Proxy::Zico => "zico",
            Proxy::AzExpressivity => "az_expressivity",
            Proxy::AzProgressivity => "az_progressivity",
            Proxy::L2 => "l2",
            Proxy::Params => "params",
            Proxy::Macs => "macs",
        }
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that names no proxy.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no zero-cost proxy; expected one of {known}", known = Proxy::ALL.map(Proxy::name).join(", "))]
pub struct UnknownProxy(String);

impl FromStr for Proxy {
    type Err = UnknownProxy;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = Self::ALL.into_iter().find(|proxy| proxy.name() == text);
        named.ok_or_else(|| UnknownProxy(text.to_string()))
    }
}

/// A network or batch that has no score.
#[derive(Debug, thiserror::Error)]
pub enum ZeroCostError {
    /// The score is infinite or not a number; a network that ignores its input is a common cause.
    #[error("{proxy} of this network is {value}, expected a finite number")]
    NotFinite {
        /// The proxy.
        proxy: Proxy,
        /// Its value.
        value: f64,
    },
    /// The network does not say where its blocks end.
    #[error("{proxy} looks at the outputs of blocks, and this network reports {found} of them; expected two or more")]
    Blocks {
        /// The proxy.
        proxy: Proxy,
        /// How many it reports.
        found: usize,
    },
    /// The batch does not fit the proxy.
    #[error("{proxy} needs {expected}, found {found}")]
    Batch {
        /// The proxy.
        proxy: Proxy,
        /// What it needs.
        expected: String,
        /// What was given.
        found: String,
    },
}

/// The proxy's value for `model` on float images `[B, C, H, W]` with labels `[B]` of kind int64. `naswot` and `jacob_cov`
/// need two images or more, `zico` four; `synflow`, `logsynflow`, `zen` and the two of AZ-NAS take only the size of the images, `l2`,
/// `params` and `macs` nothing.
pub fn score(proxy: Proxy, model: &dyn Model, images: &Tensor, labels: &Tensor) -> Result<f64, ZeroCostError> {
    check_images(proxy, images)?;
    let value = match proxy {
        Proxy::Synflow => synflow(model, images, |grad| grad),
        Proxy::Logsynflow => synflow(model, images, |grad| grad.log1p()),
        Proxy::Naswot => naswot(model, images),
        Proxy::Snip => snip(model, &Batch::new(proxy, images, labels)?)?,
        Proxy::Grasp => grasp(model, &Batch::new(proxy, images, labels)?)?,
        Proxy::Fisher => fisher(model, &Batch::new(proxy, images, labels)?)?,
        Proxy::GradNorm => grad_norm(model, &Batch::new(proxy, images, labels)?)?,
        Proxy::JacobCov => jacob_cov(model, images),
        Proxy::Zen => zen(model, images),
        Proxy::Zico => zico(model, images, labels)?,
        Proxy::AzExpressivity => entropies(&blocks(proxy, model, images)?).iter().sum(),
        Proxy::AzProgressivity => progressivity(&entropies(&blocks(proxy, model, images)?)),
        Proxy::L2 => weights(model).iter().map(norm).sum(),
        Proxy::Params => model.cost().params as f64,
        Proxy::Macs => model.cost().macs as f64,
    };
    if value.is_finite() { Ok(value) } else { Err(ZeroCostError::NotFinite { proxy, value }) }
}

fn check_images(proxy: Proxy, images: &Tensor) -> Result<(), ZeroCostError> {
    let least = match proxy {
        Proxy::L2 | Proxy::Params | Proxy::Macs => return Ok(()),
        Proxy::Naswot | Proxy::JacobCov => 2,
        // Two halves, each with statistics for its norms.
        Proxy::Zico => 4,
        _ => 1,
    };
    let size = images.size();
    match size.len() == 4 && size[0] >= least && size.iter().all(|&n| n > 0) && images.kind() == Kind::Float {
        true => Ok(()),
        false => Err(ZeroCostError::Batch {
            proxy,
            expected: format!("float images [B, C, H, W] with B of {least} or more"),
            found: format!("{size:?} of kind {:?}", images.kind()),
        }),
    }
}

/// Images with labels that were found to fit.
struct Batch<'a> {
    proxy: Proxy,
    images: &'a Tensor,
    labels: &'a Tensor,
}

impl<'a> Batch<'a> {
    fn new(proxy: Proxy, images: &'a Tensor, labels: &'a Tensor) -> Result<Self, ZeroCostError> {
        let batch = Self { proxy, images, labels };
        let expected = [images.size()[0]];
        match labels.size() == expected && labels.kind() == Kind::Int64 {
            true => Ok(batch),
            false => {
                let found = format!("{:?} of kind {:?}", labels.size(), labels.kind());
                Err(batch.refuse(format!("one int64 label for each of {} images", expected[0]), found))
            }
        }
    }

    /// Mean cross entropy of the logits.
    fn loss(&self, model: &dyn Model) -> Result<Tensor, ZeroCostError> {
        let logits = model.logits(self.images);
        let classes = logits.size()[1];
        let (low, high) = (self.labels.min().int64_value(&[]), self.labels.max().int64_value(&[]));
        if low < 0 || high >= classes {
            return Err(self.refuse(format!("labels in 0..{classes}"), format!("labels from {low} to {high}")));
        }
        Ok(logits.log_softmax(-1, Kind::Float).nll_loss(self.labels))
    }

    fn refuse(&self, expected: String, found: String) -> ZeroCostError {
        ZeroCostError::Batch { proxy: self.proxy, expected, found }
    }
}

/// Kernels and matrices.
fn weights(model: &dyn Model) -> Vec<Tensor> {
    model.parameters().into_iter().filter(|(_, tensor)| tensor.dim() > 1).map(|(_, tensor)| tensor).collect()
}

/// Gradients of the sum of `ys`; zeros for what it does not depend on.
fn grad(ys: &Tensor, inputs: &[Tensor], keep_graph: bool) -> Vec<Tensor> {
    let grads = Tensor::run_backward(&[ys], inputs, keep_graph, keep_graph);
    grads.into_iter().zip(inputs).map(|(grad, input)| if grad.defined() { grad } else { input.zeros_like() }).collect()
}

fn sum(xs: &Tensor) -> f64 {
    xs.sum(Kind::Double).double_value(&[])
}

/// Euclidean norm of all entries.
fn norm(xs: &Tensor) -> f64 {
    xs.detach().to_kind(Kind::Double).norm().double_value(&[])
}

/// Values of parameters for the time of a proxy; the network's own come back when this is dropped.
struct Swapped(Vec<(Tensor, Tensor)>);

impl Swapped {
    fn new(model: &dyn Model, value: impl Fn(&str, &Tensor) -> Tensor) -> Self {
        let swap = |(name, mut parameter): Named| {
            let own = parameter.detach();
            parameter.set_data(&value(&name, &own));
            (parameter, own)
        };
        Self(model.parameters().into_iter().map(swap).collect())
    }
}

impl Drop for Swapped {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(|(parameter, own)| parameter.set_data(own));
    }
}

/// `sum w map(dR/dw)`.
fn synflow(model: &dyn Model, images: &Tensor, map: fn(Tensor) -> Tensor) -> f64 {
    let _absolute = Swapped::new(model, |_, own| own.abs().to_kind(Kind::Double));
    let weights = weights(model);
    let ones = Tensor::ones([&[1], &images.size()[1..]].concat(), (Kind::Double, images.device()));
    let flow = probe::linear(|| model.logits(&ones)).sum(Kind::Double);
    let grads = grad(&flow, &weights, false);
    tch::no_grad(|| weights.iter().zip(grads).map(|(weight, grad)| sum(&(weight * map(grad)))).sum())
}

fn naswot(model: &dyn Model, images: &Tensor) -> f64 {
    let forward = || tch::no_grad(|| model.logits(images));
    let (_, kernels) = probe::record(Site::PreActivation, agreements, forward);
    let batch = images.size()[0];
    let zeros = Tensor::zeros([batch, batch], (Kind::Double, images.device()));
    kernels.into_iter().fold(zeros, |total, kernel| total + kernel).slogdet().1.double_value(&[])
}

/// `[B, B]` counts of the entries of `[B, ..]` that have the same sign in both rows.
fn agreements(xs: &Tensor) -> Tensor {
    let codes = xs.gt(0.0).flatten(1, -1);
    let entries = codes.size()[1];
    let exact = if entries < 1 << 24 { Kind::Float } else { Kind::Double };
    let codes: Tensor = codes.to_kind(exact) * 2.0 - 1.0;
    (codes.matmul(&codes.tr()).to_kind(Kind::Double) + entries as f64) / 2.0
}

fn snip(model: &dyn Model, batch: &Batch) -> Result<f64, ZeroCostError> {
    let weights = weights(model);
    let grads = grad(&probe::untouched(|| batch.loss(model))?, &weights, false);
    Ok(tch::no_grad(|| weights.iter().zip(grads).map(|(weight, grad)| sum(&(weight * grad).abs())).sum()))
}

fn grad_norm(model: &dyn Model, batch: &Batch) -> Result<f64, ZeroCostError> {
    let grads = grad(&probe::untouched(|| batch.loss(model))?, &weights(model), false);
    Ok(grads.iter().map(norm).sum())
}

fn grasp(model: &dyn Model, batch: &Batch) -> Result<f64, ZeroCostError> {
    let weights = weights(model);
    let grads = grad(&probe::untouched(|| batch.loss(model))?, &weights, true);
    let products = grads.iter().map(|grad| (grad * grad.detach()).sum(Kind::Float));
    let product: Tensor = products.sum();
    let hessian_grad = grad_or_zero(&product, &weights);
    Ok(tch::no_grad(|| weights.iter().zip(hessian_grad).map(|(weight, grad)| -sum(&(weight * grad))).sum()))
}

/// As [`grad`] for a `ys` that may depend on nothing.
fn grad_or_zero(ys: &Tensor, inputs: &[Tensor]) -> Vec<Tensor> {
    match ys.requires_grad() {
        true => grad(ys, inputs, false),
        false => inputs.iter().map(Tensor::zeros_like).collect(),
    }
}

fn fisher(model: &dyn Model, batch: &Batch) -> Result<f64, ZeroCostError> {
    let (loss, outputs) = probe::record(Site::Weighted, Tensor::shallow_clone, || batch.loss(model));
    let grads = grad(&loss?, &outputs, false);
    let information = |(output, grad): (&Tensor, Tensor)| {
        let products = (output * grad).reshape([output.size()[0], output.size()[1], -1]);
        let per_channel = products.sum_dim_intlist(2, false, Kind::Double).square().mean_dim(0, false, Kind::Double);
        0.5 * sum(&per_channel)
    };
    Ok(tch::no_grad(|| outputs.iter().zip(grads).map(information).sum()))
}

fn jacob_cov(model: &dyn Model, images: &Tensor) -> f64 {
    const K: f64 = 1e-5;
    let xs = images.detach().copy().set_requires_grad(true);
    let logits = probe::untouched(|| model.logits(&xs));
    let jacobian = grad(&logits.sum(Kind::Float), &[xs], false).remove(0);
    let eigenvalues = correlation(&jacobian.flatten(1, -1).to_kind(Kind::Double)).map(|c| c.linalg_eigvalsh("L"));
    eigenvalues.map_or(f64::NAN, |v| {
        let v = v + K;
        -sum(&(v.log() + v.reciprocal()))
    })
}

/// Correlation `[B, B]` of the rows of `[B, N]`; none if a row is constant.
fn correlation(rows: &Tensor) -> Option<Tensor> {
    let centred = rows - rows.mean_dim(1, true, Kind::Double);
    let length = centred.square().sum_dim_intlist(1, true, Kind::Double).sqrt();
    let (shortest, longest) = (length.min().double_value(&[]), length.max().double_value(&[]));
    if !(shortest > 0.0 && longest.is_finite()) {
        return None;
    }
    let unit = centred / length;
    Some(unit.matmul(&unit.tr()))
}

fn zen(model: &dyn Model, images: &Tensor) -> f64 {
    const STEP: f64 = 0.01;
    let normal = |name: &str, own: &Tensor| match own.dim() {
        0 | 1 if name.ends_with("weight") => own.ones_like(),
        0 | 1 => own.zeros_like(),
        _ => own.randn_like(),
    };
    tch::no_grad(|| {
        let _normal = Swapped::new(model, normal);
        let xs = images.randn_like();
        let (ys, stdevs) = probe::record(Site::PreNorm, log_stdev, || model.features(&xs));
        let moved = probe::untouched(|| model.features(&(&xs + images.randn_like() * STEP)));
        let change = sum(&(ys - moved).abs()) / images.size()[0] as f64;
        change.ln() + stdevs.iter().map(sum).sum::<f64>()
    })
}

fn zico(model: &dyn Model, images: &Tensor, labels: &Tensor) -> Result<f64, ZeroCostError> {
    // Labels first: they must be as many as the images before both are cut.
    Batch::new(Proxy::Zico, images, labels)?;
    let (weights, half) = (weights(model), images.size()[0] / 2);
    let gradients = |start: i64| -> Result<Vec<Tensor>, ZeroCostError> {
        let (images, labels) = (images.narrow(0, start, half), labels.narrow(0, start, half));
        let loss = probe::untouched(|| Batch::new(Proxy::Zico, &images, &labels)?.loss(model))?;
        Ok(grad(&loss, &weights, false).iter().map(|grad| grad.to_kind(Kind::Double)).collect())
    };
    let (first, second) = (gradients(0)?, gradients(half)?);
    // Of two values the mean of the absolute ones, over half their distance.
    let of_layer = |(a, b): (&Tensor, &Tensor)| {
        let deviation = (a - b).abs();
        let ratio = (a.abs() + b.abs()) / &deviation;
        let total = sum(&ratio.where_self(&deviation.gt(0.0), &ratio.zeros_like()));
        if total > 0.0 { total.ln() } else { 0.0 }
    };
    Ok(tch::no_grad(|| first.iter().zip(&second).map(of_layer).sum()))
}

/// Outputs `[B, C, H, W]` of the stem and of every block, on normal images of the size of `images` and Kaiming-normal weights.
fn blocks(proxy: Proxy, model: &dyn Model, images: &Tensor) -> Result<Vec<Tensor>, ZeroCostError> {
    let normal = |name: &str, own: &Tensor| match own.dim() {
        0 | 1 if name.ends_with("weight") => own.ones_like(),
        0 | 1 => own.zeros_like(),
        _ => own.randn_like() * (2.0 / (own.numel() as f64 / own.size()[0] as f64)).sqrt(),
    };
    let _normal = tch::no_grad(|| Swapped::new(model, normal));
    let xs = images.randn_like();
    let (_, blocks) = probe::record(Site::Block, Tensor::shallow_clone, || model.features(&xs));
    match blocks.len() {
        0 | 1 => Err(ZeroCostError::Blocks { proxy, found: blocks.len() }),
        _ => Ok(blocks),
    }
}

/// Entropy of the normalised eigenvalues of the covariance of the channels, of each map.
fn entropies(blocks: &[Tensor]) -> Vec<f64> {
    /// Keeps the logarithm of eigenvalues of zero.
    const SMALL: f64 = 1e-8;
    let entropy = |xs: &Tensor| {
        let rows = xs.permute([0, 2, 3, 1]).flatten(0, 2).to_kind(Kind::Double);
        let centred = &rows - rows.mean_dim(0, true, Kind::Double);
        let covariance = centred.tr().matmul(&centred) / rows.size()[0] as f64;
        let eigenvalues = covariance.linalg_eigvalsh("L");
        let parts = &eigenvalues / eigenvalues.sum(Kind::Double);
        -sum(&(&parts * (&parts + SMALL).log()))
    };
    tch::no_grad(|| blocks.iter().map(entropy).collect())
}

fn progressivity(entropies: &[f64]) -> f64 {
    let growths = entropies.windows(2).map(|pair| pair[1] - pair[0]);
    // NaN stays: a minimum would hide it.
    growths.reduce(|least, growth| if growth.is_nan() || growth < least { growth } else { least }).unwrap_or(f64::NAN)
}

/// Log of the root of the mean over channels of the variance of `[B, C, H, W]`; 0 for a constant, which a norm does not
/// scale (behind a `none`).
fn log_stdev(xs: &Tensor) -> Tensor {
    let variance = xs.to_kind(Kind::Double).var_dim([0i64, 2, 3].as_slice(), false, false).mean(Kind::Double);
    if variance.double_value(&[]) == 0.0 { variance } else { variance.log() * 0.5 }
}

#[cfg(test)]
mod tests {
    use tch::{Device, nn::VarStore};

    use super::*;
    use crate::nn::{
        Activation, BnConfig, Conv2d, ConvConfig, ConvNorm, Init, Mode, Module, Shape, VarBuilder, conv_bn,
    };
    use crate::optim::named_parameters;

    /// Convolution, norm, rectifier (of six, that a linear pass must not clip); 1x1 convolution; sum of the pixels; matrix.
    struct Net {
        vs: VarStore,
        first: ConvNorm,
        second: Conv2d,
        matrix: Tensor,
    }

    impl Net {
        fn new(seed: i64) -> Self {
            tch::manual_seed(seed);
            let vs = VarStore::new(Device::Cpu);
            let vb = VarBuilder::new(&vs);
            let conv = ConvConfig::default();
            let first = conv_bn(&vb.sub("first"), (2, 5), 3, conv, BnConfig::default(), Activation::Relu6);
            let second = Conv2d::new(&vb.sub("second"), 5, 4, 1, conv);
            let matrix = vb.weight("weight", &[3, 4], Init::Normal(1.0));
            Self { vs, first, second, matrix }
        }
    }

    impl Model for Net {
        fn logits(&self, xs: &Tensor) -> Tensor {
            self.features(xs).sum_dim_intlist([2i64, 3].as_slice(), false, None).linear(&self.matrix, None::<Tensor>)
        }

        fn features(&self, xs: &Tensor) -> Tensor {
            let mode = Mode::train(0.0);
            let first = self.first.forward(xs, mode);
            probe::report(Site::Block, &first);
            let second = self.second.forward(&first, mode);
            probe::report(Site::Block, &second);
            second
        }

        fn parameters(&self) -> Vec<Named> {
            named_parameters(&self.vs)
        }

        fn cost(&self) -> Cost {
            let mut cost = Cost { params: 12, macs: 12 };
            self.second.cost(self.first.cost(Shape::new(2, 6, 6), &mut cost), &mut cost);
            cost
        }
    }

    fn batch() -> (Tensor, Tensor) {
        // Not drawn: the tests of a process share libtorch's generator.
        let images = (Tensor::arange(4 * 2 * 6 * 6, (Kind::Double, Device::Cpu)) * 12.9898).sin() * 43.7;
        let images = (&images - images.floor() - 0.5) * 3.4;
        (images.to_kind(Kind::Float).view([4, 2, 6, 6]), Tensor::from_slice(&[0i64, 2, 1, 2]))
    }

    fn value(proxy: Proxy, net: &Net) -> f64 {
        let (images, labels) = batch();
        score(proxy, net, &images, &labels).unwrap()
    }

    fn scaled(net: &Net, name: &str, factor: f64) {
        tch::no_grad(|| _ = net.vs.variables()[name].shallow_clone().g_mul_scalar_(factor));
    }

    #[test]
    fn names_are_those_of_serde_and_unknown_ones_are_listed() {
        for proxy in Proxy::ALL {
            assert_eq!(serde_json::to_value(proxy).unwrap(), proxy.to_string());
            assert_eq!(proxy.to_string().parse::<Proxy>().unwrap(), proxy);
        }
        let message = "zicc".parse::<Proxy>().unwrap_err().to_string();
        assert!(
            message.starts_with("\"zicc\" is no zero-cost proxy; expected one of synflow, logsynflow, naswot, snip")
        );
    }

    #[test]
    fn synflow_is_the_flow_times_the_layers_and_stays_finite_where_floats_overflow() {
        let net = Net::new(1);
        let flow = {
            let names = ["first.conv.weight", "second.weight", "weight"];
            let [w1, w2, w3] = names.map(|name| net.vs.variables()[name].abs().to_kind(Kind::Double));
            let ones = Tensor::ones([1, 2, 6, 6], (Kind::Double, Device::Cpu));
            let conv = |xs: &Tensor, w: &Tensor, pad| xs.conv2d(w, None::<&Tensor>, [1, 1], [pad, pad], [1, 1], 1);
            let pooled = conv(&conv(&ones, &w1, 1), &w2, 0).sum_dim_intlist([2i64, 3].as_slice(), false, None);
            sum(&pooled.matmul(&w3.tr()))
        };
        let found = value(Proxy::Synflow, &net);
        assert!((found / (3.0 * flow) - 1.0).abs() < 1e-9, "{found}, three times {flow}");
        for name in ["first.conv.weight", "second.weight", "weight"] {
            scaled(&net, name, 1e30);
        }
        let large = value(Proxy::Synflow, &net);
        assert!((large / (found * 1e90) - 1.0).abs() < 1e-6, "{large}");
    }

    /// Weights before a norm have a loss that their scale does not change: `w dL/dw` sums to zero, but its absolute values
    /// do not, and do not change with the scale.
    #[test]
    fn snip_does_not_see_the_scale_of_normed_weights_but_the_norm_of_gradients_does() {
        let net = Net::new(2);
        let before = [Proxy::Snip, Proxy::GradNorm].map(|proxy| value(proxy, &net));
        scaled(&net, "first.conv.weight", 4.0);
        let after = [Proxy::Snip, Proxy::GradNorm].map(|proxy| value(proxy, &net));
        assert!((before[0] / after[0] - 1.0).abs() < 1e-3, "{before:?} {after:?}");
        assert!(after[1] < before[1] * 0.99, "{before:?} {after:?}");
    }

    #[test]
    fn naswot_is_the_determinant_of_the_agreements() {
        let codes = Tensor::from_slice(&[1.0f32, -1.0, 2.0, 0.0, 1.0, 3.0, 2.0, -5.0]).reshape([2, 2, 2, 1]);
        let kernel: Vec<f64> = agreements(&codes).flatten(0, 1).try_into().unwrap();
        assert_eq!(kernel, [4.0, 3.0, 3.0, 4.0]);
    }

    #[test]
    fn grasp_is_the_change_of_the_gradient_along_itself() {
        let net = Net::new(3);
        let (images, labels) = batch();
        let weights = weights(&net);
        let gradients = || {
            let batch = Batch::new(Proxy::Grasp, &images, &labels).unwrap();
            grad(&probe::untouched(|| batch.loss(&net)).unwrap(), &weights, false)
        };
        let here = gradients();
        let moved = |step: f64| {
            tch::no_grad(|| weights.iter().zip(&here).for_each(|(w, g)| _ = w.shallow_clone().g_add_(&(g * step))));
            let grads = gradients();
            tch::no_grad(|| weights.iter().zip(&here).for_each(|(w, g)| _ = w.shallow_clone().g_sub_(&(g * step))));
            weights.iter().zip(grads).map(|(w, g)| sum(&(w * g))).sum::<f64>()
        };
        const STEP: f64 = 1e-3;
        let expected = -(moved(STEP) - moved(-STEP)) / (2.0 * STEP);
        let found = value(Proxy::Grasp, &net);
        assert!((found / expected - 1.0).abs() < 0.02, "{found}, {expected} by differences");
    }

    #[test]
    fn counts_and_norms_are_of_the_weights() {
        let net = Net::new(4);
        assert_eq!(value(Proxy::Params, &net), (2 * 5 * 9 + 10 + 20 + 12) as f64);
        assert_eq!(value(Proxy::Macs, &net), (36 * (2 * 5 * 9 + 20) + 12) as f64);
        let norms = weights(&net).iter().map(|w| sum(&w.square()).sqrt()).sum::<f64>();
        assert!((value(Proxy::L2, &net) / norms - 1.0).abs() < 1e-6);
    }

    #[test]
    fn no_proxy_changes_the_network_or_a_later_score() {
        let net = Net::new(5);
        let state = || net.vs.variables().into_iter().map(|(name, t)| (name, t.copy())).collect::<Vec<_>>();
        let (before, copies): (Vec<_>, _) = (state(), net.vs.variables());
        for proxy in Proxy::ALL {
            let [first, second] = [(); 2].map(|()| value(proxy, &net));
            // These draw weights and images from the generator that all tests share.
            let draws = proxy == Proxy::Zen || proxy.name().starts_with("az_");
            assert!(first == second || draws, "{proxy}: {first}, then {second}");
            for (name, value) in &before {
                assert_eq!(copies[name], *value, "{proxy} changed {name}");
                assert_eq!(copies[name].kind(), Kind::Float);
            }
        }
    }

    #[test]
    fn batches_that_do_not_fit_are_refused() {
        let net = Net::new(6);
        let (images, labels) = batch();
        let refusal = |proxy, images: &Tensor, labels: &Tensor| match score(proxy, &net, images, labels) {
            Err(error @ ZeroCostError::Batch { .. }) => error.to_string(),
            other => panic!("{proxy}: {other:?}"),
        };
        assert_eq!(
            refusal(Proxy::Snip, &images, &labels.narrow(0, 0, 3)),
            "snip needs one int64 label for each of 4 images, found [3] of kind Int64"
        );
        assert_eq!(
            refusal(Proxy::Grasp, &images, &(&labels + 1)),
            "grasp needs labels in 0..3, found labels from 1 to 3"
        );
        assert_eq!(
            refusal(Proxy::Naswot, &images.narrow(0, 0, 1), &labels),
            "naswot needs float images [B, C, H, W] with B of 2 or more, found [1, 2, 6, 6] of kind Float"
        );
        refusal(Proxy::Synflow, &images.to_kind(Kind::Double), &labels);
        refusal(Proxy::Fisher, &images.select(0, 0), &labels);
    }

    #[test]
    fn a_score_that_is_no_number_is_an_error() {
        let net = Net::new(7);
        let (images, labels) = batch();
        let same = images.narrow(0, 0, 1).expand([4, 2, 6, 6], false);
        let error = score(Proxy::Naswot, &net, &same, &labels).unwrap_err();
        assert_eq!(error.to_string(), "naswot of this network is -inf, expected a finite number");
        scaled(&net, "weight", f64::NAN);
        assert!(matches!(score(Proxy::Snip, &net, &images, &labels), Err(ZeroCostError::NotFinite { .. })));
    }
}
