//! Reading of folders, images and label files, with errors that name the file.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::{GrayImage, RgbImage};
use png::{BitDepth, ColorType, Transformations};

use crate::error::{DataError, Problem};

/// Entries of a folder in the order of their names.
pub fn list(folder: &Path, expected: &str) -> Result<Vec<PathBuf>, DataError> {
    let unreadable = |error| DataError::unreadable(folder, &error, expected);
    let entries = fs::read_dir(folder).map_err(unreadable)?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
    paths.sort();
    Ok(paths)
}

/// A text file.
pub fn read_text(path: &Path, expected: &str) -> Result<String, DataError> {
    fs::read_to_string(path).map_err(|error| DataError::unreadable(path, &error, expected))
}

/// An RGB image from a PNG or JPEG file. Grey images become RGB; an alpha channel is dropped.
pub fn read_image(path: &Path) -> Result<RgbImage, DataError> {
    const EXPECTED: &str = "a PNG or JPEG image";
    let bytes = fs::read(path).map_err(|error| DataError::unreadable(path, &error, EXPECTED))?;
    if bytes.starts_with(&[0xff, 0xd8]) && is_cut(&bytes) {
        return Err(Problem::new(path, "a JPEG that ends in the middle", EXPECTED).into());
    }
    match image::load_from_memory(&bytes) {
        Ok(image) => Ok(image.into_rgb8()),
        Err(error) => Err(Problem::new(path, format!("cannot be decoded ({error})"), EXPECTED).into()),
    }
}

/// Whether a JPEG ends before its end marker. The decoder would fill the rest of the image with grey.
fn is_cut(jpeg: &[u8]) -> bool {
    let mut at = 2;
    while let Some(&[first, marker]) = jpeg.get(at..at + 2) {
        let in_scan = first != 0xff || matches!(marker, 0x00 | 0xd0..=0xd7 | 0xff);
        if !in_scan && marker == 0xd9 {
            return false;
        }
        at += match jpeg.get(at + 2..at + 4) {
            Some(&[high, low]) if !in_scan => 2 + usize::from(u16::from_be_bytes([high, low])),
            _ => 1,
        };
    }
    true
}

/// The image files among `paths`: files as they are, and what folders hold of PNG and JPEG files.
pub fn image_files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, DataError> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let is_image = |file: &PathBuf| {
            let extension = file.extension().unwrap_or_default().to_string_lossy().to_lowercase();
            ["png", "jpg", "jpeg"].contains(&&*extension)
        };
        let before = files.len();
        files.extend(list(path, "a folder of images")?.into_iter().filter(is_image));
        if files.len() == before {
            return Err(Problem::new(path, "no image", "PNG or JPEG files").into());
        }
    }
    Ok(files)
}

/// Raw pixel values of a one-channel PNG file: grey levels, or palette indices as annotation tools write them. Values
/// are not scaled, whatever the bit depth (1 to 8).
pub fn read_label(path: &Path, expected: &str) -> Result<GrayImage, DataError> {
    let bytes = fs::read(path).map_err(|error| DataError::unreadable(path, &error, expected))?;
    decode_label(&bytes).map_err(|found| Problem::new(path, found, expected).into())
}

fn decode_label(bytes: &[u8]) -> Result<GrayImage, String> {
    let undecodable = |error| format!("cannot be decoded ({error})");
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    decoder.set_transformations(Transformations::IDENTITY);
    let mut reader = decoder.read_info().map_err(undecodable)?;
    let (color, depth) = reader.output_color_type();
    if !matches!(color, ColorType::Grayscale | ColorType::Indexed) || depth == BitDepth::Sixteen {
        return Err(format!("a PNG of {}-bit {color:?} pixels", depth as u8));
    }
    let mut packed = vec![0; reader.output_buffer_size().ok_or("an image too large for memory")?];
    let frame = reader.next_frame(&mut packed).map_err(undecodable)?;
    let pixels = if depth == BitDepth::Eight {
        packed.truncate(frame.buffer_size());
        packed
    } else {
        let rows = packed.chunks_exact(frame.line_size).take(frame.height as usize);
        rows.flat_map(|row| unpack(row, depth as usize).take(frame.width as usize)).collect()
    };
    Ok(GrayImage::from_raw(frame.width, frame.height, pixels).expect("one value per pixel"))
}

/// The values of a row in which each takes `bits` bits, the leftmost pixel in the highest bits.
fn unpack(row: &[u8], bits: usize) -> impl Iterator<Item = u8> {
    let mask = u8::MAX >> (8 - bits);
    row.iter().flat_map(move |byte| (0..8 / bits).rev().map(move |slot| (byte >> (slot * bits)) & mask))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(color: ColorType, depth: BitDepth, width: u32, rows: &[u8], height: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, width, height);
        encoder.set_color(color);
        encoder.set_depth(depth);
        if color == ColorType::Indexed {
            encoder.set_palette([10, 20, 30].repeat(1 << depth as usize));
        }
        encoder.write_header().unwrap().write_image_data(rows).unwrap();
        bytes
    }

    #[test]
    fn a_jpeg_without_its_end_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jpg");
        let noise = RgbImage::from_fn(64, 64, |x, y| image::Rgb([(x * y) as u8, (x * 7) as u8, (y * 5) as u8]));
        noise.save(&path).unwrap();
        let whole = fs::read(&path).unwrap();
        assert_eq!(read_image(&path).unwrap().dimensions(), (64, 64));
        let trailer = [&*whole, b"\xff\xda and more"].concat();
        fs::write(&path, trailer).unwrap();
        assert!(read_image(&path).is_ok(), "what comes after the end does not matter");
        for length in [3, whole.len() / 2, whole.len() - 2] {
            fs::write(&path, &whole[..length]).unwrap();
            let error = read_image(&path).unwrap_err().to_string();
            assert!(error.contains("a.jpg: a JPEG that ends in the middle"), "{error}");
        }
    }

    #[test]
    fn palette_masks_of_every_depth_give_their_indices() {
        let four = encode(ColorType::Indexed, BitDepth::Four, 3, &[0x1f, 0x20, 0x34, 0x50], 2);
        assert_eq!(decode_label(&four).unwrap().as_raw(), &[1, 15, 2, 3, 4, 5]);
        let two = encode(ColorType::Indexed, BitDepth::Two, 5, &[0b00_01_10_11, 0b10_00_00_00], 1);
        assert_eq!(decode_label(&two).unwrap().as_raw(), &[0, 1, 2, 3, 2]);
        let eight = encode(ColorType::Indexed, BitDepth::Eight, 2, &[7, 255], 1);
        assert_eq!(decode_label(&eight).unwrap().as_raw(), &[7, 255]);
    }

    #[test]
    fn grey_masks_of_one_bit_are_not_stretched_to_255() {
        let mask = encode(ColorType::Grayscale, BitDepth::One, 4, &[0b0110_0000], 1);
        assert_eq!(decode_label(&mask).unwrap().as_raw(), &[0, 1, 1, 0]);
    }

    #[test]
    fn colour_and_16_bit_masks_are_refused() {
        let rgb = encode(ColorType::Rgb, BitDepth::Eight, 1, &[1, 2, 3], 1);
        assert_eq!(decode_label(&rgb).unwrap_err(), "a PNG of 8-bit Rgb pixels");
        let deep = encode(ColorType::Grayscale, BitDepth::Sixteen, 1, &[0, 3], 1);
        assert_eq!(decode_label(&deep).unwrap_err(), "a PNG of 16-bit Grayscale pixels");
    }
}
