//! The commands that the documentation shows exist, take the options that it gives them, and name files that are there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use nas_tests::{CLASSIFY, DETECT, SEGMENT, Tool, root};

fn markdown(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let is_page = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "md");
    paths
        .into_iter()
        .flat_map(|path| if path.is_dir() { markdown(&path) } else { vec![path] })
        .filter(is_page)
        .collect()
}

/// The lines of the blocks of code, those that end in a backslash joined with the next.
fn commands(text: &str) -> Vec<String> {
    let mut is_code = false;
    let mut lines: Vec<String> = Vec::new();
    let mut goes_on = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            (is_code, goes_on) = (!is_code, false);
            continue;
        }
        if !is_code {
            continue;
        }
        let (part, more) = line.trim().strip_suffix('\\').map_or((line.trim(), false), |part| (part, true));
        match lines.last_mut() {
            Some(last) if goes_on => last.push_str(&format!(" {part}")),
            _ => lines.push(part.to_string()),
        }
        goes_on = more;
    }
    lines
}

/// A command of a line: the tool, its words up to a comment, a pipe or the next command.
fn parse(line: &str) -> Option<(Tool, Vec<String>)> {
    let words: Vec<&str> =
        line.split_whitespace().skip_while(|word| word.contains('=') && !word.starts_with('-')).collect();
    let tool =
        [SEGMENT, CLASSIFY, DETECT].into_iter().find(|tool| words.first().is_some_and(|word| *word == tool.name()))?;
    let end = |word: &&str| !matches!(*word, "#" | "|" | ">" | "&&" | "||" | ";" | "then" | "or" | "2>&1");
    Some((tool, words[1..].iter().copied().take_while(end).map(String::from).collect()))
}

#[test]
fn commands_of_the_documentation_are_taken() {
    let mut pages = markdown(&root().join("docs"));
    pages.extend(
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "datasets/README.md"].map(|page| root().join(page)),
    );
    let mut helps: BTreeMap<String, String> = BTreeMap::new();
    let (mut seen, mut wrong) = (0, Vec::new());
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for (tool, words) in commands(&text).iter().filter_map(|line| parse(line)) {
            seen += 1;
            let is_name =
                |word: &&String| word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !word.starts_with('-');
            let mut path: Vec<&str> = words.iter().take_while(is_name).map(String::as_str).collect();
            path.truncate(2);
            // The second word may be what the command works on.
            let help = loop {
                let help = helps.entry(format!("{} {}", tool.name(), path.join(" "))).or_insert_with(|| {
                    let output = tool.command(&[&path[..], &["--help"]].concat()).output().unwrap();
                    String::from_utf8(output.stdout).unwrap()
                });
                if path.len() < 2 || !help.is_empty() {
                    break help.clone();
                }
                path.pop();
            };
            let mut fault = |what: String| {
                wrong.push(format!("{}: {} {}: {what}", page.display(), tool.name(), words.join(" ")));
            };
            if help.is_empty() {
                fault("no such command".into());
            }
            for option in words.iter().filter(|word| word.starts_with("--") && word.len() > 2) {
                let name = option.split('=').next().unwrap().trim_end_matches([']', ')', ',']);
                let ends = |rest: &str| rest.starts_with(|c: char| !c.is_alphanumeric() && c != '-');
                if !help.split(name).skip(1).any(ends) {
                    fault(format!("no option {name}"));
                }
            }
            for file in words.iter().filter(|word| word.starts_with("configs/") && word.ends_with(".toml")) {
                if !root().join(file).exists() {
                    fault(format!("no file {file}"));
                }
            }
        }
    }
    assert!(seen > 50, "{seen} commands were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn lines_of_code_are_read_as_a_shell_does() {
    let text = "nas-segment no\n```\nnas-segment train --config a.toml \\\n    --out b  # then\nX=1 nas-detect eval | head\n```\nnas-classify no\n";
    let found: Vec<(&str, String)> = commands(text)
        .iter()
        .filter_map(|line| parse(line))
        .map(|(tool, words)| (tool.name(), words.join(" ")))
        .collect();
    assert_eq!(
        found,
        [("nas-segment", "train --config a.toml --out b".to_string()), ("nas-detect", "eval".to_string())]
    );
}
