//! What operators on one map have in common.

use std::cell::{OnceCell, RefCell};

use tch::Tensor;

use super::relu;

/// A map `[B, C, H, W]` that several layers read: its rectified and pooled forms are computed once for all of them.
#[derive(Debug)]
pub struct Shared {
    map: Tensor,
    relu: OnceCell<Tensor>,
    pooled: RefCell<Vec<(Pooling, Tensor)>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum PoolKind {
    Max,
    Average,
}

/// A pooling padded by half its size; the padding is not counted in an average.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Pooling {
    pub kind: PoolKind,
    pub ksize: i64,
    pub stride: i64,
}

impl Shared {
    /// Shares `map`; nothing is computed yet.
    pub fn new(map: &Tensor) -> Self {
        Self { map: map.shallow_clone(), relu: OnceCell::new(), pooled: RefCell::default() }
    }

    /// The map itself.
    pub fn map(&self) -> &Tensor {
        &self.map
    }

    /// Its rectified form.
    pub fn relu(&self) -> Tensor {
        self.relu.get_or_init(|| relu(&self.map)).shallow_clone()
    }

    pub(super) fn pooled(&self, pooling: Pooling) -> Tensor {
        let mut pooled = self.pooled.borrow_mut();
        if let Some((_, ys)) = pooled.iter().find(|(of, _)| *of == pooling) {
            return ys.shallow_clone();
        }
        let [ksize, stride, padding] = [pooling.ksize, pooling.stride, pooling.ksize / 2].map(|n| [n, n]);
        let ys = match pooling.kind {
            PoolKind::Max => self.map.max_pool2d(ksize, stride, padding, [1, 1], false),
            PoolKind::Average => self.map.avg_pool2d(ksize, stride, padding, false, false, None),
        };
        pooled.push((pooling, ys.shallow_clone()));
        ys
    }
}

/// A sum of maps that allocates one map, however many terms it has.
#[derive(Debug, Default)]
pub struct Sum {
    total: Option<Tensor>,
    /// The total belongs to no one else and may be added to in place.
    owned: bool,
}

impl Sum {
    /// Adds `term`, which stays as it is.
    pub fn add(&mut self, term: Tensor) {
        self.total = Some(match self.total.take() {
            None => term,
            Some(mut total) if self.owned => total.g_add_(&term),
            Some(total) => {
                self.owned = true;
                total + term
            }
        });
    }

    /// The sum; `None` without terms.
    pub fn total(self) -> Option<Tensor> {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{BnConfig, Mode, Op, OpConfig, VarBuilder};
    use tch::{Device, Kind, nn::VarStore};

    /// The value, and the gradients of the map and of the scale.
    #[test]
    fn a_scaled_operator_on_a_shared_map_is_the_operator_times_the_scale() {
        tch::manual_seed(3);
        for ((op, stride), affine) in
            Op::ALL.iter().flat_map(|op| [(op, 1), (op, 2)]).flat_map(|case| [(case, false), (case, true)])
        {
            let vs = VarStore::new(Device::Cpu);
            let bn = BnConfig { affine, ..Default::default() };
            let layer = op.build(&VarBuilder::new(&vs), OpConfig { channels: 4, stride, bn, pool_bn: true });
            let leaf = |dims: &[i64]| Tensor::randn(dims, (Kind::Float, Device::Cpu)).set_requires_grad(true);
            let (xs, scale) = (leaf(&[2, 4, 6, 6]), leaf(&[]));
            let shared = Shared::new(&xs);
            let found = layer.forward_shared(&shared, Some(&scale), Mode::train(0.0));
            let expected = layer.forward(&xs, Mode::train(0.0)) * &scale;
            assert!(found.allclose(&expected, 1e-5, 1e-5, false), "{op} at stride {stride}, affine {affine}");
            if *op == Op::None {
                continue;
            }
            let direction = expected.rand_like();
            let grads = |ys: &Tensor| {
                let loss = (ys * &direction).sum(Kind::Float);
                Tensor::run_backward(&[loss], &[&xs, &scale], true, false)
            };
            for (found, expected) in grads(&found).iter().zip(grads(&expected)) {
                assert!(found.allclose(&expected, 1e-3, 1e-4, false), "gradients of {op} at stride {stride}");
            }
        }
    }

    #[test]
    fn a_sum_leaves_its_terms_as_they_are() {
        let term = |value: f64| Tensor::full([2], value, (Kind::Float, Device::Cpu));
        let terms = [1.0, 2.0, 4.0].map(term);
        let mut sum = Sum::default();
        terms.iter().for_each(|term| sum.add(term.shallow_clone()));
        assert_eq!(sum.total(), Some(term(7.0)));
        assert_eq!(terms, [1.0, 2.0, 4.0].map(term));
    }
}
