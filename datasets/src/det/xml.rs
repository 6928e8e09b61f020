//! XML files of any declared encoding, as text that can be parsed in bounded time.

use std::path::Path;

use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};

use crate::error::Problem;
use crate::files;

/// Most attributes of one tag; the parser's time grows with their square.
const MAX_ATTRIBUTES: usize = 256;

/// The text of an XML file.
pub fn read(path: &Path, expected: &str) -> Result<String, Problem> {
    let unreadable = |error| files::unreadable(path, &error, expected);
    let bytes = files::read_bytes(path, files::MAX_TEXT_BYTES).map_err(unreadable)?;
    let text = decode(&bytes).map_err(|found| Problem::new(path, found, expected))?;
    match largest_tag(&text) {
        0..=MAX_ATTRIBUTES => Ok(text),
        count => Err(Problem::new(path, format!("a tag with {count} attributes"), expected)),
    }
}

/// Text by its byte-order mark, else by the encoding that the first line declares, else UTF-8.
fn decode(bytes: &[u8]) -> Result<String, String> {
    let encoding = match Encoding::for_bom(bytes) {
        Some((encoding, _)) => encoding,
        None => declared(bytes)?,
    };
    let (text, encoding, damaged) = encoding.decode(bytes);
    match damaged {
        true => Err(format!("bytes that are no {}, which it declares,", encoding.name())),
        false => Ok(text.into_owned()),
    }
}

fn declared(bytes: &[u8]) -> Result<&'static Encoding, String> {
    match bytes {
        [b'<', 0, ..] => return Ok(UTF_16LE),
        [0, b'<', ..] => return Ok(UTF_16BE),
        _ => {}
    }
    let end = bytes.windows(2).take(1024).position(|pair| pair == b"?>").unwrap_or(0);
    let line = String::from_utf8_lossy(&bytes[..end]);
    let Some((_, value)) = line.split_once("encoding").filter(|_| line.trim_start().starts_with("<?xml")) else {
        return Ok(UTF_8);
    };
    let label = value.trim_start_matches([' ', '=', '\t']).trim_matches(['"', '\'', ' ']);
    let label = label.split(['"', '\'']).next().unwrap_or(label);
    match Encoding::for_label(label.as_bytes()) {
        // The line could be read byte by byte.
        Some(encoding) if encoding == UTF_16LE || encoding == UTF_16BE => {
            Err(format!("it declares {label}, but is none"))
        }
        Some(encoding) => Ok(encoding),
        None => Err(format!("it declares the unknown encoding {label:?}")),
    }
}

/// Most attributes of a tag, counted by their `=`.
fn largest_tag(mut text: &str) -> usize {
    let mut largest = 0;
    while let Some(start) = text.find('<') {
        text = &text[start..];
        let end = match () {
            () if text.starts_with("<!--") => "-->",
            () if text.starts_with("<![CDATA[") => "]]>",
            () => ">",
        };
        let length = text.find(end).unwrap_or(text.len());
        if end == ">" {
            largest = largest.max(text[..length].matches('=').count());
        }
        text = &text[length..];
    }
    largest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_and_declarations_choose_the_encoding() {
        let declare = |label: &str, rest: &[u8]| {
            [format!("<?xml version='1.0' encoding=\"{label}\"?>").as_bytes(), rest].concat()
        };
        assert!(decode(&declare("gb2312", &[0xc3, 0xa8])).unwrap().ends_with('猫'));
        assert!(decode(&declare("ISO-8859-1", &[0xd6, b'l'])).unwrap().ends_with("Öl"));
        assert!(decode(&declare("UTF-8", "Öl".as_bytes())).unwrap().ends_with("Öl"));
        let wide: Vec<u8> = "<a/>".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(decode(&wide).unwrap(), "<a/>");
        assert_eq!(decode(&[&[0xff, 0xfe][..], &wide].concat()).unwrap(), "<a/>");
        assert_eq!(decode(b"\xef\xbb\xbf<a/>").unwrap(), "<a/>");
        assert!(decode(&declare("klingon", b"")).unwrap_err().contains("unknown encoding \"klingon\""));
        assert!(decode(&declare("UTF-16", b"")).unwrap_err().contains("declares UTF-16, but is none"));
        assert!(decode(b"<a>\xd6</a>").unwrap_err().contains("no UTF-8"));
    }

    #[test]
    fn attributes_are_counted_outside_comments() {
        assert_eq!(largest_tag("<a b='1' c='2'><!-- = = = = --><![CDATA[ = = = > ]]><d e='3'/></a>"), 2);
        assert_eq!(largest_tag("<a ="), 1);
    }
}
