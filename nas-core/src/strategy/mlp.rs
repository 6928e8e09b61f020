//! A small multi-layer perceptron for regression: ReLU layers, mean absolute error, Adam. Plain Rust, because networks of a
//! few thousand weights spend their time in the overhead of tensor calls.

use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// Sizes and training of a [`Mlp`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct MlpConfig {
    pub hidden_layers: usize,
    pub width: usize,
    pub epochs: usize,
    pub batch: usize,
    pub lr: f32,
}

/// A dense layer with its Adam state: `inputs x outputs` weights by input, then the biases.
#[derive(Debug)]
struct Layer {
    inputs: usize,
    outputs: usize,
    weights: Vec<f32>,
    gradient: Vec<f32>,
    mean: Vec<f32>,
    square: Vec<f32>,
}

impl Layer {
    fn new(inputs: usize, outputs: usize, rng: &mut ChaCha8Rng) -> Self {
        let bound = (6.0 / inputs as f32).sqrt();
        let mut weights: Vec<f32> = (0..inputs * outputs).map(|_| rng.random_range(-bound..bound)).collect();
        weights.resize((inputs + 1) * outputs, 0.0);
        let zeros = vec![0.0; weights.len()];
        Self { inputs, outputs, weights, gradient: zeros.clone(), mean: zeros.clone(), square: zeros }
    }

    fn forward(&self, xs: &[f32], out: &mut [f32]) {
        let (rows, bias) = self.weights.split_at(self.inputs * self.outputs);
        out.copy_from_slice(bias);
        for (x, row) in xs.iter().zip(rows.chunks_exact(self.outputs)) {
            if *x != 0.0 {
                out.iter_mut().zip(row).for_each(|(out, weight)| *out += x * weight);
            }
        }
    }

    /// Adds to the gradient of the weights and returns that of the inputs into `d_xs`.
    fn backward(&mut self, xs: &[f32], d_out: &[f32], d_xs: Option<&mut [f32]>) {
        let (rows, bias) = self.gradient.split_at_mut(self.inputs * self.outputs);
        bias.iter_mut().zip(d_out).for_each(|(bias, d)| *bias += d);
        for (x, row) in xs.iter().zip(rows.chunks_exact_mut(self.outputs)) {
            if *x != 0.0 {
                row.iter_mut().zip(d_out).for_each(|(gradient, d)| *gradient += x * d);
            }
        }
        if let Some(d_xs) = d_xs {
            for (d_x, row) in d_xs.iter_mut().zip(self.weights.chunks_exact(self.outputs)) {
                *d_x = row.iter().zip(d_out).map(|(weight, d)| weight * d).sum();
            }
        }
    }

    fn step(&mut self, lr: f32, step: i32) {
        const BETAS: [f32; 2] = [0.9, 0.999];
        let [mean_bias, square_bias] = BETAS.map(|beta| 1.0 - beta.powi(step));
        for i in 0..self.weights.len() {
            let g = self.gradient[i];
            self.mean[i] = BETAS[0] * self.mean[i] + (1.0 - BETAS[0]) * g;
            self.square[i] = BETAS[1] * self.square[i] + (1.0 - BETAS[1]) * g * g;
            self.weights[i] -= lr * (self.mean[i] / mean_bias) / ((self.square[i] / square_bias).sqrt() + 1e-8);
            self.gradient[i] = 0.0;
        }
    }
}

/// A trained network.
#[derive(Debug)]
pub(crate) struct Mlp {
    layers: Vec<Layer>,
}

impl Mlp {
    /// Trains a network on rows of features and their targets.
    pub fn fit(config: MlpConfig, features: &[Vec<f32>], targets: &[f32], rng: &mut ChaCha8Rng) -> Self {
        let mut sizes = vec![features[0].len()];
        sizes.extend(std::iter::repeat_n(config.width, config.hidden_layers));
        sizes.push(1);
        let layers = sizes.windows(2).map(|pair| Layer::new(pair[0], pair[1], rng)).collect();
        let mut mlp = Self { layers };
        let mut order: Vec<usize> = (0..features.len()).collect();
        let mut step = 0;
        let mut activations = mlp.buffers();
        for _ in 0..config.epochs {
            order.shuffle(rng);
            for batch in order.chunks(config.batch) {
                for i in batch {
                    mlp.accumulate(&features[*i], targets[*i], 1.0 / batch.len() as f32, &mut activations);
                }
                step += 1;
                mlp.layers.iter_mut().for_each(|layer| layer.step(config.lr, step));
            }
        }
        mlp
    }

    /// The prediction for one row of features.
    pub fn predict(&self, features: &[f32]) -> f32 {
        let mut activations = self.buffers();
        self.forward(features, &mut activations);
        activations[self.layers.len() - 1][0]
    }

    /// Room for the outputs of every layer.
    fn buffers(&self) -> Vec<Vec<f32>> {
        self.layers.iter().map(|layer| vec![0.0; layer.outputs]).collect()
    }

    fn forward(&self, features: &[f32], activations: &mut [Vec<f32>]) {
        for (i, layer) in self.layers.iter().enumerate() {
            let (before, after) = activations.split_at_mut(i);
            layer.forward(before.last().map_or(features, |xs| xs), &mut after[0]);
            if i + 1 < self.layers.len() {
                after[0].iter_mut().for_each(|x| *x = x.max(0.0));
            }
        }
    }

    fn accumulate(&mut self, features: &[f32], target: f32, weight: f32, activations: &mut [Vec<f32>]) {
        self.forward(features, activations);
        let last = self.layers.len() - 1;
        let mut d_out = vec![weight * (activations[last][0] - target).signum()];
        for i in (0..=last).rev() {
            if i == 0 {
                self.layers[0].backward(features, &d_out, None);
            } else {
                let xs = &activations[i - 1];
                let mut d_xs = vec![0.0; xs.len()];
                self.layers[i].backward(xs, &d_out, Some(&mut d_xs));
                d_xs.iter_mut().zip(xs).for_each(|(d, x)| {
                    if *x <= 0.0 {
                        *d = 0.0
                    }
                });
                d_out = d_xs;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_equal_finite_differences() {
        let mut rng = nas_datasets::rng::stream(0, "mlp", 0);
        let config = MlpConfig { hidden_layers: 2, width: 5, epochs: 0, batch: 1, lr: 0.0 };
        let (features, target) = (vec![0.3, -0.7, 1.1], 4.0);
        let mut mlp = Mlp::fit(config, std::slice::from_ref(&features), &[target], &mut rng);
        let mut activations = mlp.buffers();
        mlp.accumulate(&features, target, 1.0, &mut activations);
        const EPS: f32 = 1e-2;
        for layer in 0..3 {
            for i in 0..mlp.layers[layer].weights.len() {
                let mut loss = |by: f32| {
                    mlp.layers[layer].weights[i] += by;
                    (mlp.predict(&features) - target).abs()
                };
                let (up, down) = (loss(EPS), loss(-2.0 * EPS));
                loss(EPS);
                let expected = (up - down) / (2.0 * EPS);
                let found = mlp.layers[layer].gradient[i];
                assert!((found - expected).abs() < 2e-3, "layer {layer}, weight {i}: {found} {expected}");
            }
        }
    }

    #[test]
    fn a_linear_function_is_learned() {
        let mut rng = nas_datasets::rng::stream(0, "mlp", 1);
        let row = |rng: &mut ChaCha8Rng| -> Vec<f32> { (0..4).map(|_| f32::from(rng.random_range(0..2u8))).collect() };
        let features: Vec<Vec<f32>> = (0..200).map(|_| row(&mut rng)).collect();
        let target = |row: &[f32]| row[0] - 2.0 * row[1] + 0.5 * row[3];
        let targets: Vec<f32> = features.iter().map(|row| target(row)).collect();
        let config = MlpConfig { hidden_layers: 3, width: 20, epochs: 100, batch: 32, lr: 0.01 };
        let mlp = Mlp::fit(config, &features, &targets, &mut rng);
        let error = |row: &Vec<f32>| (mlp.predict(row) - target(row)).abs();
        let mean = features.iter().map(error).sum::<f32>() / 200.0;
        assert!(mean < 0.1, "{mean}");
    }
}
