//! What surrogates compare of two networks.
//!
//! The choices of an architecture stand at the stages that hold the blocks, so equal maps of two networks can stand at different
//! ones. What a network has at each stride does not hang on that. Sizes are told in unary, a bit for each number that is reached: 48
//! channels are nearer to 64 than to 16.

use std::collections::BTreeSet;

use nas_core::space::Architecture;

use super::operator::Operator;
use super::space::{HeadChoices, MobileSegSpace};

/// Stem; at each stride how many blocks there are, their channels and what each is; context, and at each stride what the decoder
/// does.
pub(super) fn of(space: &MobileSegSpace, arch: &Architecture) -> Vec<u16> {
    let config = space.decode(arch).expect("of the space");
    let stages = &space.stages;
    let widths = distinct(stages.iter().flat_map(|stage| &stage.channels));
    let expansions: BTreeSet<i64> = space.operators.iter().map(|operator| operator.expansion()).collect();
    // A stride can have several stages; of what is beyond two long ones the number tells.
    let places = 2 * stages.iter().map(|stage| stage.max_depth()).max().unwrap_or(0);
    let blocks = config.blocks();
    let coarsest = space.output_strides.iter().max().copied().unwrap_or(1);

    let mut traits = reached(config.stem, &distinct(&space.stem));
    for stride in strides(coarsest) {
        let here: Vec<_> = blocks.iter().filter(|block| block.output_stride == stride).collect();
        traits.extend((1..=places).map(|depth| u16::from(here.len() >= depth)));
        let channels = here.iter().map(|block| block.place.channels.1).max();
        traits.extend(reached(channels.unwrap_or(0), &widths));
        for place in 0..places {
            let operator = here.get(place).map(|block| block.operator);
            traits.extend(reached(operator.map_or(0, Operator::expansion), &expansions));
            traits.extend(operator.unwrap_or(Operator::Skip).form());
        }
    }
    let HeadChoices::Chosen { channels, decoders, low_level_channels, decoder_channels, .. } = &space.head else {
        return traits;
    };
    // Context, its channels, decoder, tap, convolutions, and two of each step.
    let head = &arch.choices()[arch.choices().len() - 5 - 2 * space.decoder_steps()..];
    traits.extend([head[0], head[3], head[4]]);
    traits.extend(reached(config.head.channels(), &distinct(channels)));
    for stride in distinct(decoders.iter().flatten()) {
        let step = config.head.decoder().and_then(|steps| steps.iter().find(|step| step.stride == stride));
        let (low_level, channels) = step.map_or((0, 0), |step| (step.low_level_channels, step.channels));
        traits.push(u16::from(step.is_some()));
        traits.extend(reached(low_level, &distinct(low_level_channels)));
        traits.extend(reached(channels, &distinct(decoder_channels)));
    }
    traits
}

fn distinct<'a>(numbers: impl IntoIterator<Item = &'a i64>) -> BTreeSet<i64> {
    numbers.into_iter().copied().collect()
}

/// Of each number whether `value` is at least as large.
fn reached(value: i64, numbers: &BTreeSet<i64>) -> Vec<u16> {
    numbers.iter().map(|number| u16::from(value >= *number)).collect()
}

fn strides(coarsest: i64) -> impl Iterator<Item = i64> {
    std::iter::successors(Some(2), |stride| Some(2 * stride)).take_while(move |stride| *stride <= coarsest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nas_core::space::ChoiceSpace;

    fn apart(a: &[u16], b: &[u16]) -> usize {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).filter(|(a, b)| a != b).count()
    }

    #[test]
    fn widths_are_as_far_apart_as_their_ranks() {
        let space = MobileSegSpace::default();
        let hand = space.parse("mobile_seg_hand_a").unwrap();
        let config = space.decode(&hand).unwrap();
        let with = |channels: i64| {
            let mut config = config.clone();
            config.stages[1].channels = channels;
            space.traits(&space.encode(&config).unwrap())
        };
        let [narrow, middle, wide] = [16, 24, 40].map(with);
        assert_eq!([apart(&narrow, &middle), apart(&middle, &wide), apart(&narrow, &wide)], [1, 2, 3]);
    }

    #[test]
    fn maps_are_compared_wherever_their_stages_stand() {
        let space = MobileSegSpace::default();
        let config = space.decode(&space.parse("mobile_seg_hand_c").unwrap()).unwrap();
        let space = MobileSegSpace { head: HeadChoices::Fixed { head: config.head.clone() }, ..space };
        // Without its one block of stride 2 the stage after it stands in the first slot.
        let mut shorter = config.clone();
        shorter.stages.remove(0);
        let [long, short] = [&config, &shorter].map(|config| space.encode(config).unwrap());
        let stride_2 = space.stem.len() + (space.traits(&long).len() - space.stem.len()) / strides(32).count();
        let [long, short] = [long, short].map(|arch| space.traits(&arch));
        assert_ne!(long[..stride_2], short[..stride_2]);
        assert_eq!(long[stride_2..], short[stride_2..]);
    }

    #[test]
    fn every_network_has_as_many_traits() {
        for space in [MobileSegSpace::default(), super::super::SpacePreset::SqueezenasSmall.into()] {
            let mut rng = nas_datasets::rng::stream(0, "traits", 0);
            let traits: Vec<Vec<u16>> = (0..20).map(|_| space.traits(&space.sample(&mut rng))).collect();
            assert!(traits.iter().all(|other| other.len() == traits[0].len()));
            assert!((1..20).all(|i| apart(&traits[0], &traits[i]) > 0));
        }
    }
}
