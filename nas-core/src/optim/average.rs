//! Exponential moving averages of weights (Polyak and Juditsky 1992; Tarvainen and Valpola 2017).

use tch::Tensor;

use super::Named;
use crate::nn::torch;

/// `average <- decay * average + (1 - decay) * variable` for each pair of two lists of equal order: two calls for all.
pub fn move_averages(averages: &[Named], variables: &[Named], decay: f64) {
    fn tensors(named: &[Named]) -> Vec<&Tensor> {
        named.iter().map(|(_, tensor)| tensor).collect()
    }
    torch::average(&tensors(averages), &tensors(variables), decay);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_average_moves_by_what_the_decay_leaves() {
        let list = |values: [f64; 2]| values.map(|value| ("x".to_string(), Tensor::from_slice(&[value, -value])));
        let averages = list([1.0, 2.0]);
        move_averages(&averages, &list([3.0, 6.0]), 0.75);
        for ((_, found), expected) in averages.iter().zip([1.5, 3.0]) {
            assert_eq!(Vec::<f64>::try_from(found).unwrap(), [expected, -expected]);
        }
    }
}
