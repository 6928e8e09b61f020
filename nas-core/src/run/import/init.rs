//! The start of a training from weights that exist: of a run, or of a file.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nas_datasets::open_regular;
use serde::{Deserialize, Serialize};
use tch::Tensor;
use tch::nn::VarStore;

use super::{is_torch_file, read_state_dict};
use crate::optim::Named;
use crate::run::run_dir::{best_weights, last_weights};
use crate::train::{all_variables, read_tensors};

/// What a training took over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitReport {
    /// The file.
    pub file: PathBuf,
    /// Tensors that were taken over and tensors in all, by part of the network: the first component of the names.
    pub parts: BTreeMap<String, (usize, usize)>,
    /// Tensors whose shapes differ and that thus are new: name, shape in the file, shape in the network.
    pub misshapen: Vec<(String, Vec<i64>, Vec<i64>)>,
    /// Tensors of the file that have no place in the network.
    pub unused: Vec<String>,
}

impl InitReport {
    /// Tensors that were taken over.
    pub fn taken(&self) -> usize {
        self.parts.values().map(|(taken, _)| taken).sum()
    }
}

impl fmt::Display for InitReport {
    /// Such as `w.safetensors: 195 of 195 backbone tensors, head new`.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        const SHOWN: usize = 4;
        let part = |(name, (taken, all)): (&String, &(usize, usize))| match taken {
            0 => format!("{name} new"),
            taken => format!("{taken} of {all} {name} tensors"),
        };
        let parts: Vec<String> = self.parts.iter().map(part).collect();
        write!(f, "{}: {}", self.file.display(), parts.join(", "))?;
        for (name, found, expected) in self.misshapen.iter().take(SHOWN) {
            write!(f, "; {name} has shape {found:?} there and {expected:?} here")?;
        }
        if self.misshapen.len() > SHOWN {
            write!(f, "; and {} more of other shapes", self.misshapen.len() - SHOWN)?;
        }
        if !self.unused.is_empty() {
            let more = if self.unused.len() > SHOWN { ", ..." } else { "" };
            let shown = self.unused[..self.unused.len().min(SHOWN)].join(", ");
            write!(f, "; {} tensors of the file are not used: {shown}{more}", self.unused.len())?;
        }
        Ok(())
    }
}

/// The weights that `path` stands for: those of a run folder (its best ones, else its last), or the file itself.
pub fn weights_of(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_path_buf());
    }
    let found = best_weights(path).or_else(|| Some(last_weights(path)).filter(|file| file.exists()));
    found.with_context(|| format!("{}: a folder without checkpoints/best.safetensors or last", path.display()))
}

/// Copies the tensors of a run or a file (safetensors, or torch's own formats) into the variables of the same names.
///
/// `prefix` is put before every name of the file: `backbone.` lets a classifier's weights start a segmenter's backbone. What
/// the file lacks, or has in another shape, stays as it was and is reported; that no tensor at all fits is an error.
pub fn init_from(vs: &VarStore, path: &Path, prefix: &str) -> Result<InitReport> {
    let file = weights_of(path)?;
    let saved = read_any(&file)?.into_iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)).collect();
    let report = fill(&all_variables(vs), &saved, &file);
    if report.taken() == 0 {
        let example = |names: Vec<&String>| names.first().map_or("none".to_string(), |name| format!("{name:?}"));
        let mut found: Vec<&String> = saved.keys().collect();
        found.sort();
        let variables = all_variables(vs);
        bail!(
            "{}: none of its {} tensors fits; the first is {}, the network's first {}. A prefix puts the file's names below a \
             part of the network",
            file.display(),
            found.len(),
            example(found),
            example(variables.iter().map(|(name, _)| name).collect())
        );
    }
    Ok(report)
}

/// The tensors of a file of either kind.
fn read_any(path: &Path) -> Result<Vec<Named>> {
    let mut start = [0; 16];
    let read = open_regular(path).and_then(|mut file| std::io::Read::read(&mut file, &mut start));
    let length = read.with_context(|| format!("{}: cannot read", path.display()))?;
    match is_torch_file(&start[..length]) {
        true => Ok(read_state_dict(path, None)?.tensors),
        false => Ok(read_tensors(path)?.into_iter().collect()),
    }
}

fn fill(variables: &[Named], saved: &HashMap<String, Tensor>, file: &Path) -> InitReport {
    let mut report =
        InitReport { file: file.to_path_buf(), parts: BTreeMap::new(), misshapen: Vec::new(), unused: Vec::new() };
    for (name, variable) in variables {
        let part = name.split('.').next().unwrap_or_default().to_string();
        let (taken, all) = report.parts.entry(part).or_default();
        *all += 1;
        match saved.get(name) {
            Some(source) if source.size() == variable.size() => {
                tch::no_grad(|| variable.shallow_clone().copy_(source));
                *taken += 1;
            }
            Some(source) => report.misshapen.push((name.clone(), source.size(), variable.size())),
            None => {}
        }
    }
    let known: HashSet<&String> = variables.iter().map(|(name, _)| name).collect();
    // Counters of batches are no weights, and the loop's own state is no tensor of the network.
    let counts = |name: &String| {
        !known.contains(name) && !name.ends_with("num_batches_tracked") && !name.ends_with("loop_state.json")
    };
    report.unused = saved.keys().filter(|name| counts(name)).cloned().collect();
    report.unused.sort();
    report
}
