//! Text that comes from files and is printed: what would move a terminal's cursor or hide in the line is spelled out.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::Write;

/// A line on stderr. Where nobody reads it any more (`2>&1 | head`), the work goes on.
pub fn tell(line: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// A name in one line, all control characters escaped.
pub fn name(text: &str) -> Cow<'_, str> {
    escape(text, is_hidden)
}

/// Lines of text: line ends and tabs stay, other control characters are escaped.
pub fn text(text: &str) -> Cow<'_, str> {
    escape(text, |c| is_hidden(c) && !matches!(c, '\n' | '\t'))
}

/// The first and last bytes of a long text, with how many are missing in between.
pub fn ends(text: &str, each: usize) -> Cow<'_, str> {
    if text.len() <= 2 * each {
        return text.into();
    }
    let (head, tail) = (text.floor_char_boundary(each), text.ceil_char_boundary(text.len() - each));
    format!("{} [... {} bytes ...] {}", &text[..head], tail - head, &text[tail..]).into()
}

/// Text as XML and HTML show it.
pub fn markup(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Says which name in braces of a command, the value of `key`, looks like a slip of one that is known. Others may be the
/// program's own.
pub fn check_placeholders(key: &str, command: &[String], known: &[&str]) -> anyhow::Result<()> {
    for text in command.iter().flat_map(|argument| argument.split('{').skip(1)) {
        let Some((name, _)) = text.split_once('}') else { continue };
        let meant = known.iter().find(|known| strsim::osa_distance(name, known) == 1);
        if let Some(meant) = meant.filter(|_| !known.contains(&name)) {
            anyhow::bail!("{key}: {{{name}}} is unknown; did you mean {{{meant}}}?");
        }
    }
    Ok(())
}

/// A command's argument with values in the place of names in braces.
pub fn replace_placeholders<'a>(argument: &str, values: impl Iterator<Item = (&'a str, &'a String)>) -> String {
    values.fold(argument.to_string(), |argument, (name, value)| argument.replace(&format!("{{{name}}}"), value))
}

/// Control characters, and those that turn the direction of writing or have no width.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

fn escape(text: &str, is_hidden: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_hidden) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match is_hidden(c) {
            true => escaped.extend(c.escape_default()),
            false => escaped.push(c),
        }
    }
    escaped.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_see_no_escapes_and_names_stay_in_their_line() {
        assert_eq!(name("Öl und 猫"), "Öl und 猫");
        assert_eq!(name("a\u{1b}]0;x\u{7}\nb\u{9b}\u{202e}"), "a\\u{1b}]0;x\\u{7}\\nb\\u{9b}\\u{202e}");
        assert_eq!(text("a\n\tb\r\u{feff}"), "a\n\tb\\r\\u{feff}");
    }

    #[test]
    fn long_texts_keep_their_ends() {
        assert_eq!(ends("short", 3), "short");
        assert_eq!(ends("abcdefghij", 2), "ab [... 6 bytes ...] ij");
        assert_eq!(ends("ääääää", 3), "ä [... 8 bytes ...] ä");
    }
}
