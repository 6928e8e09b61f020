//! Networks of the literature that several tasks build on, once each. Each is a [`crate::space::Backbone`] made from plain
//! data that says which maps it gives out ([`Taps`]), at which stride it stops halving, how its variables are called, and how
//! their initial values are drawn.

pub mod inverted_residual;
pub mod mobile_net;
pub mod mobilenet_v2;
pub mod resnet;
pub mod sizes;

pub use inverted_residual::{BlockConfig, Gate, InvertedResidual, Naming, SqueezeExcitation};
pub use mobile_net::{Layout, MobileNet};
pub use resnet::{ResNet, ResNetConfig, ResNetDepth};
pub use sizes::StageSize;

/// Which maps a backbone gives out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taps {
    /// The last map of every stride from this one on, what the network ends with among them: for classifiers and detectors.
    Strides {
        /// The finest stride.
        from: i64,
    },
    /// What a block computes within, and the network's last map: the low-level and the final features of DeepLab.
    Within {
        /// The block, from 0, counted through all stages.
        block: usize,
    },
}

/// Trades strides for atrous rates (Chen et al. 2017, arXiv 1706.05587): once the output stride is reached, a further stride
/// of 2 becomes 1 and doubles the rate of every layer after it.
#[derive(Debug)]
pub struct StrideBudget {
    target: Option<i64>,
    /// Input pixels per pixel of what the layers so far give, along one side.
    pub reached: i64,
    rate: i64,
}

impl StrideBudget {
    /// `target`: the output stride, none for that of the plain network; `reached`: that of the layers before.
    pub fn new(target: impl Into<Option<i64>>, reached: i64) -> Self {
        Self { target: target.into(), reached, rate: 1 }
    }

    /// Stride and rate of the next layer, which has `stride` in the plain network.
    pub fn next(&mut self, stride: i64) -> (i64, i64) {
        let rate = self.rate;
        if Some(self.reached) == self.target {
            self.rate *= stride;
            return (1, rate);
        }
        self.reached *= stride;
        (stride, rate)
    }
}

/// Whether block `i` of blocks that reach these strides is the last of its stride, which is `from` at least.
fn ends_stride(reached: &[i64], i: usize, from: i64) -> bool {
    reached[i] >= from && reached.get(i + 1).is_none_or(|next| *next != reached[i])
}

#[cfg(test)]
mod tests;
