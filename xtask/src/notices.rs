//! The licences of the crates that the programs are made of, which their copies must carry.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::PROGRAMS;
use crate::dist::output;

/// What the file is called in the packages.
pub const FILE: &str = "THIRD-PARTY.txt";

/// Every crate with its licence and where it comes from, then the texts, each once with the crates whose it is.
pub fn notices(root: &Path) -> Result<String> {
    let mut tree = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    tree.args(["tree", "--locked", "--edges", "normal", "--prefix", "none", "--format", "{p}|{l}|{r}"]);
    PROGRAMS.iter().for_each(|program| _ = tree.args(["--package", program]));
    let listed = output(tree.current_dir(root))?;
    let sources = sources()?;
    let mut crates: BTreeMap<String, (String, String)> = BTreeMap::new();
    for line in listed.lines() {
        let mut parts = line.split('|');
        let (Some(name), Some(licence), from) = (parts.next(), parts.next(), parts.next().unwrap_or_default()) else {
            continue;
        };
        let mut words = name.split_whitespace();
        // The project's own have a path behind their version.
        if let (Some(name), Some(version), None | Some("(*)" | "(proc-macro)")) =
            (words.next(), words.next(), words.next())
        {
            let folder = format!("{name}-{}", version.trim_start_matches('v'));
            crates.insert(folder, (licence.trim_end_matches(" (*)").into(), from.trim_end_matches(" (*)").into()));
        }
    }
    ensure!(!crates.is_empty(), "cargo tree lists no crate");
    let mut text = String::from("The programs hold code of these crates.\n\n");
    let mut texts: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (name, (licence, from)) in &crates {
        writeln!(text, "{name}: {licence}; {from}")?;
        let folder = sources.iter().map(|source| source.join(name)).find(|folder| folder.is_dir());
        let folder = folder.with_context(|| format!("{name}: its source is not in cargo's registry"))?;
        for file in licence_files(&folder)? {
            let read = fs::read(&file).with_context(|| format!("{}: cannot read", file.display()))?;
            texts.entry(String::from_utf8_lossy(&read).trim().to_string()).or_default().push(name);
        }
    }
    for (licence, names) in texts {
        writeln!(text, "\n{}\n{}\n\n{licence}", "=".repeat(80), names.join(", "))?;
    }
    Ok(text)
}

/// Folders of unpacked crates.
fn sources() -> Result<Vec<PathBuf>> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home =
        home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo"))).context("no home folder")?;
    let registry = home.join("registry/src");
    let entries = fs::read_dir(&registry).with_context(|| format!("{}: cannot read", registry.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

fn licence_files(folder: &Path) -> Result<Vec<PathBuf>> {
    const NAMES: [&str; 4] = ["LICEN", "COPYING", "NOTICE", "UNLICENSE"];
    let entries = fs::read_dir(folder).with_context(|| format!("{}: cannot read", folder.display()))?;
    let mut files: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.retain(|file| {
        let name = file.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
        file.is_file() && NAMES.iter().any(|start| name.starts_with(start))
    });
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_crate_is_named_and_its_licence_given() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let text = notices(root).unwrap();
        for part in ["\ntch-", "\nserde-1", "\nclap-", "MIT OR Apache-2.0", "Permission is hereby granted"] {
            assert!(text.contains(part), "{part}");
        }
        assert!(!text.contains("nas-core-"), "the project's own are no third party's");
    }
}
