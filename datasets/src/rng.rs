//! The workspace's only source of randomness: independent streams, named by what they are for.
//!
//! A stream is a function of the run's seed, a purpose and a number (an epoch, a step, a trial), never of what was
//! drawn before. That makes runs replayable from any point, and lets threads draw in any order.

pub use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// The generator of `purpose` number `id` in the run of `run_seed`; the same on every platform.
pub fn stream(run_seed: u64, purpose: &str, id: u64) -> ChaCha8Rng {
    let mut seed = [0; 32];
    for (lane, bytes) in seed.chunks_exact_mut(8).enumerate() {
        bytes.copy_from_slice(&mix(lane as u64, run_seed, purpose, id).to_le_bytes());
    }
    ChaCha8Rng::from_seed(seed)
}

/// A seed for `tch::manual_seed`, never negative.
pub fn torch_seed(run_seed: u64, purpose: &str, id: u64) -> i64 {
    const LANE: u64 = 4; // the four before are a stream's
    (mix(LANE, run_seed, purpose, id) >> 1) as i64
}

/// 64 well-spread bits of all four arguments. The nested scrambling is a bijection in each number, so that two ids or
/// two run seeds never share a value.
fn mix(lane: u64, run_seed: u64, purpose: &str, id: u64) -> u64 {
    scramble(scramble(scramble(scramble(lane) ^ run_seed) ^ fnv1a(purpose)) ^ id)
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo).
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The output step of SplitMix64 (Steele, Lea and Flood 2014).
fn scramble(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rand::RngCore;

    use super::*;

    #[test]
    fn published_hash_values_are_met() {
        // FNV-1a of "" and "a" from the FNV reference page; the first outputs of SplitMix64 with seed 0.
        assert_eq!(fnv1a(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(scramble(0), 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn streams_stay_the_same_for_ever() {
        // tests/reference/rng.py, which writes the hashes and ChaCha8 out a second time.
        assert_eq!(stream(0, "init", 0).next_u64(), 7_253_522_740_385_994_900);
        assert_eq!(torch_seed(7, "step", 3), 8_718_709_454_453_136_533);
    }

    #[test]
    fn neighbouring_streams_differ_and_torch_seeds_are_not_negative() {
        let mut seen = HashSet::new();
        for run_seed in 0..8 {
            for purpose in ["init", "order", "step"] {
                for id in 0..64 {
                    assert!(seen.insert(stream(run_seed, purpose, id).next_u64()));
                    assert!(torch_seed(run_seed, purpose, id) >= 0);
                }
            }
        }
    }
}
