//! Damage to files: bits, cuts and repetitions as disks and networks leave them, and what people and programs do to text: keys that
//! are missing or stand twice, numbers at the edges of their types, sizes that nothing has, brackets without end.

use std::ops::Range;

use proptest::prelude::*;

/// One change of a file. Places are shares of its length, or of its tokens or lines.
#[derive(Clone, Debug)]
pub enum Change {
    /// A bit is turned.
    Flip(f64, u8),
    /// Bytes are put in.
    Insert(f64, Vec<u8>),
    /// Bytes are replaced.
    Overwrite(f64, Vec<u8>),
    /// The rest is cut off.
    Cut(f64),
    /// A part is repeated at the end.
    Repeat(f64, f64),
    /// A token is replaced.
    Token(f64, Vec<u8>),
    /// Tokens are left out.
    Without(f64, usize),
    /// Tokens stand twice.
    Twice(f64, usize),
    /// A line is left out.
    WithoutLine(f64),
    /// A line stands twice, the second time at another place.
    TwiceLine(f64, f64),
    /// Bytes are put in many times.
    Deep(f64, Vec<u8>, usize),
}

/// Numbers and texts that readers stumble over.
const EDGES: [&str; 40] = [
    "-1",
    "0",
    "-0.0",
    "1",
    "2",
    "3",
    "255",
    "256",
    "65535",
    "65536",
    "2147483647",
    "-2147483648",
    "4294967296",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551615",
    "1e308",
    "1e999",
    "-1e308",
    "5e-324",
    "0.1",
    "1.5",
    "NaN",
    "nan",
    "inf",
    "-Infinity",
    "null",
    "true",
    "[]",
    "{}",
    "\"\"",
    "\"a\"",
    "[1]",
    "../../up",
    "/absolute",
    "C:\\x",
    "",
    "\u{feff}",
    "\u{202e}\u{1b}[2J",
    "<!DOCTYPE a [<!ENTITY b 'c'>]>",
];

fn text() -> impl Strategy<Value = Vec<u8>> {
    prop::sample::select(&EDGES[..]).prop_map(|edge| edge.as_bytes().to_vec())
}

/// Integers at the edges of their types, in both orders of bytes.
fn binary() -> impl Strategy<Value = Vec<u8>> {
    let value = prop::sample::select(vec![0u64, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 1 << 31, u64::MAX >> 1, u64::MAX]);
    (value, prop::sample::select(vec![1usize, 2, 4, 8]), any::<bool>()).prop_map(|(value, width, big)| match big {
        true => value.to_be_bytes()[8 - width..].to_vec(),
        false => value.to_le_bytes()[..width].to_vec(),
    })
}

fn share() -> Range<f64> {
    0.0..1.0
}

/// One to three changes.
pub fn changes() -> impl Strategy<Value = Vec<Change>> {
    let bracket = prop::sample::select(vec!["[", "{", "{\"a\":", "<a>", "-0", "((", "a.", "|", "\n"]);
    let change = prop_oneof![
        2 => (share(), 0u8..8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        1 => (share(), prop_oneof![text(), binary()]).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        2 => (share(), binary()).prop_map(|(at, bytes)| Change::Overwrite(at, bytes)),
        1 => share().prop_map(Change::Cut),
        1 => (share(), share()).prop_map(|(from, to)| Change::Repeat(from, to)),
        6 => (share(), text()).prop_map(|(at, bytes)| Change::Token(at, bytes)),
        2 => (share(), 1usize..6).prop_map(|(at, count)| Change::Without(at, count)),
        2 => (share(), 1usize..6).prop_map(|(at, count)| Change::Twice(at, count)),
        2 => share().prop_map(Change::WithoutLine),
        2 => (share(), share()).prop_map(|(at, to)| Change::TwiceLine(at, to)),
        1 => (share(), bracket, 1usize..20_000)
            .prop_map(|(at, text, count)| Change::Deep(at, text.as_bytes().to_vec(), count)),
    ];
    prop::collection::vec(change, 1..4)
}

/// The bytes with all changes, one after another.
pub fn apply(bytes: &[u8], changes: &[Change]) -> Vec<u8> {
    changes.iter().fold(bytes.to_vec(), applied)
}

fn applied(mut bytes: Vec<u8>, change: &Change) -> Vec<u8> {
    let place = |share: f64, length: usize| ((share * length as f64) as usize).min(length);
    let length = bytes.len();
    match change {
        Change::Flip(at, bit) => bytes.iter_mut().skip(place(*at, length)).take(1).for_each(|byte| *byte ^= 1 << bit),
        Change::Insert(at, new) => drop(bytes.splice(place(*at, length)..place(*at, length), new.iter().copied())),
        Change::Overwrite(at, new) => {
            bytes.iter_mut().skip(place(*at, length)).zip(new).for_each(|(byte, new)| *byte = *new)
        }
        Change::Cut(at) => bytes.truncate(place(*at, length)),
        Change::Repeat(a, b) => bytes.extend_from_within(place(a.min(*b), length)..place(a.max(*b), length)),
        Change::Token(at, new) => {
            let tokens = parts(&bytes, is_same_token);
            if let Some(token) = tokens.get(place(*at, tokens.len())) {
                bytes.splice(token.clone(), new.iter().copied());
            }
        }
        Change::Without(at, count) => {
            if let Some(range) = run(&parts(&bytes, is_same_token), *at, *count) {
                bytes.drain(range);
            }
        }
        Change::Twice(at, count) => {
            if let Some(range) = run(&parts(&bytes, is_same_token), *at, *count) {
                let again = bytes[range.clone()].to_vec();
                bytes.splice(range.end..range.end, again);
            }
        }
        Change::WithoutLine(at) => {
            if let Some(range) = run(&parts(&bytes, is_same_line), *at, 1) {
                bytes.drain(range);
            }
        }
        Change::TwiceLine(at, to) => {
            let lines = parts(&bytes, is_same_line);
            if let (Some(line), Some(to)) = (run(&lines, *at, 1), run(&lines, *to, 1)) {
                let again = bytes[line].to_vec();
                bytes.splice(to.start..to.start, again);
            }
        }
        Change::Deep(at, new, count) => {
            drop(bytes.splice(place(*at, length)..place(*at, length), new.repeat(*count)));
        }
    }
    bytes
}

/// `count` parts from the one at a share of all.
fn run(parts: &[Range<usize>], at: f64, count: usize) -> Option<Range<usize>> {
    let first = ((at * parts.len() as f64) as usize).min(parts.len().checked_sub(1)?);
    let last = (first + count).min(parts.len()) - 1;
    Some(parts[first].start..parts[last].end)
}

/// Longest parts within which `is_same` holds of all neighbours.
fn parts(bytes: &[u8], is_same: fn(u8, u8) -> bool) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let mut start = 0;
    for end in 1..=bytes.len() {
        if end == bytes.len() || !is_same(bytes[end - 1], bytes[end]) {
            parts.push(start..end);
            start = end;
        }
    }
    parts
}

/// Words and numbers, white space, and every other character on its own.
fn is_same_token(a: u8, b: u8) -> bool {
    let class = |byte: u8| match byte {
        b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'.' | b'+' | b'-' => 1,
        b' ' | b'\t' | b'\n' | b'\r' => 2,
        _ => 0,
    };
    class(a) == class(b) && class(a) != 0
}

fn is_same_line(a: u8, _: u8) -> bool {
    a != b'\n'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_what_they_say() {
        let json = b"{\"epochs\": 12,\n\"lr\": 0.1}";
        let changed = |change: Change| String::from_utf8(apply(json, &[change])).unwrap();
        assert_eq!(changed(Change::Token(0.4, b"-1".to_vec())), "{\"epochs\": -1,\n\"lr\": 0.1}");
        assert_eq!(changed(Change::WithoutLine(0.0)), "\"lr\": 0.1}");
        assert_eq!(changed(Change::TwiceLine(0.9, 0.0)), "\"lr\": 0.1}{\"epochs\": 12,\n\"lr\": 0.1}");
        assert_eq!(changed(Change::Cut(0.5)).len(), json.len() / 2);
        assert_eq!(changed(Change::Deep(0.0, b"[".to_vec(), 3)), format!("[[[{}", String::from_utf8_lossy(json)));
        assert!(apply(b"", &[Change::Twice(0.5, 2), Change::Flip(0.5, 1), Change::Token(0.5, vec![1])]).is_empty());
    }
}
