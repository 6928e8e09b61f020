//! Pictures that commands write.

use std::fs;
use std::io::Cursor;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use image::{ImageBuffer, ImageFormat, PixelWithColorType, Rgb, RgbImage, imageops};
use nas_datasets::read_bytes;

use crate::run::run_dir::write_atomic;

/// Largest picture that is read again.
const MAX_BYTES: u64 = 64 << 20;

/// Pictures of one height side by side, with a white gap between them.
pub fn side_by_side(pictures: &[RgbImage]) -> RgbImage {
    const GAP: u32 = 4;
    let height = pictures.iter().map(RgbImage::height).max().unwrap_or(0);
    let width: u32 = pictures.iter().map(|picture| picture.width() + GAP).sum();
    let mut sheet = RgbImage::from_pixel(width.saturating_sub(GAP), height, Rgb([255; 3]));
    let mut x = 0;
    for picture in pictures {
        imageops::replace(&mut sheet, picture, x, 0);
        x += i64::from(picture.width() + GAP);
    }
    sheet
}

/// Names, without their ends, and bytes of the PNG files in a folder, in the order of the names; none where there is no folder.
pub fn read_pngs(folder: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(folder).with_context(|| format!("{}: cannot read", folder.display()))?;
    let mut files: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "png"));
    files.sort();
    let read = |file: PathBuf| {
        let bytes = read_bytes(&file, MAX_BYTES).with_context(|| format!("{}: cannot read", file.display()))?;
        Ok((file.file_stem().unwrap_or_default().to_string_lossy().into_owned(), bytes))
    };
    files.into_iter().map(read).collect()
}

/// A picture as the bytes of a PNG.
pub fn encode_png<P, C>(picture: &ImageBuffer<P, C>) -> Result<Vec<u8>>
where
    P: PixelWithColorType<Subpixel = u8>,
    C: Deref<Target = [u8]>,
{
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ImageFormat::Png).context("cannot encode")?;
    Ok(bytes.into_inner())
}

/// Writes a picture, and the folders that it lies in.
pub fn write_png<P, C>(path: &Path, picture: &ImageBuffer<P, C>) -> Result<()>
where
    P: PixelWithColorType<Subpixel = u8>,
    C: Deref<Target = [u8]>,
{
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("{}: cannot create", parent.display()))?;
    }
    let bytes = encode_png(picture).with_context(|| path.display().to_string())?;
    write_atomic(path, &bytes)
}
