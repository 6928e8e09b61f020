//! Event files of TensorBoard: scalars, images and hyperparameters, written while a run goes on.
//!
//! A file is a list of records (TFRecord: length, its masked CRC-32C, bytes, their masked CRC-32C), each an `Event`. A training
//! writes into `tensorboard/` of its run folder, a search besides one folder per trial there, which the HParams tab shows as one row.

mod proto;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use prost::Message;

use self::proto::*;

/// Folder of the event files below a run folder.
pub const FOLDER: &str = "tensorboard";

/// An event file that is being written. Times are those of writing.
#[derive(Debug)]
pub struct Events {
    path: PathBuf,
    file: File,
}

impl Events {
    /// A new file in `folder`. Where a run goes on, `from` is its next step: what earlier files hold of that and later ones counts
    /// no more.
    pub fn create(folder: &Path, from: Option<i64>) -> Result<Self> {
        static FILES: AtomicU64 = AtomicU64::new(0);
        fs::create_dir_all(folder).with_context(|| format!("{}: cannot create", folder.display()))?;
        let (secs, process) = (now() as u64, std::process::id());
        // Names sort by their beginnings in time, and no two processes have the same.
        let number = FILES.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("events.out.tfevents.{secs:010}.nas.{process}.{number}"));
        let file = File::options().append(true).create_new(true).open(&path);
        let mut events = Self { file: file.with_context(|| format!("{}: cannot create", path.display()))?, path };
        events.write(0, What::FileVersion("brain.Event:2".into()))?;
        if let Some(step) = from {
            events.write(step, What::SessionLog(SessionLog { status: 1 }))?;
        }
        Ok(events)
    }

    /// Numbers of a step.
    pub fn scalars<'a>(&mut self, step: i64, numbers: impl IntoIterator<Item = (&'a str, f64)>) -> Result<()> {
        let value = |(tag, number): (&str, f64)| Value {
            tag: tag.into(),
            metadata: None,
            content: Some(Content::Scalar(number as f32)),
        };
        let value: Vec<Value> = numbers.into_iter().map(value).collect();
        if value.is_empty() { Ok(()) } else { self.write(step, What::Summary(Summary { value })) }
    }

    /// A picture, given as the bytes of a PNG file.
    pub fn image(&mut self, step: i64, tag: &str, png: Vec<u8>) -> Result<()> {
        let size =
            image::ImageReader::with_format(std::io::Cursor::new(&png), image::ImageFormat::Png).into_dimensions();
        let (width, height) = size.with_context(|| format!("{tag}: no PNG"))?;
        let image = Image { height: height as i32, width: width as i32, colorspace: 3, encoded: png };
        let value = Value { tag: tag.into(), metadata: None, content: Some(Content::Image(image)) };
        self.write(step, What::Summary(Summary { value: vec![value] }))
    }

    /// The hyperparameters of this folder's row.
    pub fn start<'a>(&mut self, parameters: impl IntoIterator<Item = &'a (String, String)>) -> Result<()> {
        let hparams: BTreeMap<String, Parameter> =
            parameters.into_iter().map(|(name, value)| (name.clone(), parameter(value))).collect();
        self.hparams("session_start_info", HParams::Start(SessionStartInfo { hparams, start_time_secs: now() }))
    }

    /// The row is complete.
    pub fn end(&mut self, success: bool) -> Result<()> {
        let status = if success { 1 } else { 2 };
        self.hparams("session_end_info", HParams::End(SessionEndInfo { status, end_time_secs: now() }))
    }

    fn hparams(&mut self, tag: &str, data: HParams) -> Result<()> {
        let content = HParamsPluginData { version: 0, data: Some(data) }.encode_to_vec();
        let plugin_data = Some(PluginData { plugin_name: "hparams".into(), content });
        let nothing = TensorProto { dtype: 1, shape: Some(TensorShape { dim: vec![Dim { size: 0 }] }) };
        let value = Value {
            tag: format!("_hparams_/{tag}"),
            metadata: Some(SummaryMetadata { plugin_data }),
            content: Some(Content::Tensor(nothing)),
        };
        self.write(0, What::Summary(Summary { value: vec![value] }))
    }

    fn write(&mut self, step: i64, what: What) -> Result<()> {
        let event = Event { wall_time: now(), step, what: Some(what) }.encode_to_vec();
        let length = (event.len() as u64).to_le_bytes();
        let mut record = length.to_vec();
        record.extend(masked_crc(&length).to_le_bytes());
        record.extend(&event);
        record.extend(masked_crc(&event).to_le_bytes());
        // In one call, so that a reader never sees a part that stays one.
        self.file.write_all(&record).with_context(|| format!("{}: cannot write", self.path.display()))
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// A value as a number or a truth where its text is one.
fn parameter(text: &str) -> Parameter {
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite()).map(Kind::Number);
    let kind = number.or_else(|| text.parse().ok().map(Kind::Bool)).unwrap_or_else(|| Kind::Text(text.into()));
    Parameter { kind: Some(kind) }
}

/// TFRecord's checksum: rotated and shifted, so that checksums of data that hold checksums stay good.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The events of a file, checksums checked.
    fn read(path: &Path) -> Vec<Event> {
        let bytes = fs::read(path).unwrap();
        let mut rest = &bytes[..];
        let mut events = Vec::new();
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let crc = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap());
            assert_eq!(crc(8), masked_crc(&rest[..8]));
            let event = &rest[12..12 + length];
            assert_eq!(crc(12 + length), masked_crc(event));
            events.push(Event::decode(event).unwrap());
            rest = &rest[16 + length..];
        }
        events
    }

    #[test]
    fn checksums_are_those_of_tfrecord() {
        // RFC 3720, appendix B.4, and its mask by hand.
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(masked_crc(&[0; 32]), 0x8a91_36aa_u32.rotate_right(15).wrapping_add(0xa282_ead8));
    }

    #[test]
    fn a_file_says_its_version_first_and_what_it_goes_on_from() {
        let temp = tempfile::tempdir().unwrap();
        let mut events = Events::create(temp.path(), Some(4)).unwrap();
        events.scalars(4, [("loss", 0.5), ("top1", 0.25)]).unwrap();
        events.scalars(5, []).unwrap();
        let written = read(&events.path);
        assert_eq!(written.len(), 3);
        assert_eq!(written[0].what, Some(What::FileVersion("brain.Event:2".into())));
        assert_eq!((written[1].step, &written[1].what), (4, &Some(What::SessionLog(SessionLog { status: 1 }))));
        let Some(What::Summary(summary)) = &written[2].what else { panic!("{written:?}") };
        assert_eq!(summary.value[1].content, Some(Content::Scalar(0.25)));
        assert_ne!(Events::create(temp.path(), None).unwrap().path, events.path);
    }

    #[test]
    fn values_are_numbers_where_their_texts_are() {
        let kinds = ["0.1", "true", "nor_conv_3x3", "nan"].map(|text| parameter(text).kind.unwrap());
        let [text, nan] = ["nor_conv_3x3", "nan"].map(|text| Kind::Text(text.into()));
        assert_eq!(kinds, [Kind::Number(0.1), Kind::Bool(true), text, nan]);
    }
}
