//! The one reader of images and the one of label files. What a header claims is checked before memory is given to it.

use std::io::Cursor;
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, ImageDecoder, ImageReader, RgbImage};
use png::{BitDepth, ColorType, Transformations};

use crate::error::{DataError, Problem};
use crate::files;

/// Most pixels of an image or label file: 8192 x 8192.
pub const MAX_PIXELS: u64 = 1 << 26;

/// Most bytes of an image file, and of its pixels as they are stored.
pub(crate) const MAX_BYTES: u64 = 3 * MAX_PIXELS;

/// An image as viewers show it.
pub(crate) struct Read {
    /// The pixels, turned as EXIF says.
    pub image: RgbImage,
    /// EXIF's number of the orientation; 1 for pictures that were stored upright.
    pub orientation: u8,
}

impl Read {
    /// Width and height, and why they may surprise.
    pub fn size(&self) -> String {
        let (w, h) = self.image.dimensions();
        match self.orientation {
            1 => format!("{w}x{h} pixels"),
            number => format!("{w}x{h} pixels as shown by its EXIF orientation {number}"),
        }
    }
}

/// An RGB image from a PNG or JPEG file. Grey images become RGB, an alpha channel is dropped, EXIF's orientation is applied.
pub fn read_image(path: &Path) -> Result<RgbImage, DataError> {
    Ok(read_turned(path)?.image)
}

pub(crate) fn read_turned(path: &Path) -> Result<Read, DataError> {
    const EXPECTED: &str = "a PNG or JPEG image";
    let bytes = files::read_data(path, MAX_BYTES, EXPECTED)?;
    if bytes.starts_with(&[0xff, 0xd8]) && is_cut(&bytes) {
        return Err(Problem::new(path, "a JPEG that ends in the middle", EXPECTED).into());
    }
    decode_image(&bytes).map_err(|found| Problem::new(path, found, EXPECTED).into())
}

fn decode_image(bytes: &[u8]) -> Result<Read, String> {
    let undecodable = |error: image::ImageError| format!("cannot be decoded ({error})");
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format();
    let mut decoder = reader.map_err(|error| error.to_string())?.into_decoder().map_err(undecodable)?;
    check_size(decoder.dimensions())?;
    if decoder.total_bytes() > MAX_BYTES {
        return Err(format!("pixels of {} bytes, more than {MAX_BYTES},", decoder.total_bytes()));
    }
    // A broken EXIF block is a viewer's reason to show the picture as it is stored.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder).map_err(undecodable)?;
    image.apply_orientation(orientation);
    Ok(Read { image: image.into_rgb8(), orientation: orientation.to_exif() })
}

fn check_size((w, h): (u32, u32)) -> Result<(), String> {
    match u64::from(w) * u64::from(h) {
        0 => Err(format!("{w}x{h} pixels")),
        pixels if pixels > MAX_PIXELS => Err(format!("{w}x{h} pixels, more than {MAX_PIXELS},")),
        _ => Ok(()),
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

/// A label file of which only the header was read.
#[derive(Debug)]
pub struct LabelFile {
    bytes: Vec<u8>,
    size: (u32, u32),
}

impl LabelFile {
    /// Reads a one-channel PNG file: grey levels, or palette indices as annotation tools write them.
    ///
    /// # Errors
    /// If the file or its header is not that, or claims more than [`MAX_PIXELS`] pixels.
    pub fn open(path: &Path, expected: &str) -> Result<Self, DataError> {
        let bytes = files::read_data(path, MAX_BYTES, expected)?;
        match label_size(&bytes) {
            Ok(size) => Ok(Self { bytes, size }),
            Err(found) => Err(Problem::new(path, found, expected).into()),
        }
    }

    /// Width and height.
    pub fn dimensions(&self) -> (u32, u32) {
        self.size
    }

    /// The raw pixel values. They are not scaled, whatever the bit depth (1 to 8).
    ///
    /// # Errors
    /// If the file, which is called `path`, is damaged.
    pub fn decode(&self, path: &Path, expected: &str) -> Result<GrayImage, DataError> {
        decode_label(&self.bytes).map_err(|found| Problem::new(path, found, expected).into())
    }
}

/// Raw pixel values of a one-channel PNG file, see [`LabelFile`].
pub fn read_label(path: &Path, expected: &str) -> Result<GrayImage, DataError> {
    LabelFile::open(path, expected)?.decode(path, expected)
}

fn label_decoder(bytes: &[u8]) -> png::Decoder<Cursor<&[u8]>> {
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    decoder.set_transformations(Transformations::IDENTITY);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    decoder
}

/// Width and height by the header.
fn label_size(bytes: &[u8]) -> Result<(u32, u32), String> {
    let mut decoder = label_decoder(bytes);
    let info = decoder.read_header_info().map_err(|error| format!("cannot be decoded ({error})"))?;
    let (color, depth) = (info.color_type, info.bit_depth);
    if !matches!(color, ColorType::Grayscale | ColorType::Indexed) || depth == BitDepth::Sixteen {
        return Err(format!("a PNG of {}-bit {color:?} pixels", depth as u8));
    }
    check_size(info.size())?;
    Ok(info.size())
}

fn decode_label(bytes: &[u8]) -> Result<GrayImage, String> {
    let undecodable = |error| format!("cannot be decoded ({error})");
    label_size(bytes)?;
    let mut reader = label_decoder(bytes).read_info().map_err(undecodable)?;
    let (_, depth) = reader.output_color_type();
    let mut packed = vec![0; reader.output_buffer_size().ok_or("an image too large for memory")?];
    let frame = reader.next_frame(&mut packed).map_err(undecodable)?;
    let pixels = if depth == BitDepth::Eight {
        packed.truncate(frame.buffer_size());
        packed
    } else {
        let rows = packed.chunks_exact(frame.line_size).take(frame.height as usize);
        rows.flat_map(|row| unpack(row, depth as usize).take(frame.width as usize)).collect()
    };
    GrayImage::from_raw(frame.width, frame.height, pixels).ok_or_else(|| "a frame smaller than its image".into())
}

/// The values of a row in which each takes `bits` bits, the leftmost pixel in the highest bits.
fn unpack(row: &[u8], bits: usize) -> impl Iterator<Item = u8> {
    let mask = u8::MAX >> (8 - bits);
    row.iter().flat_map(move |byte| (0..8 / bits).rev().map(move |slot| (byte >> (slot * bits)) & mask))
}

#[cfg(test)]
mod tests {
    use std::fs;

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
