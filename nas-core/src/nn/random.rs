//! What is random in a network. It is drawn on the CPU from libtorch's generator and moved, so that one seed is one network and
//! one sequence of masks on every device; the generators of devices draw other numbers.

use tch::{Device, Kind, Tensor, nn::VarStore};

use super::{VarBuilder, channels_last, map, ranks, rows};

/// What `build` makes, its initial weights drawn on the CPU, on `device`; and the store of the weights. Kernels lie channels-last, as
/// the images do: libtorch would turn each one in each pass.
pub fn build_on<N>(device: Device, build: impl FnOnce(&VarBuilder) -> N) -> (VarStore, N) {
    let mut vs = VarStore::new(Device::Cpu);
    let net = build(&VarBuilder::new(&vs));
    vs.set_device(device);
    for mut variable in vs.variables().into_values().filter(|variable| variable.dim() == 4) {
        let turned = tch::no_grad(|| channels_last(&variable));
        variable.set_data(&turned);
    }
    (vs, net)
}

/// Drops values of `xs`, of any shape, with probability `p` and scales the others by `1 / (1 - p)` while training (Srivastava
/// et al. 2014). Of maps `[B, C, H, W]` all channels of a pixel are drawn before the next one, however they lie in memory: that may
/// differ from device to device.
pub fn dropout(xs: &Tensor, p: f64, train: bool) -> Tensor {
    let of_maps = xs.dim() == 4;
    let drawn = if of_maps { rows(xs) } else { xs.shallow_clone() };
    // libtorch's own draws in the order of memory.
    let is_own = xs.device() == Device::Cpu && !ranks::are_several() && drawn.is_contiguous();
    if is_own || !train || p == 0.0 {
        return xs.dropout(p, train);
    }
    tch::no_grad(|| {
        let mask = of_whole_batch(xs.size()[0], |rows| {
            let size: Vec<i64> = [rows].into_iter().chain(drawn.size()[1..].iter().copied()).collect();
            Tensor::empty(size, (Kind::Float, Device::Cpu)).bernoulli_float_(1.0 - p)
        });
        let mask = if of_maps { map(&mask) } else { mask };
        mask.to_kind(Kind::Int8).to_device(xs.device()).to_kind(xs.kind()) / (1.0 - p)
    }) * xs
}

/// The rows of this process of what `draw` gives for as many rows as the batch has on all of them, so that a batch sees the same
/// masks however it is divided. Rows are outermost in memory.
fn of_whole_batch(rows: i64, draw: impl FnOnce(i64) -> Tensor) -> Tensor {
    let [rank, world] = [ranks::rank(), ranks::world()].map(|count| count as i64);
    draw(rows * world).narrow(0, rows * rank, rows)
}

/// Drops whole samples of `xs` `[B, C, H, W]` with probability `1 - keep` and scales the others by `1 / keep`
/// (Larsson et al. 2017).
pub fn drop_path(xs: &Tensor, keep: f64) -> Tensor {
    if keep >= 1.0 {
        return xs.shallow_clone();
    }
    // Half precision would round the probability.
    let kind = if xs.kind() == Kind::Double { Kind::Double } else { Kind::Float };
    let drawn = of_whole_batch(xs.size()[0], |rows| Tensor::rand([rows, 1, 1, 1], (kind, Device::Cpu)));
    let mask = (drawn + keep).floor() / keep;
    xs * mask.to_device(xs.device()).to_kind(xs.kind())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drop_path_keeps_the_mean_and_drops_whole_samples() {
        tch::manual_seed(7);
        let ys = drop_path(&Tensor::ones([4000, 2, 1, 1], (Kind::Float, Device::Cpu)), 0.8);
        assert!((ys.mean(Kind::Float).double_value(&[]) - 1.0).abs() < 0.03);
        let per_sample = ys.sum_dim_intlist([1i64, 2, 3].as_slice(), false, Kind::Float);
        let (dropped, kept) = (per_sample.eq(0.0), per_sample.eq(2.5));
        assert!(bool::try_from(dropped.logical_or(&kept).all()).unwrap());
    }

    /// bfloat16 knows no number between 0.99609375 and 1.
    /// As libtorch draws in maps that lie channels-last, which is how networks have them.
    #[test]
    fn dropout_is_the_same_however_maps_lie_in_memory() {
        let maps = Tensor::rand([2, 5, 3, 4], (Kind::Float, Device::Cpu)) + 0.1;
        let of = |xs: &Tensor| {
            tch::manual_seed(7);
            dropout(xs, 0.5, true)
        };
        let by_pixel = channels_last(&maps);
        tch::manual_seed(7);
        let expected = by_pixel.dropout(0.5, true);
        assert_ne!(expected, by_pixel);
        for xs in [&maps, &by_pixel, &maps.transpose(2, 3).contiguous().transpose(2, 3)] {
            assert_eq!(of(xs), expected);
        }
        let rows = Tensor::rand([4, 6], (Kind::Float, Device::Cpu)) + 0.1;
        assert_eq!(of(&rows), of(&rows.transpose(0, 1).contiguous().transpose(0, 1)));
    }

    #[test]
    fn drop_path_draws_in_single_precision() {
        tch::manual_seed(7);
        let ys = drop_path(&Tensor::ones([20000, 1, 1, 1], (Kind::BFloat16, Device::Cpu)), 0.999);
        let dropped = ys.eq(0.0).sum(Kind::Int64).int64_value(&[]);
        assert!((5..45).contains(&dropped), "{dropped}");
    }
}
