//! What a method of raw architecture parameters finds under bounds.

use nas_datasets::rng::stream;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use tch::Tensor;

use crate::space::{ArchParameter, Architecture, ChoiceSpace};

/// Prices tried in every power of ten.
const STEPS: i32 = 100;
/// Smallest and largest price, as powers of ten of the parameters' unit over the largest cost of an option.
const POWERS: (i32, i32) = (-4, 4);
/// Draws where no price leads inside.
const DRAWS: i32 = 10_000;

/// The architecture inside `space`'s bounds that `derive` gives when as little as possible is added to the raw parameters
/// `list`: a price of every option's cost by `table`, where costs are a sum over the choices, the smallest that serves. No architecture
/// that costs as much or less is more probable then, where choices are independent (the Lagrange relaxation of the bound). Where no
/// price leads inside, or there is no table, Gumbel noise that grows until it does; `None` where 10,000 draws of it do not.
pub(super) fn within(
    list: &[ArchParameter],
    table: Option<&[Vec<f64>]>,
    space: &dyn ChoiceSpace,
    derive: impl Fn(&[Tensor]) -> Architecture,
) -> Option<Architecture> {
    let inside = |arch: &Architecture| space.standing_for(arch.choices().to_vec());
    let added = |values: &dyn Fn(usize, usize) -> f64| {
        let one = |(i, parameter): (usize, &ArchParameter)| {
            let len = parameter.dims.iter().product::<i64>() as usize;
            Tensor::from_slice(&(0..len).map(|entry| values(i, entry)).collect::<Vec<_>>()).view(&parameter.dims[..])
        };
        derive(&list.iter().enumerate().map(one).collect::<Vec<_>>())
    };
    let plain = added(&|_, _| 0.0);
    if let Some(found) = inside(&plain) {
        return Some(found);
    }
    if let Some(table) = table {
        let largest = table.iter().flatten().fold(1.0, |most: f64, cost| most.max(*cost));
        let mut last = [plain.clone(), plain];
        for k in POWERS.0 * STEPS..=POWERS.1 * STEPS {
            let price = 10f64.powf(f64::from(k) / f64::from(STEPS)) / largest;
            for (last, sign) in last.iter_mut().zip([-1.0, 1.0]) {
                let found = added(&|i, entry| sign * price * table[i][entry]);
                if found != *last {
                    if let Some(found) = inside(&found) {
                        return Some(found);
                    }
                    *last = found;
                }
            }
        }
    }
    let mut rng = stream(0, "within", 0);
    let noise = |draw: i32, rng: &mut ChaCha8Rng| {
        let scale = 10f64.powf(f64::from(draw) / f64::from(DRAWS) * 5.0 - 3.0);
        let gumbel = |rng: &mut ChaCha8Rng| -scale * (-rng.random::<f64>().max(f64::MIN_POSITIVE).ln()).ln();
        let of = |parameter: &ArchParameter| {
            let len = parameter.dims.iter().product::<i64>() as usize;
            (0..len).map(|_| gumbel(rng)).collect::<Vec<f64>>()
        };
        list.iter().map(of).collect::<Vec<_>>()
    };
    (0..DRAWS).map(|draw| noise(draw, &mut rng)).find_map(|noise| inside(&added(&|i, entry| noise[i][entry])))
}
