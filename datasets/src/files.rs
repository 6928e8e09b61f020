//! Reading of folders and files, with errors that name the file. Only regular files are opened, and none is read beyond its limit.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::{DataError, Problem};
use crate::names;

/// Largest list, table of names or annotation of one image.
pub const MAX_TEXT_BYTES: u64 = 64 << 20;

/// Endings of image files, in any case.
pub const IMAGE_EXTENSIONS: [&str; 3] = ["png", "jpg", "jpeg"];

/// Entries of a folder in the order of their names, without those that are hidden or that an operating system leaves behind.
pub fn list(folder: &Path, expected: &str) -> Result<Vec<PathBuf>, DataError> {
    let problem = |error| unreadable(folder, &error, expected);
    let entries = fs::read_dir(folder).map_err(problem)?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, _>>().map_err(problem)?;
    paths.retain(|path| !is_of_the_system(path));
    paths.sort();
    Ok(paths)
}

/// Whether a file or folder was put there by a system, such as `.DS_Store`, `._a.png`, `.ipynb_checkpoints` or `Thumbs.db`.
pub fn is_of_the_system(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    name.starts_with('.') || matches!(&*name, "thumbs.db" | "ehthumbs.db" | "desktop.ini" | "__macosx")
}

/// Whether a file's name ends in one of `extensions` (lower case), in any case.
pub fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    extensions.contains(&&*extension)
}

/// Opens a regular file for reading; a device, pipe or socket, which may have no end, is an error and is not waited for.
///
/// # Errors
/// Also if there is no such file or it may not be read.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let kind = file.metadata()?.file_type();
    let found = match () {
        () if kind.is_file() => return Ok(file),
        () if kind.is_dir() => "a folder",
        () if kind.is_fifo() => "a pipe",
        () if kind.is_socket() => "a socket",
        () => "a device",
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{found} is no file")))
}

/// The bytes of a regular file of at most `limit` bytes.
///
/// # Errors
/// If it is missing, cannot be read, is no regular file or larger.
pub fn read_bytes(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = open_regular(path)?;
    let length = file.metadata()?.len();
    let too_large =
        |length: u64| io::Error::new(io::ErrorKind::FileTooLarge, format!("{length} bytes, at most {limit} are taken"));
    if length > limit {
        return Err(too_large(length));
    }
    let mut bytes = Vec::with_capacity(length as usize);
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit { Err(too_large(bytes.len() as u64)) } else { Ok(bytes) }
}

/// A UTF-8 text file without byte-order mark.
///
/// # Errors
/// As [`read_bytes`], and if it is no UTF-8.
pub fn read_utf8(path: &Path, limit: u64) -> io::Result<String> {
    let invalid = |found: String| io::Error::new(io::ErrorKind::InvalidData, found);
    let bytes = without_mark(read_bytes(path, limit)?).map_err(invalid)?;
    String::from_utf8(bytes).map_err(|error| invalid(format!("byte {} is no UTF-8", error.utf8_error().valid_up_to())))
}

/// Takes the byte-order mark off; `Err` tells of UTF-16.
pub(crate) fn without_mark(mut bytes: Vec<u8>) -> Result<Vec<u8>, String> {
    match &*bytes {
        [0xef, 0xbb, 0xbf, ..] => {
            bytes.drain(..3);
            Ok(bytes)
        }
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Err("UTF-16 found, UTF-8 expected".into()),
        _ => Ok(bytes),
    }
}

/// Why a file cannot be read, as a problem with it.
pub(crate) fn unreadable(path: &Path, error: &io::Error, expected: &str) -> Problem {
    let found = match error.kind() {
        io::ErrorKind::NotFound => "missing".to_owned(),
        _ => format!("unreadable ({error})"),
    };
    Problem::new(path, found, expected)
}

/// A text file of a data set.
pub(crate) fn read_text(path: &Path, expected: &str) -> Result<String, DataError> {
    read_utf8(path, MAX_TEXT_BYTES).map_err(|error| unreadable(path, &error, expected).into())
}

/// A binary file of a data set, of at most `limit` bytes.
pub(crate) fn read_data(path: &Path, limit: u64, expected: &str) -> Result<Vec<u8>, DataError> {
    read_bytes(path, limit).map_err(|error| unreadable(path, &error, expected).into())
}

/// Files of some folders by stem, whatever the case of their endings. A folder is read when it is first asked about.
pub(crate) struct Stems {
    extensions: &'static [&'static str],
    folders: HashMap<PathBuf, HashMap<String, Vec<PathBuf>>>,
}

impl Stems {
    /// Looks for files with these endings.
    pub fn new(extensions: &'static [&'static str]) -> Self {
        Self { extensions, folders: HashMap::new() }
    }

    /// The files `stem` with any of the endings, in the order of their names; the ending is no part of `stem`.
    pub fn find(&mut self, stem: &Path) -> &[PathBuf] {
        let folder = stem.parent().unwrap_or(Path::new("")).to_owned();
        let files = self.folders.entry(folder).or_insert_with_key(|folder| {
            let mut files: HashMap<String, Vec<PathBuf>> = HashMap::new();
            // A folder that cannot be read has no files; what is missing is told of each file.
            for path in list(folder, "").unwrap_or_default() {
                if has_extension(&path, self.extensions) {
                    files.entry(names::stem(&path)).or_default().push(path);
                }
            }
            files
        });
        let name = stem.file_name().unwrap_or_default().to_string_lossy();
        files.get(&*name).map_or(&[], Vec::as_slice)
    }
}

/// The image files among `paths`: files as they are, what folders hold of PNG and JPEG files, and what patterns such as
/// `photos/*.jpg` match, which a shell has left as they are.
pub fn image_files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, DataError> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            match path.to_str().filter(|text| !path.exists() && text.contains(['*', '?', '['])) {
                Some(pattern) => files.extend(matching(path, pattern)?),
                None => files.push(path.clone()),
            }
            continue;
        }
        let before = files.len();
        let is_image = |file: &PathBuf| has_extension(file, &IMAGE_EXTENSIONS);
        files.extend(list(path, "a folder of images")?.into_iter().filter(is_image));
        if files.len() == before {
            return Err(Problem::new(path, "no image", "PNG or JPEG files").into());
        }
    }
    Ok(files)
}

fn matching(path: &Path, pattern: &str) -> Result<Vec<PathBuf>, DataError> {
    let wrong = |found: String| Problem::new(path, found, "a pattern such as photos/*.jpg");
    let found = glob::glob(pattern).map_err(|error| wrong(error.to_string()))?;
    let files: Vec<PathBuf> = found.filter_map(Result::ok).filter(|file| file.is_file()).collect();
    match files.is_empty() {
        true => Err(wrong("no file of this pattern".into()).into()),
        false => Ok(files),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_files_folders_and_patterns() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        ["a.jpg", "b.JPG", "c.png", "d.txt", "[e].png"].iter().for_each(|name| fs::write(at(name), "x").unwrap());
        let found = |name: &str| image_files(&[at(name)]).map_err(|error| error.to_string());
        assert_eq!(found("a.jpg"), Ok(vec![at("a.jpg")]));
        assert_eq!(found("*.png"), Ok(vec![at("[e].png"), at("c.png")]));
        assert_eq!(found("[e].png"), Ok(vec![at("[e].png")]), "a file of this name is no pattern");
        assert_eq!(found("").unwrap().len(), 4);
        assert!(found("*.gif").unwrap_err().contains("no file of this pattern"));
        assert!(found("a**b").unwrap_err().contains("expected: a pattern such as") || found("a**b").is_err());
    }

    #[test]
    fn marks_are_no_text_and_utf_16_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("classes.txt");
        fs::write(&path, b"\xef\xbb\xbfsky\r\n").unwrap();
        assert_eq!(read_text(&path, "names").unwrap(), "sky\r\n");
        fs::write(&path, b"\xff\xfes\0k\0").unwrap();
        assert!(read_text(&path, "names").unwrap_err().to_string().contains("UTF-16 found, UTF-8 expected"));
        fs::write(&path, b"sk\xe4").unwrap();
        assert!(read_text(&path, "names").unwrap_err().to_string().contains("byte 2 is no UTF-8"));
    }

    #[test]
    fn devices_pipes_folders_and_large_files_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let name = std::ffi::CString::new(pipe.to_str().unwrap()).unwrap();
        // SAFETY: the name ends in a zero byte.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        for (path, found) in [("/dev/zero".as_ref(), "a device"), (&*pipe, "a pipe"), (dir.path(), "a folder")] {
            let error = read_bytes(path, 10).unwrap_err().to_string();
            assert!(error.contains(found), "{error}");
        }
        let path = dir.path().join("x");
        fs::write(&path, [0; 11]).unwrap();
        assert!(read_bytes(&path, 10).unwrap_err().to_string().contains("11 bytes, at most 10"));
        assert_eq!(read_bytes(&path, 11).unwrap().len(), 11);
    }

    #[test]
    fn what_systems_leave_in_folders_is_not_listed() {
        let dir = tempfile::tempdir().unwrap();
        for name in [".DS_Store", "Thumbs.db", "._a.png", "desktop.ini", "a.png"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        fs::create_dir(dir.path().join(".ipynb_checkpoints")).unwrap();
        assert_eq!(list(dir.path(), "a folder").unwrap(), [dir.path().join("a.png")]);
    }
}
