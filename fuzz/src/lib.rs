//! What the fuzz targets have in common.

use nas_tests::formats::Format;

/// Reads a file of a format in a folder of its own. A refusal is as good as a success.
pub fn read(format: Format, bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let _ = format.read(bytes, folder.path());
}
