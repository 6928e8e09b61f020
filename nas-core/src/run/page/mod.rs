//! A page that needs no other file and no network: data as JSON, and the script and style that show it.

use serde::Serialize;

use crate::run::words::markup;

const TEMPLATE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
/// Drawing first, then what is drawn.
const SCRIPTS: [&str; 2] = [include_str!("chart.js"), include_str!("page.js")];

/// The page that shows `data` (see `page.js` for its form).
pub fn page(title: &str, data: &impl Serialize) -> String {
    let parts = [
        ("{{title}}", markup(title)),
        ("{{style}}", STYLE.to_string()),
        ("{{script}}", SCRIPTS.concat()),
        ("{{data}}", json(data)),
    ];
    // One pass from left to right: what stands in a part is not looked through.
    let mut page = String::new();
    let mut rest = TEMPLATE;
    for (mark, text) in parts {
        let (before, after) = rest.split_once(mark).expect("the template has its marks in this order");
        page += before;
        page += &text;
        rest = after;
    }
    page + rest
}

/// JSON in which nothing ends a script or begins markup.
fn json(data: &impl Serialize) -> String {
    let text = serde_json::to_string(data).expect("data have string keys");
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => escaped += &format!("\\u{:04x}", c as u32),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_cannot_leave_their_script_and_are_the_same_when_read() {
        let data = serde_json::json!({ "name": "</script><b>&\u{2028}{{script}}" });
        let page = page("a < b", &data);
        assert!(page.contains("<title>a &lt; b</title>") && !page.contains("</script><b>"), "{page}");
        assert_eq!(page.matches("</script>").count(), 2);
        let (_, text) = page.split_once("type=\"application/json\">").unwrap();
        let text = text.split_once("</script>").unwrap().0;
        assert_eq!(serde_json::from_str::<serde_json::Value>(text).unwrap(), data);
    }

    #[test]
    fn a_page_names_no_address_that_a_browser_would_fetch() {
        let page = page("x", &0);
        assert_eq!(
            page.matches("://").count(),
            page.matches("http://www.w3.org/2000/svg").count(),
            "but the name of SVG"
        );
        assert!(!page.contains("src=\"//") && !page.contains("@import") && !page.contains("url("));
    }
}
