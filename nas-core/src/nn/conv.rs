//! Convolution, and what follows a norm.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use super::layers::{self, Layer};
use super::{Cost, Init, Mode, Module, Shape, VarBuilder, probe, probe::Site, torch};

/// Geometry of a [`Conv2d`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConvConfig {
    /// Step of the kernel, in pixels.
    pub stride: i64,
    /// Distance between the kernel's taps (atrous rate).
    pub dilation: i64,
    /// Channel groups; `c_in` of them make a depthwise convolution.
    pub groups: i64,
    /// Learns a shift per output channel.
    pub bias: bool,
    /// Initial weights.
    pub init: Init,
}

impl Default for ConvConfig {
    fn default() -> Self {
        Self { stride: 1, dilation: 1, groups: 1, bias: false, init: Init::FanIn }
    }
}

/// A convolution padded by `dilation * (ksize - 1) / 2`: an input of `n` pixels gives `ceil(n / stride)`.
#[derive(Debug)]
pub struct Conv2d {
    c_in: i64,
    c_out: i64,
    /// Height and width.
    ksize: [i64; 2],
    stride: [i64; 2],
    dilation: i64,
    groups: i64,
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Conv2d {
    /// A square convolution with an odd `ksize`.
    pub fn new(vb: &VarBuilder, c_in: i64, c_out: i64, ksize: i64, config: ConvConfig) -> Self {
        Self::with_sides(vb, (c_in, c_out), [ksize; 2], [config.stride; 2], config)
    }

    /// A dense convolution whose `ksize` and `stride` are odd heights and widths of their own.
    pub fn rectangular(vb: &VarBuilder, channels: (i64, i64), ksize: [i64; 2], stride: [i64; 2]) -> Self {
        Self::with_sides(vb, channels, ksize, stride, ConvConfig::default())
    }

    pub(super) fn with_sides(
        vb: &VarBuilder,
        (c_in, c_out): (i64, i64),
        ksize: [i64; 2],
        stride: [i64; 2],
        config: ConvConfig,
    ) -> Self {
        let odd = ksize.iter().all(|side| side % 2 == 1);
        assert!(odd && c_in % config.groups == 0, "odd kernel, groups that divide the input channels");
        let weight = vb.weight("weight", &[c_out, c_in / config.groups, ksize[0], ksize[1]], config.init);
        let bias = config.bias.then(|| vb.weight("bias", &[c_out], Init::Const(0.0)));
        let ConvConfig { dilation, groups, .. } = config;
        Self { c_in, c_out, ksize, stride, dilation, groups, weight, bias }
    }

    /// A depthwise convolution: one kernel per channel.
    pub fn depthwise(vb: &VarBuilder, c: i64, ksize: i64, config: ConvConfig) -> Self {
        Self::new(vb, c, c, ksize, ConvConfig { groups: c, ..config })
    }
}

impl Conv2d {
    /// Whether oneDNN's gradient of the weights writes behind its buffers: `jit_avx2_1x1_convolution_bwd_weights` does for kernels
    /// of one pixel with a stride and fewer input channels than a vector has places, in torch 2.11 to 2.13.
    fn is_spoilt_by_onednn(&self, xs: &Tensor, mode: Mode) -> bool {
        const PLACES: i64 = 8;
        let [down, right] = self.stride;
        let is_narrow = self.ksize == [1, 1] && down.max(right) > 1 && self.c_in / self.groups < PLACES;
        is_narrow && mode.train && xs.device() == Device::Cpu
    }

    /// The convolution to `len` output channels from `start` on, with the same weights. Of a depthwise one, these are its input
    /// channels too.
    pub fn outputs(&self, start: i64, len: i64) -> Self {
        let depthwise = self.groups == self.c_in && self.c_in == self.c_out;
        assert!(depthwise || self.groups == 1, "part of a convolution with {} groups", self.groups);
        let (c_in, groups) = if depthwise { (len, len) } else { (self.c_in, 1) };
        let part = |tensor: &Tensor| tensor.narrow(0, start, len);
        Self { c_in, c_out: len, groups, weight: part(&self.weight), bias: self.bias.as_ref().map(part), ..*self }
    }

    /// Its weights `[c_out, c_in / groups, height, width]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The depthwise convolution of `times` maps that lie side by side in the channels, each by the same weights.
    pub fn side_by_side(&self, times: i64) -> Self {
        assert!(self.groups == self.c_in, "maps side by side are convolved depthwise");
        let many = |tensor: &Tensor| {
            let ones = vec![1; tensor.dim() - 1];
            if times == 1 { tensor.shallow_clone() } else { tensor.repeat([vec![times], ones].concat()) }
        };
        let [c_in, c_out, groups] = [self.c_in, self.c_out, self.groups].map(|count| count * times);
        Self { c_in, c_out, groups, weight: many(&self.weight), bias: self.bias.as_ref().map(many), ..*self }
    }

    /// The convolution, of stride 1, of each of several maps whose pixels take turns in the rows of `xs` `[B, C, H, W * sources]`:
    /// taps that lie `sources` times as far apart meet one source only.
    pub fn forward_in_turns(&self, xs: &Tensor, sources: i64) -> Tensor {
        assert!(self.stride == [1, 1], "of maps in turns no pixel is left out");
        let far = |side: i64| self.dilation * (side - 1) / 2;
        let (padding, dilation) =
            ([far(self.ksize[0]), far(self.ksize[1]) * sources], [self.dilation, self.dilation * sources]);
        let plain = self.groups == 1 && self.bias.is_none();
        let ys = plain.then(|| torch::conv(xs, &self.weight, padding, dilation)).flatten();
        let conv = || xs.conv2d(&self.weight, self.bias.as_ref(), [1, 1], padding, dilation, self.groups);
        let ys = ys.unwrap_or_else(conv);
        probe::report(Site::Weighted, &ys);
        ys
    }

    fn convolve(&self, xs: &Tensor, stride: [i64; 2], dilation: i64, mode: Mode) -> Tensor {
        let (_, c, h, w) = xs.size4().expect("a feature map has four dimensions");
        let is_depthwise = self.groups == c && self.c_out == c;
        // libtorch's CPU library has no fast gradient of a dilated depthwise convolution.
        let by_grids = mode.train && is_depthwise && stride == [1, 1] && dilation > 1 && xs.device() == Device::Cpu;
        if by_grids && h % dilation == 0 && w % dilation == 0 {
            return self.convolve_grids(xs, dilation);
        }
        let padding = self.ksize.map(|side| dilation * (side - 1) / 2);
        xs.conv2d(&self.weight, self.bias.as_ref(), stride, padding, [dilation; 2], self.groups)
    }

    /// A depthwise convolution of rate `d` as one of rate 1 on each of the `d * d` grids of pixels that do not see each
    /// other. Grids go to the batch by rows and to the channels by columns: of channels-last memory the latter is a view.
    fn convolve_grids(&self, xs: &Tensor, d: i64) -> Tensor {
        let (b, c, h, w) = xs.size4().expect("a feature map has four dimensions");
        let (rows, columns) = (h / d, w / d);
        let by_grid = xs.permute([0, 2, 3, 1]).reshape([b, rows, d, columns, d * c]).permute([2, 0, 1, 3, 4]);
        let grids = by_grid.reshape([d * b, rows, columns, d * c]).permute([0, 3, 1, 2]);
        let (weight, bias) = (self.weight.repeat([d, 1, 1, 1]), self.bias.as_ref().map(|bias| bias.repeat([d])));
        let padding = self.ksize.map(|side| (side - 1) / 2);
        let ys = grids.conv2d(&weight, bias, [1, 1], padding, [1, 1], d * c).permute([0, 2, 3, 1]);
        let by_row = ys.reshape([d, b, rows, columns, d * c]).permute([1, 2, 0, 3, 4]);
        by_row.reshape([b, h, w, c]).permute([0, 3, 1, 2])
    }
}

impl Module for Conv2d {
    fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        let Self { stride: [down, right], dilation, .. } = *self;
        // No tap meets a pixel between those that the stride keeps.
        let skips = down == right && down > 1 && dilation % down == 0;
        let ys = match skips || self.is_spoilt_by_onednn(xs, mode) {
            true => {
                let kept = xs.slice(2, None, None, down).slice(3, None, None, right);
                self.convolve(&kept, [1, 1], if skips { dilation / down } else { dilation }, mode)
            }
            false => self.convolve(xs, self.stride, dilation, mode),
        };
        probe::report(Site::Weighted, &ys);
        ys
    }

    fn cost(&self, xs: Shape, cost: &mut Cost) -> Shape {
        assert_eq!(xs.c, self.c_in, "channels of the input of a convolution");
        let out = |n: i64, stride: i64| (n - 1) / stride + 1;
        let ys = Shape::new(self.c_out, out(xs.h, self.stride[0]), out(xs.w, self.stride[1]));
        let weights = (self.c_out * self.c_in / self.groups * self.ksize[0] * self.ksize[1]) as u64;
        cost.params += weights + if self.bias.is_some() { self.c_out as u64 } else { 0 };
        cost.macs += weights * (ys.h * ys.w) as u64;
        let Self { ksize, stride, dilation, groups, .. } = *self;
        let channels = (self.c_in, self.c_out);
        layers::note(|| Layer::Conv { channels, ksize, stride, dilation, groups, size: xs.size() });
        ys
    }
}

/// The 1x1 convolution of `xs` `[B, groups * I, H, W]` by `weight` `[groups * O, I, 1, 1]`.
pub fn pointwise(xs: &Tensor, weight: &Tensor, groups: i64) -> Tensor {
    let conv = || xs.conv2d(weight, None::<&Tensor>, [1, 1], [0, 0], [1, 1], groups);
    torch::grouped(xs, weight, groups).unwrap_or_else(conv)
}

/// What follows a norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// Nothing.
    Identity,
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, 0), 6)`.
    Relu6,
    /// `x min(max(x + 3, 0), 6) / 6` (Howard et al. 2019).
    Hswish,
}

impl Activation {
    /// Applies the activation to a tensor of any shape, in place: the tensor must not be needed before activation.
    pub fn apply_(self, mut xs: Tensor) -> Tensor {
        match self {
            Activation::Identity => xs,
            Activation::Relu if probe::is_off() => xs.relu_(),
            Activation::Relu6 if probe::is_off() => xs.relu6_(),
            Activation::Hswish if probe::is_off() => xs.hardswish_(),
            Activation::Relu => relu(&xs),
            Activation::Relu6 | Activation::Hswish if probe::is_linear() => xs,
            Activation::Hswish => {
                probe::report(Site::PreActivation, &xs);
                xs.hardswish()
            }
            Activation::Relu6 => {
                probe::report(Site::PreActivation, &xs);
                xs.relu6()
            }
        }
    }
}

/// `max(x, 0)` of a tensor of any shape, open to probes.
pub fn relu(xs: &Tensor) -> Tensor {
    if probe::is_linear() {
        return xs.shallow_clone();
    }
    probe::report(Site::PreActivation, xs);
    xs.relu()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind, nn::VarStore};

    /// Outputs and both gradients against libtorch's own dilated convolution, on sides with and without whole grids.
    #[test]
    fn a_dilated_depthwise_convolution_is_libtorchs_however_it_is_computed() {
        tch::manual_seed(0);
        for (ksize, dilation, stride, (h, w)) in [
            (3, 2, 1, (8, 6)),
            (5, 2, 1, (6, 8)),
            (3, 3, 1, (9, 6)),
            (5, 2, 1, (7, 8)),
            (5, 2, 2, (7, 8)),
            (3, 4, 2, (9, 8)),
        ] {
            let case = format!("{ksize} {dilation} {stride} {h}x{w}");
            let vs = VarStore::new(Device::Cpu);
            let config = ConvConfig { stride, dilation, bias: true, ..Default::default() };
            let conv = Conv2d::depthwise(&VarBuilder::new(&vs), 3, ksize, config);
            let bias = conv.bias.as_ref().expect("asked for");
            let xs = Tensor::randn([2, 3, h, w], (Kind::Float, Device::Cpu)).set_requires_grad(true);
            let padding = dilation * (ksize - 1) / 2;
            let expected = xs.conv2d(&conv.weight, Some(bias), [stride; 2], [padding; 2], [dilation; 2], 3);
            let found = conv.forward(&xs, Mode::train(0.0));
            assert!(found.allclose(&expected, 1e-5, 1e-5, false), "{case}");
            let direction = expected.rand_like();
            let grads = |ys: &Tensor| {
                let loss = (ys * &direction).sum(Kind::Float);
                Tensor::run_backward(&[loss], &[&xs, &conv.weight, bias], false, false)
            };
            for (found, expected) in grads(&found).iter().zip(grads(&expected)) {
                assert!(found.allclose(&expected, 1e-4, 1e-4, false), "gradients of {case}");
            }
        }
    }

    #[test]
    fn maps_side_by_side_and_in_turns_do_not_see_each_other() {
        tch::manual_seed(1);
        let maps: Vec<Tensor> = (0..3).map(|_| Tensor::randn([2, 4, 7, 5], (Kind::Float, Device::Cpu))).collect();
        for dilation in [1, 2] {
            let vs = VarStore::new(Device::Cpu);
            let config = ConvConfig { dilation, bias: true, ..Default::default() };
            let dense = Conv2d::new(&VarBuilder::new(&vs).sub("dense"), 4, 6, 3, config);
            let turns = Tensor::stack(&maps, 4).flatten(3, 4);
            let found = dense.forward_in_turns(&turns, 3).view([2, 6, 7, 5, 3]).unbind(4);
            let depthwise = Conv2d::depthwise(&VarBuilder::new(&vs).sub("depthwise"), 4, 3, config);
            let beside = depthwise.side_by_side(3).forward(&Tensor::cat(&maps, 1), Mode::EVAL).chunk(3, 1);
            for (i, map) in maps.iter().enumerate() {
                assert!(found[i].allclose(&dense.forward(map, Mode::EVAL), 1e-5, 1e-5, false));
                assert!(beside[i].allclose(&depthwise.forward(map, Mode::EVAL), 1e-5, 1e-5, false));
            }
        }
    }

    /// The sizes at which oneDNN spoils the heap, in the memory in which it does, against sums in double precision.
    #[test]
    fn narrow_strided_convolutions_of_one_pixel_have_the_gradients_of_their_sums() {
        tch::manual_seed(0);
        let kind = |tensor: &Tensor| tensor.detach().to_kind(Kind::Double);
        for (c_in, c_out, side) in [(4, 2, 16), (2, 1, 16), (4, 4, 16), (6, 3, 15), (1, 5, 9), (8, 4, 16), (7, 16, 12)]
        {
            let vs = VarStore::new(Device::Cpu);
            let conv =
                Conv2d::new(&VarBuilder::new(&vs), c_in, c_out, 1, ConvConfig { stride: 2, ..Default::default() });
            for _ in 0..20 {
                let xs = Tensor::randn([8, side, side, c_in], (Kind::Float, Device::Cpu)).permute([0, 3, 1, 2]);
                let xs = xs.set_requires_grad(true);
                let ys = conv.forward(&xs, Mode::train(0.0));
                let direction = ys.rand_like();
                let loss = (&ys * &direction).sum(Kind::Float);
                let found = Tensor::run_backward(&[loss], &[&xs, &conv.weight], false, false);
                let kept = kind(&xs).slice(2, None, None, 2).slice(3, None, None, 2);
                let of_weight = Tensor::einsum("bohw,bihw->oi", &[kind(&direction), kept], None::<i64>);
                let of_input = Tensor::zeros_like(&kind(&xs));
                let each = Tensor::einsum(
                    "bohw,oi->bihw",
                    &[kind(&direction), kind(&conv.weight).flatten(1, -1)],
                    None::<i64>,
                );
                of_input.slice(2, None, None, 2).slice(3, None, None, 2).copy_(&each);
                assert!(kind(&found[0]).allclose(&of_input, 1e-5, 1e-5, false), "input of {c_in} {c_out} {side}");
                assert!(
                    kind(&found[1]).flatten(1, -1).allclose(&of_weight, 1e-4, 1e-4, false),
                    "weight of {c_in} {c_out} {side}"
                );
            }
        }
    }

    /// Maps of all widths that taps miss, partly or wholly, and their gradients' gradients, against double precision.
    #[test]
    fn a_convolution_of_few_pixels_by_many_weights_is_libtorchs() {
        for (shape, ksize, sources) in
            [([1, 5, 3, 6], 5, 2), ([2, 8, 2, 3], 3, 1), ([1, 3, 1, 4], 5, 1), ([1, 4, 7, 3], 3, 3)]
        {
            for twice in [false, true] {
                let passed = |kind: Kind| {
                    tch::manual_seed(2);
                    let config = ConvConfig { dilation: 2, ..Default::default() };
                    let build = |vb: &VarBuilder| Conv2d::new(vb, shape[1], 40, ksize, config);
                    let (mut vs, conv) = crate::nn::build_on(Device::Cpu, build);
                    vs.set_kind(kind);
                    let random = |dims: &[i64]| Tensor::randn(dims, (Kind::Float, Device::Cpu)).to_kind(kind);
                    let xs = crate::nn::channels_last(&random(&shape)).set_requires_grad(true);
                    let own = torch::conv(&xs, &conv.weight, [ksize - 1, (ksize - 1) * sources], [2, 2 * sources]);
                    assert_eq!(own.is_some(), kind == Kind::Float, "{shape:?}");
                    let ys = conv.forward_in_turns(&xs, sources);
                    let inputs = [&xs, &conv.weight];
                    let loss = (&ys * random(&ys.size())).square().sum(None::<Kind>);
                    let mut found = Tensor::run_backward(&[loss], &inputs, twice, twice);
                    if twice {
                        let norm: Tensor = found.iter().map(|grad| grad.square().sum(None::<Kind>)).sum();
                        found = Tensor::run_backward(&[norm], &inputs, false, false);
                    }
                    found.push(ys.detach());
                    found
                };
                for (i, (found, expected)) in passed(Kind::Float).iter().zip(passed(Kind::Double)).enumerate() {
                    let error = (found.to_kind(Kind::Double) - &expected).norm().double_value(&[]);
                    let error = error / expected.norm().double_value(&[]);
                    assert!(error < 1e-5, "{shape:?}, derived twice: {twice}, {i}: off by {error:.1e}");
                }
            }
        }
    }

    #[test]
    fn a_pointwise_convolution_in_groups_is_libtorchs() {
        let threads = tch::get_num_threads();
        for (groups, from, to, size) in
            [(3, 8, 16, [2, 5, 3]), (2, 24, 8, [1, 1, 1]), (4, 16, 40, [3, 31, 9]), (1, 64, 64, [2, 20, 21])]
        {
            for twice in [false, true] {
                let passed = |kind: Kind| {
                    tch::manual_seed(7);
                    let random = |dims: &[i64]| Tensor::randn(dims, (Kind::Float, Device::Cpu)).to_kind(kind);
                    let [b, h, w] = size;
                    let xs = crate::nn::channels_last(&random(&[b, groups * from, h, w])).set_requires_grad(true);
                    let weight = random(&[groups * to, from, 1, 1]).set_requires_grad(true);
                    assert_eq!(torch::grouped(&xs, &weight, groups).is_some(), kind == Kind::Float);
                    let ys = pointwise(&xs, &weight, groups);
                    let loss = (&ys * random(&ys.size())).square().sum(None::<Kind>);
                    let mut found = Tensor::run_backward(&[loss], &[&xs, &weight], twice, twice);
                    if twice {
                        let norm: Tensor = found.iter().map(|grad| grad.square().sum(None::<Kind>)).sum();
                        found = Tensor::run_backward(&[norm], &[&xs, &weight], false, false);
                    }
                    found.push(ys.detach());
                    found
                };
                let [found, alone, expected] =
                    [(Kind::Float, 2), (Kind::Float, 1), (Kind::Double, 2)].map(|(kind, threads)| {
                        tch::set_num_threads(threads);
                        passed(kind)
                    });
                tch::set_num_threads(threads);
                for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                    let error = (found.to_kind(Kind::Double) - expected).norm().double_value(&[]);
                    let error = error / expected.norm().double_value(&[]);
                    assert!(error < 1e-5, "{groups} groups, derived twice: {twice}, {i}: off by {error:.1e}");
                    // What is derived twice is libtorch's, whose sums hang on the number of threads.
                    assert!(twice || found == &alone[i], "{groups} groups, {i}: threads");
                }
            }
        }
    }
}
