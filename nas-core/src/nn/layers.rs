//! The layers of a network that take time, noted while its cost is counted: what a table of measured layers is made of.

use std::cell::RefCell;
use std::fmt;
use std::str::FromStr;

use tch::{Device, Kind, Tensor};

use super::{BatchNorm, BnConfig, Conv2d, ConvConfig, Init, Linear, Mode, Module, VarBuilder};

/// Geometry of a layer on one image, written as `conv 48>96 3x3 s2x2 d1 g48 90x120`, `norm 96 45x60` or `linear 1280>10`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Layer {
    /// A convolution.
    Conv {
        /// Channels in and out.
        channels: (i64, i64),
        /// Height and width of the kernel.
        ksize: [i64; 2],
        /// Steps down and to the right.
        stride: [i64; 2],
        /// Distance between the kernel's taps.
        dilation: i64,
        /// Channel groups.
        groups: i64,
        /// Height and width of the input.
        size: (i64, i64),
    },
    /// A batch norm.
    Norm {
        /// Channels.
        channels: i64,
        /// Height and width.
        size: (i64, i64),
    },
    /// A linear layer.
    Linear {
        /// Numbers in and out.
        channels: (i64, i64),
    },
}

thread_local! {
    static NOTED: RefCell<Option<Vec<Layer>>> = const { RefCell::new(None) };
}

/// The result of `count`, which counts costs, and the layers that it met.
pub fn noted<T>(count: impl FnOnce() -> T) -> (T, Vec<Layer>) {
    /// Puts back what was noted before, after a panic too.
    struct Restore(Option<Vec<Layer>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            NOTED.set(self.0.take());
        }
    }
    let _restore = Restore(NOTED.replace(Some(Vec::new())));
    let result = count();
    (result, NOTED.take().unwrap_or_default())
}

/// What layers say of themselves as they are counted.
pub(super) fn note(layer: impl FnOnce() -> Layer) {
    NOTED.with_borrow_mut(|noted| {
        if let Some(noted) = noted {
            noted.push(layer());
        }
    });
}

impl Layer {
    /// Multiply-adds; of a norm its numbers.
    pub fn work(&self) -> f64 {
        let count = match *self {
            Self::Conv {
                channels: (c_in, c_out),
                ksize: [kh, kw],
                stride: [down, right],
                groups,
                size: (h, w),
                ..
            } => (c_in / groups) * c_out * kh * kw * h.div_euclid(down).max(1) * w.div_euclid(right).max(1),
            Self::Norm { channels, size: (h, w) } => channels * h * w,
            Self::Linear { channels: (c_in, c_out) } => c_in * c_out,
        };
        count as f64
    }

    /// How far apart two layers are that differ in channels and size alone; none for layers of other kinds.
    pub fn distance(&self, other: &Self) -> Option<f64> {
        let depthwise = |(c_in, c_out): (i64, i64), groups: i64| groups > 1 && groups == c_in && groups == c_out;
        let sides: Vec<(i64, i64)> = match (*self, *other) {
            (
                Self::Conv { channels: a, ksize, stride, dilation, groups, size },
                Self::Conv { channels: b, ksize: k, stride: s, dilation: d, groups: g, size: z },
            ) => {
                let alike = depthwise(a, groups) && depthwise(b, g) || groups == g;
                ((ksize, stride, dilation) == (k, s, d) && alike)
                    .then(|| vec![(a.0, b.0), (a.1, b.1), (size.0 * size.1, z.0 * z.1)])?
            }
            (Self::Norm { channels: a, size }, Self::Norm { channels: b, size: z }) => {
                vec![(a, b), (size.0 * size.1, z.0 * z.1)]
            }
            (Self::Linear { channels: a }, Self::Linear { channels: b }) => vec![(a.0, b.0), (a.1, b.1)],
            _ => return None,
        };
        Some(sides.into_iter().map(|(a, b)| (a as f64 / b as f64).ln().powi(2)).sum())
    }

    /// A random input `[1, C, H, W]` or `[1, C]`.
    pub fn input(&self) -> Tensor {
        let dims = match *self {
            Self::Conv { channels: (c, _), size: (h, w), .. } | Self::Norm { channels: c, size: (h, w) } => {
                vec![1, c, h, w]
            }
            Self::Linear { channels: (c, _) } => vec![1, c],
        };
        Tensor::randn(dims, (Kind::Float, Device::Cpu))
    }

    /// The layer, its weights under `vb`.
    pub fn build(&self, vb: &VarBuilder) -> Box<dyn Fn(&Tensor) -> Tensor> {
        match *self {
            Self::Conv { channels, ksize, stride, dilation, groups, .. } => {
                let config = ConvConfig { dilation, groups, init: Init::FanIn, ..Default::default() };
                let conv = Conv2d::with_sides(vb, channels, ksize, stride, config);
                Box::new(move |xs| conv.forward(xs, Mode::EVAL))
            }
            Self::Norm { channels, .. } => {
                let norm = BatchNorm::new(vb, channels, BnConfig::default());
                Box::new(move |xs| norm.forward(xs, Mode::EVAL))
            }
            Self::Linear { channels: (c_in, c_out) } => {
                let linear = Linear::new(vb, c_in, c_out);
                Box::new(move |xs| linear.forward(xs))
            }
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match *self {
            Self::Conv { channels: (i, o), ksize: [kh, kw], stride: [sh, sw], dilation, groups, size: (h, w) } => {
                write!(f, "conv {i}>{o} {kh}x{kw} s{sh}x{sw} d{dilation} g{groups} {h}x{w}")
            }
            Self::Norm { channels, size: (h, w) } => write!(f, "norm {channels} {h}x{w}"),
            Self::Linear { channels: (i, o) } => write!(f, "linear {i}>{o}"),
        }
    }
}

/// No layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidLayer(String);

impl fmt::Display for InvalidLayer {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(
            f,
            "{:?} is no layer; expected such as \"conv 48>96 3x3 s2x2 d1 g48 90x120\", \"norm 96 45x60\" or \"linear 1280>10\"",
            self.0
        )
    }
}

impl std::error::Error for InvalidLayer {}

impl FromStr for Layer {
    type Err = InvalidLayer;

    fn from_str(text: &str) -> Result<Self, InvalidLayer> {
        let one = |word: &str| word.parse().ok().filter(|n| (1..1 << 20).contains(n));
        let two = |word: &str, between: char| {
            let (a, b) = word.split_once(between)?;
            Some((one(a)?, one(b)?))
        };
        let sides = |word: &str| two(word, 'x').map(|(a, b)| [a, b]);
        let read = || -> Option<Self> {
            let words: Vec<&str> = text.split_whitespace().collect();
            Some(match words[..] {
                ["conv", channels, ksize, stride, dilation, groups, size] => {
                    let (channels, groups) = (two(channels, '>')?, one(groups.strip_prefix('g')?)?);
                    let ksize = sides(ksize).filter(|sides| sides.iter().all(|side| side % 2 == 1))?;
                    (channels.0 % groups == 0 && channels.1 % groups == 0).then_some(())?;
                    let (stride, dilation) = (sides(stride.strip_prefix('s')?)?, one(dilation.strip_prefix('d')?)?);
                    Self::Conv { channels, ksize, stride, dilation, groups, size: two(size, 'x')? }
                }
                ["norm", channels, size] => Self::Norm { channels: one(channels)?, size: two(size, 'x')? },
                ["linear", channels] => Self::Linear { channels: two(channels, '>')? },
                _ => return None,
            })
        };
        read().ok_or_else(|| InvalidLayer(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use tch::nn::VarStore;

    use super::*;
    use crate::nn::{Activation, Cost, Shape, conv_bn};

    fn layer(text: &str) -> Layer {
        text.parse().unwrap()
    }

    #[test]
    fn layers_are_noted_as_they_are_counted_and_only_then() {
        let config = ConvConfig { stride: 2, dilation: 2, groups: 4, ..Default::default() };
        let conv = conv_bn(&VarBuilder::dry(), (4, 8), 3, config, BnConfig::default(), Activation::Relu);
        let count = || conv.cost(Shape::new(4, 9, 12), &mut Cost::default());
        let (shape, layers) = noted(count);
        assert_eq!(layers, [layer("conv 4>8 3x3 s2x2 d2 g4 9x12"), layer("norm 8 5x6")]);
        count();
        assert_eq!(noted(|| Linear::new(&VarBuilder::dry(), 5, 2).cost()).1, [layer("linear 5>2")]);
        // It computes what the network's layer does.
        let vs = VarStore::new(Device::Cpu);
        for (layer, out) in layers.iter().zip([vec![1, 8, 5, 6], vec![1, 8, 5, 6]]) {
            let ys = layer.build(&VarBuilder::new(&vs).sub(layer))(&layer.input());
            assert_eq!(ys.size(), out, "{layer}");
        }
        assert_eq!((shape.c, shape.h, shape.w), (8, 5, 6));
    }

    #[test]
    fn a_layer_is_read_as_it_is_written_and_nothing_else_is() {
        for text in ["conv 4>8 3x5 s2x1 d2 g4 9x12", "norm 8 5x6", "linear 1280>10"] {
            assert_eq!(layer(text).to_string(), text);
        }
        for text in ["", "conv", "norm 8", "norm 0 5x6", "conv 4>8 2x2 s1x1 d1 g1 9x12", "conv 4>8 3x3 s1x1 d1 g3 9x12"]
        {
            assert!(text.parse::<Layer>().unwrap_err().to_string().contains("is no layer"), "{text}");
        }
    }

    #[test]
    fn distances_are_of_channels_and_size_alone() {
        let a = layer("conv 4>4 3x3 s1x1 d1 g4 8x8");
        assert_eq!(a.distance(&a), Some(0.0));
        let wider = a.distance(&layer("conv 8>8 3x3 s1x1 d1 g8 8x8")).unwrap();
        assert!((wider - 2.0 * 2f64.ln().powi(2)).abs() < 1e-12, "two depthwise ones are alike");
        for other in ["conv 4>4 3x3 s1x1 d1 g1 8x8", "conv 4>4 5x5 s1x1 d1 g4 8x8", "norm 4 8x8"] {
            assert_eq!(a.distance(&layer(other)), None, "{other}");
        }
    }
}
