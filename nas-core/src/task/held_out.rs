//! The part of the train split that a search scores on and does not train on.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use nas_datasets::{SampleSet, hold_out};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Task;
use super::experiment::check_part;

/// `held_out`: which samples of the train split.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a part of the train split such as 0.2, or { end_of_sequences = 0.2 }")]
pub enum HeldOut {
    /// This part of them, at random.
    Random(f64),
    /// Whole stretches of films, whose neighbouring frames look alike.
    Sequences(EndOfSequences),
}

/// The last samples of every sequence: samples whose names differ in the digits at their end alone, by name.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EndOfSequences {
    /// This part of every sequence.
    pub end_of_sequences: f64,
}

impl Default for HeldOut {
    fn default() -> Self {
        Self::Random(0.2)
    }
}

impl HeldOut {
    /// Says when it is none of the split or all; `key` is where it stands.
    pub fn check(self, key: &str) -> Result<()> {
        match self {
            Self::Random(part) => check_part(key, part),
            Self::Sequences(EndOfSequences { end_of_sequences }) => {
                check_part(&format!("{key}.end_of_sequences"), end_of_sequences)
            }
        }
    }

    /// Indices of `set` to train on and to score on, both in order. An error where a side would be empty.
    pub fn split<T: Task>(self, set: &T::Set, seed: u64) -> Result<(Vec<usize>, Vec<usize>)> {
        let (seen, held_out) = match self {
            Self::Random(part) => held_out_part(set.len(), part, seed),
            Self::Sequences(EndOfSequences { end_of_sequences }) => {
                let names: Vec<String> = (0..set.len()).map(|i| set.sample_name(i)).collect();
                ends_of_sequences(&names, end_of_sequences)
            }
        };
        let (trained, scored) = (seen.len(), held_out.len());
        ensure!(trained > 0 && scored > 0, "held_out leaves {trained} samples to train on and {scored} to score on");
        Ok((seen, held_out))
    }
}

/// Indices without a random part of `0..len`, and that part.
pub fn held_out_part(len: usize, part: f64, seed: u64) -> (Vec<usize>, Vec<usize>) {
    hold_out(len, ((len as f64 * part).round() as usize).clamp(1, len), seed)
}

fn ends_of_sequences(names: &[String], part: f64) -> (Vec<usize>, Vec<usize>) {
    let mut sequences: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (i, name) in names.iter().enumerate() {
        sequences.entry(name.trim_end_matches(|c: char| c.is_ascii_digit())).or_default().push(i);
    }
    let (mut seen, mut held_out) = (Vec::new(), Vec::new());
    for mut sequence in sequences.into_values() {
        sequence.sort_by_key(|i| &names[*i]);
        let count = (sequence.len() as f64 * part).round() as usize;
        held_out.extend(sequence.split_off(sequence.len() - count));
        seen.extend(sequence);
    }
    seen.sort_unstable();
    held_out.sort_unstable();
    (seen, held_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_every_sequence_is_held_out() {
        let names: Vec<String> = [3, 1, 2, 5, 4].map(|i| format!("a_{i:03}")).into();
        let names = [names, (0..10).map(|i| format!("b_{i:03}")).collect(), vec!["c_000".into()]].concat();
        let (seen, held_out) = ends_of_sequences(&names, 0.2);
        let of = |indices: &[usize]| indices.iter().map(|i| names[*i].as_str()).collect::<Vec<_>>();
        assert_eq!(of(&held_out), ["a_005", "b_008", "b_009"]);
        assert_eq!(seen.len() + held_out.len(), names.len());
    }

    #[test]
    fn a_part_or_a_table() {
        let read = |text: &str| toml::from_str::<BTreeMap<String, HeldOut>>(text).map(|mut keys| keys.remove("h"));
        assert_eq!(read("h = 0.25").unwrap(), Some(HeldOut::Random(0.25)));
        let sequences = HeldOut::Sequences(EndOfSequences { end_of_sequences: 0.2 });
        assert_eq!(read("h = { end_of_sequences = 0.2 }").unwrap(), Some(sequences));
        assert!(read("h = { ends = 0.2 }").unwrap_err().to_string().contains("end_of_sequences = 0.2"));
        let error = HeldOut::Sequences(EndOfSequences { end_of_sequences: 1.0 }).check("held_out").unwrap_err();
        assert!(error.to_string().contains("held_out.end_of_sequences = 1"), "{error}");
    }
}
