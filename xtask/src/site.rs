//! `cargo xtask site`: the documentation as a website in target/site, which needs no server: the Markdown files of the repository, the
//! files that they point to, and a list of all pages beside each. A link that leads nowhere is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use markdown::{CompileOptions, Options};

/// Pages beside those in `docs`, the first of them the start.
const FIRST: [&str; 5] = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "datasets/README.md"];

const STYLE: &str = include_str!("site.css");

/// A Markdown file of the repository.
struct Page {
    /// Below the root.
    source: PathBuf,
    title: String,
    /// As HTML, with links as the source has them.
    body: String,
    /// What `#name` of a link can be.
    anchors: BTreeSet<String>,
}

/// Makes target/site.
pub fn site(root: &Path) -> Result<()> {
    let out = root.join("target/site");
    if out.exists() {
        fs::remove_dir_all(&out).with_context(|| format!("{}: cannot remove", out.display()))?;
    }
    let mut sources: Vec<PathBuf> = FIRST.iter().map(PathBuf::from).filter(|page| root.join(page).exists()).collect();
    sources.extend(markdown(root, Path::new("docs"))?);
    let pages = sources.into_iter().map(|source| Page::read(root, source)).collect::<Result<Vec<_>>>()?;
    let known: BTreeMap<&Path, &Page> = pages.iter().map(|page| (page.source.as_path(), page)).collect();
    let (mut files, mut broken) = (BTreeSet::new(), Vec::new());
    for page in &pages {
        let body = page.linked(|link| match resolve(root, page, link, &known) {
            Target::Outside => link.to_string(),
            Target::Page(to) => to,
            Target::File(file) => {
                files.insert(file);
                link.to_string()
            }
            Target::Nothing => {
                broken.push(format!("{}: {link}", page.source.display()));
                link.to_string()
            }
        });
        let to = out.join(address(&page.source));
        fs::create_dir_all(to.parent().context("a page lies in a folder")?)?;
        fs::write(&to, page.html(&body, &pages)).with_context(|| format!("{}: cannot write", to.display()))?;
    }
    ensure!(broken.is_empty(), "links that lead nowhere:\n  {}", broken.join("\n  "));
    for file in &files {
        let to = out.join(file);
        fs::create_dir_all(to.parent().context("a file lies in a folder")?)?;
        fs::copy(root.join(file), &to).with_context(|| format!("{}: cannot copy", file.display()))?;
    }
    println!("{}: {} pages, {} files", out.join("index.html").display(), pages.len(), files.len());
    Ok(())
}

/// The Markdown files below a folder, in the order of their names.
fn markdown(root: &Path, folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(root.join(folder)).with_context(|| format!("{}: cannot read", folder.display()))?;
    let mut names: Vec<PathBuf> = entries.map(|entry| Ok(folder.join(entry?.file_name()))).collect::<Result<_>>()?;
    names.sort();
    let mut found = Vec::new();
    for name in names {
        if root.join(&name).is_dir() {
            found.extend(markdown(root, &name)?);
        } else if name.extension().is_some_and(|ending| ending == "md") {
            found.push(name);
        }
    }
    Ok(found)
}

/// Where a page lies in the site: a `README.md` is its folder's first page.
fn address(source: &Path) -> PathBuf {
    match source.file_name() {
        Some(name) if name == "README.md" => source.with_file_name("index.html"),
        _ => source.with_extension("html"),
    }
}

/// The way from one page of the site to another.
fn way(from: &Path, to: &Path) -> String {
    let up = from.parent().map_or(0, |folder| folder.components().count());
    "../".repeat(up) + &to.display().to_string()
}

enum Target {
    /// Another site.
    Outside,
    /// A page, by its address there, or a place in this one.
    Page(String),
    /// A file of the repository.
    File(PathBuf),
    Nothing,
}

fn resolve(root: &Path, page: &Page, link: &str, known: &BTreeMap<&Path, &Page>) -> Target {
    if link.contains("://") || link.starts_with("mailto:") {
        return Target::Outside;
    }
    let (path, anchor) = link.split_once('#').map_or((link, None), |(path, anchor)| (path, Some(anchor)));
    let file = match path {
        "" => page.source.clone(),
        path => normal(&page.source.parent().unwrap_or(Path::new("")).join(path)),
    };
    match known.get(file.as_path()) {
        Some(to) if anchor.is_some_and(|anchor| !to.anchors.contains(anchor)) => Target::Nothing,
        Some(_) => {
            let to = if path.is_empty() { String::new() } else { way(&page.source, &address(&file)) };
            Target::Page(to + &anchor.map(|anchor| format!("#{anchor}")).unwrap_or_default())
        }
        None if root.join(&file).is_file() => Target::File(file),
        None => Target::Nothing,
    }
}

/// A path without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut normal, part| {
        match part {
            Component::ParentDir => _ = normal.pop(),
            Component::CurDir => {}
            part => normal.push(part),
        }
        normal
    })
}

/// The name that a heading has in links, as code hosts make it.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).flat_map(char::to_lowercase).collect()
}

/// The tag and the inside of a line that is a heading.
fn heading(line: &str) -> Option<(&str, &str)> {
    let line = line.trim_end();
    let tag = line
        .get(..4)
        .filter(|tag| tag.starts_with("<h") && tag.ends_with('>') && tag.as_bytes()[2].is_ascii_digit())?;
    Some((tag, line[4..].strip_suffix(&format!("</{}", &tag[1..]))?))
}

/// The text of some HTML.
fn plain(html: &str) -> String {
    let (mut text, mut is_tag) = (String::new(), false);
    for c in html.chars() {
        match c {
            '<' => is_tag = true,
            '>' if is_tag => is_tag = false,
            c if !is_tag => text.push(c),
            _ => {}
        }
    }
    ["&lt;<", "&gt;>", "&quot;\"", "&amp;&"]
        .iter()
        .fold(text, |text, pair| text.replace(&pair[..pair.len() - 1], &pair[pair.len() - 1..]))
}

impl Page {
    fn read(root: &Path, source: PathBuf) -> Result<Self> {
        let text =
            fs::read_to_string(root.join(&source)).with_context(|| format!("{}: cannot read", source.display()))?;
        let options = Options {
            compile: CompileOptions { allow_dangerous_html: true, ..CompileOptions::gfm() },
            ..Options::gfm()
        };
        let html = markdown::to_html_with_options(&text, &options);
        let html = html.map_err(|reason| anyhow!("{}: {reason}", source.display()))?;
        let (mut body, mut anchors, mut title) = (String::new(), BTreeSet::new(), None);
        for part in html.split_inclusive('\n') {
            match heading(part) {
                Some((level, text)) => {
                    let name = anchor(&plain(text));
                    body.push_str(&part.replacen('>', &format!(" id=\"{name}\">"), 1));
                    anchors.insert(name);
                    title = title.or_else(|| (level == "<h1>").then(|| plain(text)));
                }
                None => body.push_str(part),
            }
        }
        // A table that a command has written has no heading.
        let title = title.unwrap_or_else(|| source.with_extension("").display().to_string());
        Ok(Self { source, title, body, anchors })
    }

    /// The page's text, links as `to` gives them.
    fn linked(&self, mut to: impl FnMut(&str) -> String) -> String {
        let mut linked = String::new();
        let mut rest = self.body.as_str();
        // In text quotes are written `&quot;`.
        while let Some((start, len)) =
            ["href=\"", "src=\""].iter().filter_map(|key| Some((rest.find(key)?, key.len()))).min()
        {
            let from = start + len;
            let end = from + rest[from..].find('"').unwrap_or(0);
            linked += &rest[..from];
            linked += &to(&rest[from..end].replace("&amp;", "&")).replace('&', "&amp;");
            rest = &rest[end..];
        }
        linked + rest
    }

    fn html(&self, body: &str, pages: &[Self]) -> String {
        let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;");
        let mut list = String::new();
        for page in pages {
            let here = if page.source == self.source { " class=\"here\"" } else { "" };
            let indent = page.source.components().count().saturating_sub(1);
            let to = way(&self.source, &address(&page.source));
            // Writing to a string does not fail.
            let _ =
                writeln!(list, "<a{here} style=\"margin-left:{indent}em\" href=\"{to}\">{}</a>", escape(&page.title));
        }
        format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
             <title>{}</title>\n<style>\n{STYLE}</style></head>\n<body><nav>\n{list}</nav>\n<main>\n{body}</main></body></html>\n",
            escape(&self.title)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository(readme: &str) -> tempfile::TempDir {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir_all(temp.path().join("docs/results/front")).unwrap();
        fs::write(temp.path().join("README.md"), readme).unwrap();
        fs::write(temp.path().join("docs/use.md"), "# Use & more\n\n[start](../README.md)\n").unwrap();
        fs::write(temp.path().join("docs/results/front/README.md"), "# Front\n\n## `--flag` of b\n").unwrap();
        fs::write(temp.path().join("docs/front.svg"), "<svg/>").unwrap();
        temp
    }

    #[test]
    fn pages_link_to_each_other_and_bring_their_pictures() {
        let temp = repository(
            "# Start\n\n[use](docs/use.md) [b](docs/results/front/README.md#--flag-of-b) [here](#start) ![](docs/front.svg) \
             [x](https://x.org)\n\n| a |\n|---|\n| 1 |\n",
        );
        site(temp.path()).unwrap();
        let read = |name: &str| fs::read_to_string(temp.path().join("target/site").join(name)).unwrap();
        let start = read("index.html");
        for part in [
            "href=\"docs/use.html\"",
            "href=\"docs/results/front/index.html#--flag-of-b\"",
            "href=\"#start\"",
            "src=\"docs/front.svg\"",
            "href=\"https://x.org\"",
            "<h1 id=\"start\">",
            "<td>1</td>",
            "Use &amp; more</a>",
        ] {
            assert!(start.contains(part), "{part}: {start}");
        }
        assert!(read("docs/use.html").contains("href=\"../index.html\"") && read("docs/front.svg") == "<svg/>");
        assert!(read("docs/results/front/index.html").contains("href=\"../../../docs/use.html\""));
    }

    #[test]
    fn links_that_lead_nowhere_are_named() {
        for link in ["docs/none.md", "docs/use.md#no-such-part", "docs/../../x.png"] {
            let temp = repository(&format!("# Start\n\n[a]({link})\n"));
            let error = site(temp.path()).unwrap_err().to_string();
            assert!(error.contains(&format!("README.md: {link}")), "{error}");
        }
    }
}
