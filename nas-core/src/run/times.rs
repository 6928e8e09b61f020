//! Times of a run, in a file of their own: the other files hold none, so that equal runs write equal files.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use nas_datasets::read_bytes;
use serde::{Deserialize, Serialize};

use crate::run::run_dir::JsonLines;

/// Name of the file, in a run folder or beside a trial log.
pub const FILE: &str = "times.jsonl";

/// Largest file that is read: the marks of a million epochs.
const MAX_BYTES: u64 = 64 << 20;

/// When an epoch or a trial ended.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mark {
    /// Number of the epoch, from 1, or of the trial, from 0.
    pub id: u64,
    /// Seconds of work since the run began, over all processes that worked on it.
    pub secs: f64,
    /// Images that were seen by then; 0 where none are counted.
    #[serde(default)]
    pub images: usize,
}

impl Mark {
    /// Images per second since the mark before, or since the start.
    pub fn images_per_sec(&self, before: Option<&Self>) -> Option<f64> {
        let (secs, images) = before.map_or((0.0, 0), |before| (before.secs, before.images));
        (self.secs > secs && self.images > images).then(|| (self.images - images) as f64 / (self.secs - secs))
    }
}

/// The file, open for appending.
#[derive(Debug)]
pub struct Times(JsonLines);

impl Times {
    /// Opens or creates the file in `folder`; returns what it holds. A last line that a killed process did not finish is cut off.
    pub fn open(folder: &Path) -> Result<(Self, BTreeMap<u64, Mark>)> {
        let path = folder.join(FILE);
        let (bytes, marks) = parse(&path)?;
        Ok((Self(JsonLines::open(path, bytes as u64)?), marks))
    }

    /// Adds a mark. One that is repeated, after a kill between this file and a checkpoint, counts in its last form.
    pub fn add(&mut self, mark: Mark) -> Result<()> {
        self.0.append(&mark).map(drop)
    }
}

/// Marks the ends of the trials of a search.
#[derive(Debug)]
pub struct Stopwatch {
    times: Times,
    /// Seconds of earlier processes.
    before: f64,
    started: Instant,
}

impl Stopwatch {
    /// Goes on from the last mark in `folder`.
    pub fn open(folder: &Path) -> Result<Self> {
        let (times, marks) = Times::open(folder)?;
        Ok(Self { times, before: last_secs(&marks), started: Instant::now() })
    }

    /// Seconds so far.
    pub fn secs(&self) -> f64 {
        self.before + self.started.elapsed().as_secs_f64()
    }

    /// The thing numbered `id` has ended. A mark that cannot be written is missing in pictures and no reason to stop.
    pub fn mark(&mut self, id: u64) {
        let _ = self.times.add(Mark { id, secs: self.secs(), images: 0 });
    }
}

/// The marks of a folder by their numbers; none where there is no file.
pub fn read(folder: &Path) -> Result<BTreeMap<u64, Mark>> {
    parse(&folder.join(FILE)).map(|(_, marks)| marks)
}

/// Seconds of work when the last of them was made; 0 where there is none.
pub fn last_secs(marks: &BTreeMap<u64, Mark>) -> f64 {
    marks.values().map(|mark| mark.secs).fold(0.0, f64::max)
}

/// Bytes of whole lines, and the marks.
fn parse(path: &Path) -> Result<(usize, BTreeMap<u64, Mark>)> {
    if !path.exists() {
        return Ok((0, BTreeMap::new()));
    }
    let bytes = read_bytes(path, MAX_BYTES).with_context(|| format!("{}: cannot read", path.display()))?;
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let mut marks = BTreeMap::new();
    for (i, line) in bytes[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).enumerate() {
        let mark: Mark = serde_json::from_slice(line)
            .with_context(|| format!("{}: line {}: no mark of a time", path.display(), i + 1))?;
        marks.insert(mark.id, mark);
    }
    Ok((whole, marks))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_killed_line_is_cut_and_a_repeated_mark_counts_in_its_last_form() {
        let temp = tempfile::tempdir().unwrap();
        let mark = |id, secs| Mark { id, secs, images: 8 };
        let (mut times, none) = Times::open(temp.path()).unwrap();
        assert!(none.is_empty());
        times.add(mark(1, 2.0)).unwrap();
        times.add(mark(2, 3.0)).unwrap();
        let path = temp.path().join(FILE);
        fs::write(&path, fs::read_to_string(&path).unwrap() + "{\"id\":3,\"se").unwrap();
        let (mut times, known) = Times::open(temp.path()).unwrap();
        assert_eq!(known.len(), 2);
        times.add(mark(2, 4.5)).unwrap();
        assert_eq!(read(temp.path()).unwrap().into_values().collect::<Vec<_>>(), [mark(1, 2.0), mark(2, 4.5)]);
        fs::write(&path, "{}\n").unwrap();
        assert!(format!("{:#}", read(temp.path()).unwrap_err()).contains("times.jsonl: line 1"));
    }
}
