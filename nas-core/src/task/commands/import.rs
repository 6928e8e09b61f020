//! The command `import`: weights of PyTorch as safetensors, read without Python.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;

use crate::optim::Named;
use crate::run::cli::{Format, print};
use crate::run::import::read_state_dict;
use crate::train::write_tensors;

/// Convert a PyTorch `state_dict` file to safetensors; nothing in it is run
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Both formats of torch.save are read: the zip archive, and the old one of pickles one after another. \
Whatever is no tensor is refused by its name, or left out where it is a plain value.

Example:
  nas-classify import resnet20-12fca82f.th --rename linear=fc --out resnet20.safetensors"
)]
pub struct ImportArgs {
    /// File of torch.save
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// File to write
    #[arg(long, value_name = "FILE.safetensors")]
    out: PathBuf,
    /// Where in the file the tensors are, such as state_dict or ema.model [default: the only place that has some]
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Replace the start of names (whole components: `linear` is not the start of `linear2.weight`); may be repeated
    #[arg(long = "rename", value_name = "OLD=NEW", value_parser = parse_rename)]
    renames: Vec<(String, String)>,
    /// How to print what was read
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Serialize)]
struct ImportReport {
    file: PathBuf,
    out: PathBuf,
    /// Where in the file the tensors were.
    key: String,
    tensors: usize,
    numbers: usize,
    /// A start that all names had and that was taken off.
    stripped: Option<&'static str>,
    /// Entries that are no tensors.
    left_out: Vec<String>,
}

impl fmt::Display for ImportReport {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}: {} tensors, {} numbers", self.out.display(), self.tensors, self.numbers)?;
        if !self.key.is_empty() {
            write!(f, ", from the key {:?}", self.key)?;
        }
        if let Some(stripped) = self.stripped {
            write!(f, "; {stripped:?} taken off the names")?;
        }
        if !self.left_out.is_empty() {
            write!(f, "; left out: {}", self.left_out.join(", "))?;
        }
        Ok(())
    }
}

fn parse_rename(text: &str) -> Result<(String, String), String> {
    let (old, new) = text.split_once('=').ok_or("expected OLD=NEW, such as linear=fc")?;
    Ok((old.to_string(), new.to_string()))
}

/// Runs the command.
pub fn run(args: &ImportArgs) -> Result<()> {
    let is_safetensors = args.out.extension().is_some_and(|ending| ending == "safetensors");
    ensure!(is_safetensors, "--out {}: expected a file that ends in .safetensors", args.out.display());
    let state = read_state_dict(&args.file, args.key.as_deref())?;
    let (tensors, stripped) = strip(state.tensors);
    let tensors = rename(tensors, &args.renames).with_context(|| args.file.display().to_string())?;
    let report = ImportReport {
        file: args.file.clone(),
        out: args.out.clone(),
        key: state.key,
        tensors: tensors.len(),
        numbers: tensors.iter().map(|(_, tensor)| tensor.numel()).sum(),
        stripped,
        left_out: state.others,
    };
    write_tensors(&args.out, tensors)?;
    print(&report, args.format)
}

/// Takes off what torch's `DataParallel` puts before every name.
fn strip(mut tensors: Vec<Named>) -> (Vec<Named>, Option<&'static str>) {
    const WRAPPER: &str = "module.";
    if !tensors.iter().all(|(name, _)| name.starts_with(WRAPPER)) {
        return (tensors, None);
    }
    tensors.iter_mut().for_each(|(name, _)| *name = name[WRAPPER.len()..].to_string());
    (tensors, Some(WRAPPER))
}

/// Applies the first `--rename` that fits each name.
fn rename(tensors: Vec<Named>, renames: &[(String, String)]) -> Result<Vec<Named>> {
    let mut used = BTreeSet::new();
    let renamed = |(name, tensor): Named| {
        let fits = renames.iter().enumerate().find_map(|(i, (old, new))| {
            let rest = name.strip_prefix(old.as_str())?;
            let whole = old.is_empty() || old.ends_with('.') || rest.is_empty() || rest.starts_with('.');
            whole.then(|| (i, format!("{new}{rest}")))
        });
        match fits {
            Some((i, name)) => {
                used.insert(i);
                (name, tensor)
            }
            None => (name, tensor),
        }
    };
    let tensors: Vec<Named> = tensors.into_iter().map(renamed).collect();
    if let Some((_, (old, _))) = renames.iter().enumerate().find(|(i, _)| !used.contains(i)) {
        anyhow::bail!("--rename {old}=...: no tensor's name starts so");
    }
    let mut names = BTreeSet::new();
    for (name, _) in &tensors {
        ensure!(names.insert(name), "--rename gives two tensors the name {name:?}");
    }
    Ok(tensors)
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};

    use super::*;

    fn named(names: &[&str]) -> Vec<Named> {
        names.iter().map(|name| (name.to_string(), Tensor::zeros([1], (Kind::Float, Device::Cpu)))).collect()
    }

    fn names(tensors: &[Named]) -> Vec<&str> {
        tensors.iter().map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn names_lose_a_wrapper_and_are_replaced_by_whole_components() {
        let (tensors, stripped) = strip(named(&["module.linear.weight", "module.linear2.weight"]));
        assert_eq!(stripped, Some("module."));
        let renamed = rename(tensors, &[("linear".into(), "fc".into())]).unwrap();
        assert_eq!(names(&renamed), ["fc.weight", "linear2.weight"]);
        assert_eq!(strip(named(&["module.a", "b"])).1, None);
    }

    #[test]
    fn renames_that_do_nothing_or_join_names_are_refused() {
        let error = rename(named(&["a.weight"]), &[("b".into(), "c".into())]).unwrap_err().to_string();
        assert!(error.contains("--rename b="), "{error}");
        let error = rename(named(&["a.weight", "b.weight"]), &[("b".into(), "a".into())]).unwrap_err().to_string();
        assert!(error.contains("a.weight"), "{error}");
    }
}
