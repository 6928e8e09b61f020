//! AutoAugment (Cubuk et al. 2019, arXiv 1805.09501): one of 25 pairs of operators, each applied with a probability of its
//! own. Operators and magnitudes as in RandAugment here, after torchvision.

use image::RgbImage;
use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rand_augment::{Level, Op};
use crate::rng::ChaCha8Rng;

/// Which policy: for which data it was learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AutoAugment {
    /// CIFAR-10.
    Cifar10,
}

/// An operator, its probability, and its step on a scale of 0 to 9 (0 where it has no strength).
type Step = (Op, f64, u32);

/// Steps of the scale of magnitudes.
const BINS: u32 = 10;

#[rustfmt::skip]
const CIFAR10: [[Step; 2]; 25] = [
    [(Op::Invert, 0.1, 0), (Op::Contrast, 0.2, 6)],
    [(Op::Rotate, 0.7, 2), (Op::TranslateX, 0.3, 9)],
    [(Op::Sharpness, 0.8, 1), (Op::Sharpness, 0.9, 3)],
    [(Op::ShearY, 0.5, 8), (Op::TranslateY, 0.7, 9)],
    [(Op::AutoContrast, 0.5, 0), (Op::Equalize, 0.9, 0)],
    [(Op::ShearY, 0.2, 7), (Op::Posterize, 0.3, 7)],
    [(Op::Color, 0.4, 3), (Op::Brightness, 0.6, 7)],
    [(Op::Sharpness, 0.3, 9), (Op::Brightness, 0.7, 9)],
    [(Op::Equalize, 0.6, 0), (Op::Equalize, 0.5, 0)],
    [(Op::Contrast, 0.6, 7), (Op::Sharpness, 0.6, 5)],
    [(Op::Color, 0.7, 7), (Op::TranslateX, 0.5, 8)],
    [(Op::Equalize, 0.3, 0), (Op::AutoContrast, 0.4, 0)],
    [(Op::TranslateY, 0.4, 3), (Op::Sharpness, 0.2, 6)],
    [(Op::Brightness, 0.9, 6), (Op::Color, 0.2, 8)],
    [(Op::Solarize, 0.5, 2), (Op::Invert, 0.0, 0)],
    [(Op::Equalize, 0.2, 0), (Op::AutoContrast, 0.6, 0)],
    [(Op::Equalize, 0.2, 0), (Op::Equalize, 0.6, 0)],
    [(Op::Color, 0.9, 9), (Op::Equalize, 0.6, 0)],
    [(Op::AutoContrast, 0.8, 0), (Op::Solarize, 0.2, 8)],
    [(Op::Brightness, 0.1, 3), (Op::Color, 0.7, 0)],
    [(Op::Solarize, 0.4, 5), (Op::AutoContrast, 0.9, 0)],
    [(Op::TranslateY, 0.9, 9), (Op::TranslateY, 0.7, 9)],
    [(Op::AutoContrast, 0.9, 0), (Op::Solarize, 0.8, 3)],
    [(Op::Equalize, 0.8, 0), (Op::Invert, 0.1, 0)],
    [(Op::TranslateY, 0.7, 9), (Op::AutoContrast, 0.9, 0)],
];

impl AutoAugment {
    fn policy(self) -> &'static [[Step; 2]] {
        match self {
            Self::Cifar10 => &CIFAR10,
        }
    }

    /// Applies a pair drawn evenly, mirrored operators with either sign.
    pub(super) fn apply(self, image: RgbImage, rng: &mut ChaCha8Rng) -> RgbImage {
        let policy = self.policy();
        let pair = policy[rng.random_range(0..policy.len())];
        pair.into_iter().fold(image, |image, step @ (op, chance, _)| {
            if rng.random::<f64>() >= chance {
                return image;
            }
            apply(step, &image, op.is_signed() && rng.random::<bool>())
        })
    }
}

fn apply((op, _, index): Step, image: &RgbImage, negative: bool) -> RgbImage {
    op.apply(image, Level { index, bins: BINS }, negative)
}

#[cfg(test)]
mod tests {
    use super::super::rand_augment::Golden;
    use super::*;

    #[derive(Deserialize)]
    struct Case {
        chances: [f64; 2],
        negative: [bool; 2],
        pixels: Vec<u8>,
    }

    #[test]
    fn the_policy_for_cifar_10_is_torchvisions() {
        // tests/golden/rand_augment/auto_augment.py
        let golden = include_str!("../../../tests/golden/rand_augment/auto_augment.json");
        let (image, cases) = Golden::<Case>::read(golden);
        let policy = AutoAugment::Cifar10.policy();
        assert_eq!(policy.len(), cases.len());
        for (i, (pair, Case { chances, negative, pixels })) in policy.iter().zip(cases).enumerate() {
            assert_eq!(pair.map(|(_, chance, _)| chance), chances, "probabilities of pair {i}");
            let steps = pair.iter().zip(negative);
            let found = steps
                .fold(image.clone(), |image, (step, negative)| apply(*step, &image, negative && step.0.is_signed()));
            let differing = found.iter().zip(&pixels).filter(|(a, b)| a != b).count();
            assert_eq!(differing, 0, "{differing} of {} bytes of pair {i}: {pair:?}", pixels.len());
        }
    }

    /// Of the 25 pairs, at least one operator is likely: most images change, and with a probability of 0 none would.
    #[test]
    fn images_change_about_as_often_as_the_probabilities_say() {
        let image = RgbImage::from_fn(16, 16, |x, y| image::Rgb([(x * 13) as u8, (y * 11) as u8, (x * y) as u8]));
        let expected: f64 = CIFAR10.iter().map(|[a, b]| 1.0 - (1.0 - a.1) * (1.0 - b.1)).sum::<f64>() / 25.0;
        let mut rng = crate::rng::stream(0, "test", 0);
        let changed = (0..2000).filter(|_| AutoAugment::Cifar10.apply(image.clone(), &mut rng) != image).count();
        // Some operators leave this image as it is: colour at strength 0, contrast already full.
        let share = changed as f64 / 2000.0;
        assert!((expected - 0.15..=expected + 0.03).contains(&share), "{share}, expected at most {expected}");
    }
}
