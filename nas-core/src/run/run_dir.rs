//! One folder per run. The only module that knows its file names.
//!
//! ```text
//! config.toml   resolved, enough to rerun         meta.json      layout, command line, version, device, commit, start time
//! run.log       what was printed                  metrics.jsonl  one line per epoch
//! classes.json  what the network's outputs are    checkpoints/   last.safetensors best.safetensors state.json
//! times.jsonl   when epochs or trials ended       result.json    written last: its presence means done
//! ```

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nas_datasets::{read_utf8, require_same_classes};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::run::config::{Growth, growth};
use crate::run::{tensorboard, words};

/// Version of the files in a run folder, raised when their meaning changes. Folders of another version are refused.
pub const LAYOUT: u64 = 1;

/// Files that a run folder gets before anything is computed.
const OWN: [&str; 3] = [".lock", "meta.json", "config.toml"];

/// What files being written are called.
const TEMPORARY: (&str, &str) = (".nas-", ".tmp");

/// An open run folder; no other process can open it until this is dropped. A new one in which nothing was written until then,
/// because the data could not be read, say, is removed again: the same command works once its cause is mended.
#[derive(Debug)]
pub struct RunDir {
    root: PathBuf,
    _lock: File,
    /// Begun by this process.
    new: bool,
    /// Made by this process, the folder itself included.
    made_root: bool,
    growth: Option<Growth>,
    /// Whether its work is told to TensorBoard.
    tensorboard: bool,
}

/// What a folder holds before it is opened.
enum Holds {
    Nothing,
    /// A run of this layout, by its `meta.json`.
    Run(Value),
}

/// Looks into a folder without touching it. Files that are no run's are an error.
fn look_into(root: &Path) -> Result<Holds> {
    let entries = match fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Holds::Nothing),
        entries => entries.with_context(|| format!("{}: cannot read the folder", root.display()))?,
    };
    let names = entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
    let meta = names.iter().any(|name| name == "meta.json").then(|| read_json::<Value>(&root.join("meta.json")));
    let layout = meta.as_ref().and_then(|meta| meta.as_ref().ok()?.get("layout")?.as_u64());
    match (meta, layout) {
        (Some(_), Some(layout)) if layout != LAYOUT => {
            bail!("{}: a run folder of layout {layout}; this program reads and writes layout {LAYOUT}", root.display())
        }
        (Some(Ok(meta)), Some(_)) if names.iter().any(|name| name == "config.toml") => Ok(Holds::Run(meta)),
        // What a process leaves that was killed while it began a run.
        (meta, layout) if names.iter().all(|name| is_beginning(name)) && (meta.is_none() || layout.is_some()) => {
            Ok(Holds::Nothing)
        }
        _ => bail!(
            "{}: the folder holds files that are no run of this program, such as {}; expected an empty folder, or one that \
             does not exist",
            root.display(),
            words::name(&names.iter().min().unwrap_or(&"nothing".into()).to_string_lossy())
        ),
    }
}

fn is_beginning(name: &std::ffi::OsStr) -> bool {
    name == ".lock" || name == "meta.json" || is_temporary(name)
}

fn is_temporary(name: &std::ffi::OsStr) -> bool {
    let name = name.to_string_lossy();
    name.starts_with(TEMPORARY.0) && name.ends_with(TEMPORARY.1)
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

/// Opens the lock file; in a folder that may only be read, as it is.
fn open_lock(path: &Path) -> io::Result<File> {
    let options = || {
        let mut options = OpenOptions::new();
        options.custom_flags(libc::O_NOFOLLOW);
        options
    };
    let writable = options().create(true).truncate(false).write(true).open(path);
    writable.or_else(|error| options().read(true).open(path).map_err(|_| error))
}

/// Opens a file of a run for appending; a link, which may lead out of the folder, is an error.
pub(crate) fn open_to_append(path: &Path) -> Result<File> {
    let file = OpenOptions::new().create(true).append(true).read(true).custom_flags(libc::O_NOFOLLOW).open(path);
    match file {
        Err(_) if path.is_symlink() => bail!("{}: a link; expected a file", path.display()),
        file => file.with_context(|| format!("{}: cannot open", path.display())),
    }
}

impl RunDir {
    /// Opens `root` for a run with the resolved config text `config`: a new or empty folder, or with `resume` one that holds
    /// a run of the same config. Any other folder is refused and stays as it is.
    ///
    /// `meta` is written for a new run. A key `job` in it names the command, and folders of another command are refused.
    ///
    /// # Errors
    /// Also when another process works in the folder.
    pub fn open(root: &Path, config: &str, resume: bool, meta: &impl Serialize) -> Result<Self> {
        Self::open_growing(root, config, resume, meta, None)
    }

    /// As [`RunDir::open`]; with `resume` also where the run's config has a smaller number under the dotted key `grows` and
    /// differs in nothing else. Such a run gets the new config, and goes on though it may have been done.
    pub fn open_growing(
        root: &Path,
        config: &str,
        resume: bool,
        meta: &impl Serialize,
        grows: Option<&str>,
    ) -> Result<Self> {
        let meta = with_layout(meta);
        check_same_job(root, &look_into(root)?, &meta)?;
        let made_root = !root.exists();
        fs::create_dir_all(root).with_context(|| format!("{}: cannot create the run folder", root.display()))?;
        let lock_path = root.join(".lock");
        let lock = open_lock(&lock_path).with_context(|| format!("{}: cannot open", lock_path.display()))?;
        if !acquire(&lock) {
            bail!("{}: another process is working in this run folder", root.display());
        }
        let mut dir =
            Self { root: root.to_path_buf(), _lock: lock, new: false, made_root, growth: None, tensorboard: false };
        // Another process may have begun or ended a run before the lock was had.
        let holds = look_into(root)?;
        check_same_job(root, &holds, &meta)?;
        match holds {
            Holds::Run(_) => dir.growth = dir.take_over(config, resume, grows)?,
            Holds::Nothing => {
                sweep(root);
                dir.new = true;
                write_atomic(&dir.path("meta.json"), pretty(&meta).as_bytes())?;
                write_atomic(&dir.path("config.toml"), config.as_bytes())?;
            }
        }
        fs::create_dir_all(dir.path("checkpoints"))
            .with_context(|| format!("{}: cannot create", dir.path("checkpoints").display()))?;
        Ok(dir)
    }

    fn take_over(&self, config: &str, resume: bool, grows: Option<&str>) -> Result<Option<Growth>> {
        let stored = self.path("config.toml");
        let text = read_text(&stored)?;
        if !resume {
            bail!(
                "{}: the folder already holds a run; go on with it by --resume, or name another folder by --out",
                self.root.display()
            );
        }
        let growth = grows.and_then(|key| growth(&text, config, key));
        if text != config && growth.is_none() {
            bail!(
                "{}: --resume goes on with the run's own config, but this one differs: {}",
                stored.display(),
                first_difference(&text, config)
            );
        }
        for folder in [self.root.clone(), self.path("checkpoints")] {
            sweep(&folder);
        }
        if growth.is_some() {
            // In this order: a kill in between leaves a run that is not done.
            self.remove_result()?;
            write_atomic(&stored, config.as_bytes())?;
        }
        Ok(growth)
    }

    fn remove_result(&self) -> Result<()> {
        let path = self.path("result.json");
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("{}: cannot remove", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// The same folder, whose work is told to TensorBoard where that is `wanted`.
    pub fn with_tensorboard(mut self, wanted: bool) -> Self {
        self.tensorboard = wanted;
        self
    }

    /// Where event files are to be written, if they are.
    pub fn tensorboard(&self) -> Option<PathBuf> {
        self.tensorboard.then(|| self.path(tensorboard::FOLDER))
    }

    /// By what this process made the run longer.
    pub fn growth(&self) -> Option<&Growth> {
        self.growth.as_ref()
    }

    /// Writes down what the outputs of the run's network stand for. A resumed run must have the same classes.
    pub fn record_classes(&self, names: &[String]) -> Result<()> {
        let path = self.path(CLASSES);
        if path.exists() {
            let stored: Vec<String> = read_json(&path)?;
            require_same_classes("the run so far", &stored, "the data set", names)
                .with_context(|| path.display().to_string())?;
            return Ok(());
        }
        write_atomic(&path, pretty(&names).as_bytes())
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
        let is_own = |entry: io::Result<fs::DirEntry>| {
            entry.is_ok_and(|e| e.file_name() == "checkpoints" || OWN.iter().any(|own| e.file_name() == *own))
        };
        let unused = self.new && fs::read_dir(&self.root).is_ok_and(|mut entries| entries.all(is_own));
        // A checkpoint keeps its folder and ends this; what cannot be removed does no harm.
        if unused && fs::remove_dir(self.path("checkpoints")).is_ok() {
            let _ = OWN.iter().rev().try_for_each(|file| fs::remove_file(self.path(file)));
            if self.made_root {
                let _ = fs::remove_dir(&self.root);
            }
        }
    }
}

/// Names of the classes that a run's network tells apart.
const CLASSES: &str = "classes.json";

/// The classes of the run in a folder, in the order of its network's outputs.
pub fn read_classes(root: &Path) -> Result<Vec<String>> {
    read_json(&root.join(CLASSES)).context("cannot tell which classes the run knows")
}

/// `meta` with the version of the layout. A meta that is no table becomes one.
fn with_layout(meta: &impl Serialize) -> Value {
    let mut table = match serde_json::to_value(meta).expect("meta data has string keys") {
        Value::Object(table) => table,
        other => Map::from_iter([("about".to_string(), other)]),
    };
    table.insert("layout".into(), LAYOUT.into());
    table.into()
}

fn check_same_job(root: &Path, holds: &Holds, meta: &Value) -> Result<()> {
    let Holds::Run(stored) = holds else { return Ok(()) };
    let job = |meta: &Value| meta.get("job").and_then(Value::as_str).map(str::to_owned);
    match (job(stored), job(meta)) {
        (Some(stored), Some(job)) if stored != job => bail!(
            "{}: the folder holds a run of `{}`, not of `{job}`; name another folder by --out",
            root.display(),
            words::name(&stored)
        ),
        _ => Ok(()),
    }
}

/// Removes what killed processes were writing. The folder is locked, so nobody writes there.
fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if is_temporary(&entry.file_name()) && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            // It would do no harm but take room.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// A folder of files that a command such as `predict` writes: a new or empty one, or one that the same command `job` wrote.
/// Any other is refused and stays as it is.
pub fn open_output(root: &Path, job: &str) -> Result<()> {
    let meta = with_layout(&serde_json::json!({ "job": job }));
    let holds = match look_into(root) {
        Ok(holds) => holds,
        Err(refusal) => match read_json::<Value>(&root.join("meta.json")) {
            Ok(stored) if stored.get("layout") == meta.get("layout") => Holds::Run(stored),
            _ => return Err(refusal),
        },
    };
    check_same_job(root, &holds, &meta)?;
    fs::create_dir_all(root).with_context(|| format!("{}: cannot create the folder", root.display()))?;
    write_atomic(&root.join("meta.json"), pretty(&meta).as_bytes())
}

/// Refuses names that are given twice or that are no names of files below a folder: models of a comparison, say.
///
/// # Errors
/// The first such name; `what` says what is called so.
pub fn require_names<'a>(what: &str, names: impl IntoIterator<Item = &'a str>) -> Result<()> {
    const MAX_BYTES: usize = 100;
    let mut seen = HashSet::new();
    for name in names {
        let is_sound = !name.is_empty()
            && name.len() <= MAX_BYTES
            && !name.starts_with(['.', ' '])
            && !name.chars().any(|c| c.is_control() || matches!(c, '/' | '\\' | '|'));
        ensure!(
            is_sound,
            "{what} {name:?}; expected a name of 1 to {MAX_BYTES} bytes without /, \\, | and control characters that does \
             not begin with a dot, since files are called after it"
        );
        ensure!(seen.insert(name), "{what} {name:?} twice; expected every name once");
    }
    Ok(())
}

/// Refuses seeds that are given twice: the same training would count as two.
pub fn require_distinct_seeds(seeds: &[u64]) -> Result<()> {
    let mut seen = HashSet::new();
    match seeds.iter().find(|seed| !seen.insert(*seed)) {
        Some(seed) => bail!("seeds = {seeds:?} holds {seed} twice; expected every seed once"),
        None => Ok(()),
    }
}

/// The weights of the training in the run folder `root` after its last epoch.
pub fn last_weights(root: &Path) -> PathBuf {
    root.join("checkpoints/last.safetensors")
}

/// Those of the epoch with the best validation, where there was one.
pub fn best_weights(root: &Path) -> Option<PathBuf> {
    Some(root.join("checkpoints/best.safetensors")).filter(|file| file.exists())
}

/// The result in the run folder `root`, if the run is done.
pub fn read_result<T: DeserializeOwned>(root: &Path) -> Result<Option<T>> {
    let path = root.join("result.json");
    match path.exists() {
        true => read_json(&path).map(Some),
        false => Ok(None),
    }
}

/// Largest text file of a run that is read.
const MAX_TEXT_BYTES: u64 = 1 << 30;

/// A text file of a run.
pub fn read_text(path: &Path) -> Result<String> {
    read_utf8(path, MAX_TEXT_BYTES).with_context(|| format!("{}: cannot read", path.display()))
}

/// Reads a JSON file; errors name the file, the key and what was expected.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = read_text(path)?;
    let mut reader = serde_json::Deserializer::from_str(&text);
    serde_path_to_error::deserialize(&mut reader).with_context(|| format!("{}: not what was expected", path.display()))
}

/// Writes a file so that a reader sees the old content or the new one, never a part: temporary file, fsync, rename. A link
/// is replaced, not followed.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomic_with(path, |temporary| fs::write(temporary, bytes))
}

/// As [`write_atomic`], for writers that want a path of their own.
pub fn write_atomic_with<E>(path: &Path, write: impl FnOnce(&Path) -> Result<(), E>) -> Result<()>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let replace = || -> Result<()> {
        let kind = fs::symlink_metadata(path).map(|file| file.file_type());
        if path.starts_with("/dev") || kind.is_ok_and(|kind| kind.is_fifo() || kind.is_char_device()) {
            return Ok(write(path)?); // a place that takes bytes, and that nobody wants replaced
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut builder = tempfile::Builder::new();
        builder.prefix(TEMPORARY.0).suffix(TEMPORARY.1).permissions(fs::Permissions::from_mode(0o666));
        // It is removed where it is not renamed.
        let temporary = builder.tempfile_in(folder)?.into_temp_path();
        write(&temporary)?;
        File::open(&temporary)?.sync_all()?;
        temporary.persist(path)?;
        Ok(())
    };
    replace().with_context(|| format!("{}: cannot write", path.display()))
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
        let file = open_to_append(&path)?;
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

/// The first line in which two texts of configs differ.
pub(crate) fn first_difference(old: &str, new: &str) -> String {
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
    fn folders_that_hold_no_run_stay_as_they_are() {
        let temp = tempfile::tempdir().unwrap();
        for (name, text) in
            [("meta.json", "{\"my\":1}"), ("metrics.jsonl", "1\n"), ("checkpoints/last.safetensors", "x")]
        {
            let root = temp.path().join(name.replace('/', "_"));
            let file = root.join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, text).unwrap();
            let before = names_of(&root);
            for resume in [false, true] {
                let error = open(&root, "a = 1\n", resume).unwrap_err().to_string();
                assert!(error.contains("no run of this program"), "{error}");
            }
            assert_eq!((fs::read_to_string(&file).unwrap(), names_of(&root)), (text.into(), before));
        }
        let empty = temp.path().join("empty");
        fs::create_dir(&empty).unwrap();
        drop(open(&empty, "a = 1\n", false).unwrap());
        assert_eq!(names_of(&empty), [""; 0], "an empty folder of somebody's stays, and empty");
    }

    fn names_of(root: &Path) -> Vec<String> {
        let names = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    }

    #[test]
    fn other_layouts_and_other_commands_are_refused() {
        let temp = tempfile::tempdir().unwrap();
        let meta = |job: &str| serde_json::json!({ "job": job });
        RunDir::open(temp.path(), "a = 1\n", false, &meta("nas-x train")).unwrap().finish(&1).unwrap();
        let error = RunDir::open(temp.path(), "a = 1\n", true, &meta("nas-x search")).unwrap_err().to_string();
        assert!(error.contains("a run of `nas-x train`, not of `nas-x search`"), "{error}");
        RunDir::open(temp.path(), "a = 1\n", true, &meta("nas-x train")).unwrap();
        fs::write(temp.path().join("meta.json"), "{\"layout\": 7}").unwrap();
        let error = open(temp.path(), "a = 1\n", true).unwrap_err().to_string();
        assert!(error.contains("layout 7") && error.contains("layout 1"), "{error}");
    }

    #[test]
    fn a_start_that_was_killed_is_started_again() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join(".lock"), "").unwrap();
        fs::write(temp.path().join("meta.json"), "{\"layout\": 1}").unwrap();
        fs::write(temp.path().join(".nas-x.tmp"), "").unwrap();
        open(temp.path(), "a = 1\n", false).unwrap().finish(&1).unwrap();
        assert!(!temp.path().join(".nas-x.tmp").exists());
        open(temp.path(), "a = 1\n", true).unwrap();
    }

    #[test]
    fn links_are_replaced_or_refused_never_followed() {
        let temp = tempfile::tempdir().unwrap();
        let victim = temp.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        let link = temp.path().join("curves.svg");
        std::os::unix::fs::symlink(&victim, &link).unwrap();
        assert!(JsonLines::open(link.clone(), 0).unwrap_err().to_string().contains("a link"));
        write_atomic(&link, b"new").unwrap();
        assert!(!link.is_symlink() && fs::read(&link).unwrap() == b"new");
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
    }

    #[test]
    fn a_run_remembers_its_classes() {
        let temp = tempfile::tempdir().unwrap();
        let dir = open(temp.path(), "a = 1\n", false).unwrap();
        let names = ["cat", "dog"].map(String::from);
        dir.record_classes(&names).unwrap();
        dir.record_classes(&names).unwrap();
        assert_eq!(read_classes(temp.path()).unwrap(), names);
        let error = format!("{:#}", dir.record_classes(&names[..1]).unwrap_err());
        assert!(error.contains("class 1 is \"dog\" in the run so far, missing in the data set"), "{error}");
    }

    #[test]
    fn names_of_models_are_names_and_seeds_differ() {
        assert!(require_names("the model", ["a b", "c-1"]).is_ok());
        for bad in ["", "../x", "a/b", "/a", "a\nb", "x|y", ".hidden"] {
            assert!(require_names("the model", [bad]).is_err(), "{bad:?}");
        }
        assert!(require_names("the model", ["a", "a"]).unwrap_err().to_string().contains("the model \"a\" twice"));
        assert!(require_distinct_seeds(&[1, 2]).is_ok());
        assert!(require_distinct_seeds(&[1, 2, 1]).unwrap_err().to_string().contains("holds 1 twice"));
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
    fn a_run_may_grow_in_the_key_that_is_named() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path();
        open(root, "seed = 1\nnum_trials = 2\n", false).unwrap().finish(&1).unwrap();
        let grow = |config: &str, resume| RunDir::open_growing(root, config, resume, &"meta", Some("num_trials"));
        assert!(grow("seed = 1\nnum_trials = 3\n", false).is_err(), "not without --resume");
        for other in ["seed = 2\nnum_trials = 3\n", "seed = 1\nnum_trials = 1\n"] {
            let error = grow(other, true).unwrap_err().to_string();
            assert!(error.contains("differs") && root.join("result.json").exists(), "{error}");
        }
        let dir = grow("seed = 1\nnum_trials = 3\n", true).unwrap();
        assert_eq!(dir.growth().map(|growth| (growth.from, growth.to)), Some((2, 3)));
        assert_eq!(dir.result::<u64>().unwrap(), None, "no longer done");
        drop(dir);
        assert_eq!(grow("seed = 1\nnum_trials = 3\n", true).unwrap().growth(), None);
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
