//! One folder per run. The only module that knows its file names.
//!
//! ```text
//! config.toml   resolved, enough to rerun      meta.json      command line, version, device, commit, start time
//! run.log       what was printed               metrics.jsonl  one line per epoch
//! checkpoints/  last.safetensors best.safetensors state.json
//! result.json   written last: its presence means done
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// An open run folder; no other process can open it until this is dropped. A new one in which nothing was written until then,
/// because the data could not be read, say, is removed again: the same command works once its cause is mended.
#[derive(Debug)]
pub struct RunDir {
    root: PathBuf,
    _lock: File,
    /// Begun by this process.
    new: bool,
}

/// Whether the lock could be had. A process that was killed a moment ago, or the child of one, may still be ending.
fn acquire(lock: &File) -> bool {
    const PATIENCE: Duration = Duration::from_secs(2);
    let started = Instant::now();
    while lock.try_lock().is_err() {
        if started.elapsed() > PATIENCE {
            return false;
        }
        sleep(Duration::from_millis(20));
    }
    true
}

impl RunDir {
    /// Opens `root` for a run with the resolved config text `config`.
    ///
    /// Fails when another process works in it, when it holds a run and `resume` is not given, or when it holds a run of
    /// another config. `meta` is written for a new run.
    pub fn open(root: &Path, config: &str, resume: bool, meta: &impl Serialize) -> Result<Self> {
        fs::create_dir_all(root.join("checkpoints"))
            .with_context(|| format!("{}: cannot create the run folder", root.display()))?;
        let lock_path = root.join(".lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.with_context(|| format!("{}: cannot open", lock_path.display()))?;
        if !acquire(&lock) {
            bail!("{}: another process is working in this run folder", root.display());
        }
        let mut dir = Self { root: root.to_path_buf(), _lock: lock, new: false };
        let stored = dir.path("config.toml");
        match fs::read_to_string(&stored) {
            Ok(_) if !resume => bail!(
                "{}: the folder already holds a run; go on with it by --resume, or name another folder by --out",
                root.display()
            ),
            Ok(text) if text != config => bail!(
                "{}: --resume goes on with the run's own config, but this one differs: {}",
                stored.display(),
                first_difference(&text, config)
            ),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                dir.new = true;
                write_atomic(&dir.path("meta.json"), pretty(meta).as_bytes())?;
                write_atomic(&stored, config.as_bytes())?;
            }
            Err(error) => return Err(error).with_context(|| format!("{}: cannot read", stored.display())),
        }
        Ok(dir)
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A file or folder below the run folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The result of a run that is done.
    pub fn result<T: DeserializeOwned>(&self) -> Result<Option<T>> {
        read_result(&self.root)
    }

    /// Writes the result, the last act of a run.
    pub fn finish(&self, result: &impl Serialize) -> Result<()> {
        write_atomic(&self.path("result.json"), pretty(result).as_bytes())
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        const OWN: [&str; 4] = [".lock", "checkpoints", "config.toml", "meta.json"];
        let is_own = |entry: io::Result<fs::DirEntry>| entry.is_ok_and(|e| OWN.iter().any(|own| e.file_name() == *own));
        let unused = self.new && fs::read_dir(&self.root).is_ok_and(|mut entries| entries.all(is_own));
        // A checkpoint keeps its folder and ends this; what cannot be removed does no harm.
        if unused && fs::remove_dir(self.path("checkpoints")).is_ok() {
            let files = ["config.toml", "meta.json", ".lock"];
            let _ = files
                .iter()
                .try_for_each(|file| fs::remove_file(self.path(file)))
                .and_then(|()| fs::remove_dir(&self.root));
        }
    }
}

/// The result in the run folder `root`, if the run is done.
pub fn read_result<T: DeserializeOwned>(root: &Path) -> Result<Option<T>> {
    let path = root.join("result.json");
    match path.exists() {
        true => read_json(&path).map(Some),
        false => Ok(None),
    }
}

/// Reads a JSON file; errors name the file, the key and what was expected.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).with_context(|| format!("{}: cannot read", path.display()))?;
    let mut reader = serde_json::Deserializer::from_str(&text);
    serde_path_to_error::deserialize(&mut reader).with_context(|| format!("{}: not what was expected", path.display()))
}

/// Writes a file so that a reader sees the old content or the new one, never a part: temporary file, fsync, rename.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomic_with(path, |temporary| fs::write(temporary, bytes))
}

/// As [`write_atomic`], for writers that want a path of their own.
pub fn write_atomic_with<E>(path: &Path, write: impl FnOnce(&Path) -> Result<(), E>) -> Result<()>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let replace = || -> Result<()> {
        write(&temporary)?;
        File::open(&temporary)?.sync_all()?;
        fs::rename(&temporary, path)?;
        Ok(())
    };
    replace().with_context(|| format!("{}: cannot write", path.display())).inspect_err(|_| {
        // What is left of a failed write is of no use; that it cannot be removed either changes nothing.
        let _ = fs::remove_file(&temporary);
    })
}

/// Indented JSON with a final newline.
pub fn pretty(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).expect("results have string keys") + "\n"
}

/// An append-only file of JSON lines that can be cut back to an earlier length.
#[derive(Debug)]
pub struct JsonLines {
    path: PathBuf,
    file: File,
}

impl JsonLines {
    /// Opens or creates `path` and cuts it to `keep` bytes: what a killed process wrote after its last checkpoint is
    /// written again.
    pub fn open(path: PathBuf, keep: u64) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).read(true).open(&path);
        let file = file.with_context(|| format!("{}: cannot open", path.display()))?;
        let length = file.metadata()?.len();
        if length < keep {
            bail!("{}: {length} bytes found, but the checkpoint knows {keep}; the file was changed", path.display());
        }
        file.set_len(keep)?;
        Ok(Self { path, file })
    }

    /// Appends one line and returns the file's length.
    pub fn append(&mut self, value: &impl Serialize) -> Result<u64> {
        let line = serde_json::to_string(value).expect("metrics have string keys") + "\n";
        self.file.write_all(line.as_bytes()).with_context(|| format!("{}: cannot write", self.path.display()))?;
        Ok(self.file.metadata()?.len())
    }
}

fn first_difference(old: &str, new: &str) -> String {
    let section = |text: &str, line: usize| {
        let above = text.lines().take(line + 1).filter(|line| line.starts_with('[')).last();
        above.map(|name| format!(" in {name}")).unwrap_or_default()
    };
    let (mut old_lines, mut new_lines) = (old.lines(), new.lines());
    for line in 0.. {
        match (old_lines.next(), new_lines.next()) {
            (Some(a), Some(b)) if a == b => {}
            (a, b) => {
                let show = |line: Option<&str>| line.unwrap_or("nothing").to_string();
                return format!("`{}` there, `{}` here{}", show(a), show(b), section(old, line));
            }
        }
    }
    unreachable!("the texts differ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(root: &Path, config: &str, resume: bool) -> Result<RunDir> {
        RunDir::open(root, config, resume, &"meta")
    }

    #[test]
    fn a_second_opener_is_refused_until_the_first_is_gone() {
        let temp = tempfile::tempdir().unwrap();
        let first = open(temp.path(), "a = 1\n", false).unwrap();
        let error = open(temp.path(), "a = 1\n", true).unwrap_err().to_string();
        assert!(error.contains("another process"), "{error}");
        drop(first);
        open(temp.path(), "a = 1\n", true).unwrap();
    }

    #[test]
    fn a_new_folder_is_removed_if_nothing_was_written_in_it() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("run");
        drop(open(&root, "a = 1\n", false).unwrap());
        assert!(!root.exists());
        for file in ["run.log", "checkpoints/state.json"] {
            let dir = open(&root, "a = 1\n", false).unwrap();
            fs::write(dir.path(file), "").unwrap();
            drop(dir);
            drop(open(&root, "a = 1\n", true).unwrap());
            assert!(root.join(file).exists() && root.join("config.toml").exists());
            fs::remove_dir_all(&root).unwrap();
        }
    }

    #[test]
    fn a_run_is_neither_overwritten_nor_resumed_under_another_config() {
        let temp = tempfile::tempdir().unwrap();
        open(temp.path(), "[train]\nepochs = 1\n", false).unwrap().finish(&1).unwrap();
        assert!(open(temp.path(), "[train]\nepochs = 1\n", false).unwrap_err().to_string().contains("--resume"));
        let error = open(temp.path(), "[train]\nepochs = 2\n", true).unwrap_err().to_string();
        assert!(error.contains("`epochs = 1` there, `epochs = 2` here in [train]"), "{error}");
    }

    #[test]
    fn lines_after_the_checkpoint_are_cut() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("metrics.jsonl");
        let mut lines = JsonLines::open(path.clone(), 0).unwrap();
        let keep = lines.append(&1).unwrap();
        lines.append(&2).unwrap();
        let mut lines = JsonLines::open(path.clone(), keep).unwrap();
        lines.append(&3).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n3\n");
        assert!(JsonLines::open(path, 99).is_err());
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("x.json");
        write_atomic(&path, b"old").unwrap();
        let error = write_atomic_with(&path, |_| Err(io::Error::from(io::ErrorKind::StorageFull))).unwrap_err();
        assert!(error.to_string().contains("x.json"));
        assert_eq!(fs::read(&path).unwrap(), b"old");
    }
}
