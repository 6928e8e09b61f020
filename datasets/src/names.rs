//! Names that lists, JSON and XML give to samples: names, never paths out of a folder. Every reader asks [`below`] for the file
//! of a name, and [`Unique`] for what a sample is called, since commands write files under that.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// What [`below`] accepts.
pub const EXPECTED: &str = "a name inside the folder: not absolute, without `..` and control characters";

/// Longest name in bytes, folders included.
const MAX_BYTES: usize = 1024;

/// The file `listed` inside `folder`. Backslashes count as separators where no file has them in its name.
///
/// # Errors
/// What is wrong with a name that is empty or a folder's, absolute, climbs out, is overlong or holds control characters.
pub fn below(folder: &Path, listed: &str) -> Result<PathBuf, String> {
    if listed.len() > MAX_BYTES {
        return Err(format!("a name of {} bytes", listed.len()));
    }
    let is_drive = listed.as_bytes().get(1) == Some(&b':') && listed.as_bytes()[0].is_ascii_alphabetic();
    let mut components = listed.split(['/', '\\']);
    let is_sound = !listed.starts_with(['/', '\\'])
        && !is_drive
        && !listed.chars().any(char::is_control)
        && components.clone().next_back().is_some_and(|part| !matches!(part, "" | "."))
        && components.all(|part| part != "..");
    if !is_sound {
        return Err(format!("the name {listed:?}"));
    }
    let literal = folder.join(listed);
    let has_backslash = listed.contains('\\') && !literal.exists();
    Ok(if has_backslash { folder.join(listed.replace('\\', "/")) } else { literal })
}

/// What a sample of this file is called: the file's name without its ending, or with it where no name would be left (`...png`).
pub fn stem(file: &Path) -> String {
    let stem = file.file_stem().filter(|stem| !matches!(stem.to_str(), Some("." | "..")));
    stem.or(file.file_name()).unwrap_or_default().to_string_lossy().into_owned()
}

/// A listed file name as one component, without its ending.
pub fn flat(listed: &str) -> String {
    let listed = listed.replace('\\', "/");
    let file = Path::new(&listed);
    file.with_file_name(stem(file)).to_string_lossy().replace('/', "_")
}

/// The names of a set so far.
#[derive(Debug, Default)]
pub struct Unique {
    taken: HashSet<String>,
}

impl Unique {
    /// Takes a name. One that is taken gets the first free number: `a`, `a_2`, `a_3`.
    pub fn claim(&mut self, name: &str) -> String {
        let numbered = (2u64..).map(|number| format!("{name}_{number}"));
        let mut names = std::iter::once(name.to_owned()).chain(numbered);
        let free = names.find(|name| !self.taken.contains(name)).expect("numbers do not end");
        self.taken.insert(free.clone());
        free
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_stay_inside_their_folder() {
        let folder = Path::new("/data/images");
        for (listed, path) in [("a.png", "a.png"), ("b/c d.png", "b/c d.png"), ("w\\x.png", "w/x.png"), ("..a", "..a")]
        {
            assert_eq!(below(folder, listed), Ok(folder.join(path)));
        }
        for listed in [
            "",
            ".",
            "a/",
            "a/.",
            "a\\",
            "/etc/x",
            "../x",
            "a/../../x",
            "a\\..\\x",
            "C:\\x",
            "c:/x",
            "\\\\host\\x",
            "a\u{1b}[m",
            "a\0",
        ] {
            assert!(below(folder, listed).is_err(), "{listed:?}");
        }
        assert_eq!(below(folder, &"a".repeat(2000)), Err("a name of 2000 bytes".into()));
    }

    #[test]
    fn a_name_stays_where_a_stem_would_lead_out() {
        for (file, name) in
            [("a/b.c.png", "b.c"), ("..png", "..png"), ("a/...png", "...png"), (".png", ".png"), ("....", "...")]
        {
            assert_eq!(stem(Path::new(file)), name);
        }
        assert_eq!(["a/b\\c.png", "a.b/c", "...png", "a/...png"].map(flat), ["a_b_c", "a.b_c", "...png", "a_...png"]);
    }

    #[test]
    fn taken_names_are_numbered_around_each_other() {
        let mut names = Unique::default();
        let given = ["a", "a", "a_2", "b", "a"].map(|name| names.claim(name));
        assert_eq!(given, ["a", "a_2", "a_2_2", "b", "a_3"]);
    }

    proptest! {
        #[test]
        fn no_name_leads_out_of_the_folder(listed in "[a./\\\\:C\u{1} ]{0,12}") {
            let folder = Path::new("/data/images");
            if let Ok(path) = below(folder, &listed) {
                let depth = path.strip_prefix(folder).unwrap().components();
                prop_assert!(depth.into_iter().all(|part| matches!(part, std::path::Component::Normal(_))));
            }
        }
    }
}
