//! An analysis as one HTML page with drawings that needs no other file.

use std::fmt::Write;

use super::motifs::{Motif, TOPS};
use super::samples::Samples;
use super::swaps::Swap;
use super::vocabulary::{Decision, Vocabulary};
use super::{Analysis, SURE};
use crate::run::words::markup as escape;
use crate::space::Architecture;

const STYLE: &str = "body{font:15px/1.45 sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;color:#222}\
table{border-collapse:collapse;margin:.5em 0}td,th{padding:.15em .6em;text-align:right;border-bottom:1px solid #ddd}\
td:first-child,th:first-child{text-align:left}.heat td{min-width:5em}figure{margin:0;display:inline-block}\
svg{max-width:100%}h2{margin-top:1.6em}";

/// The page. `samples` are what was analysed, for the drawing of the best and the picture of the transfer.
pub fn page(analysis: &Analysis, vocabulary: &dyn Vocabulary, pairs: &[(f64, f64)]) -> String {
    let decisions = vocabulary.decisions();
    let mut html = format!(
        "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{metric}</title><style>{STYLE}</style></head>\
         <body><h1>What decides {metric}</h1><p>{} architectures took part, {} were left out.</p>",
        analysis.samples,
        analysis.left_out,
        metric = escape(&analysis.metric)
    );
    best(&mut html, analysis, vocabulary);
    variance(&mut html, analysis, &decisions);
    TOPS.iter().for_each(|top| motifs(&mut html, analysis, *top));
    decisions.iter().for_each(|decision| swaps(&mut html, analysis, decision));
    turned(&mut html, analysis);
    transfer(&mut html, analysis, pairs);
    html + "</body></html>\n"
}

/// Both metrics of the architectures that have them, for [`page`].
pub fn pairs(samples: &Samples, metric: &str, other: &Samples, to: &str) -> Vec<(f64, f64)> {
    let others: std::collections::BTreeMap<&Architecture, f64> =
        other.columns(&[to]).into_iter().map(|(arch, values)| (arch, values[0])).collect();
    samples.columns(&[metric]).into_iter().filter_map(|(arch, values)| Some((values[0], *others.get(arch)?))).collect()
}

/// Writing to a string cannot fail.
macro_rules! add {
    ($html:expr, $($part:tt)*) => { let _ = write!($html, $($part)*); };
}

fn best(html: &mut String, analysis: &Analysis, vocabulary: &dyn Vocabulary) {
    let best = &analysis.best;
    add!(html, "<h2>The best</h2><p><code>{}</code>: {:.4}</p>", escape(&best.notation), best.value);
    if let Some(drawing) = vocabulary.drawing(&best.architecture) {
        add!(html, "<figure>{drawing}</figure>");
    }
}

/// Bars of the decisions and a map of the pairs.
fn variance(html: &mut String, analysis: &Analysis, decisions: &[Decision]) {
    let variance = &analysis.variance;
    add!(html, "<h2>Which decisions matter</h2><p>Shares of the variance ({:?}).</p>", variance.method);
    let height = 22 * decisions.len() + 10;
    add!(html, "<svg width=\"760\" height=\"{height}\" role=\"img\" aria-label=\"shares of decisions\">");
    let most = variance.main.values().copied().fold(f64::MIN_POSITIVE, f64::max);
    for (i, decision) in decisions.iter().enumerate() {
        let share = variance.main[&decision.name];
        let (y, width) = (22 * i + 4, 420.0 * share / most);
        add!(
            html,
            "<text x=\"150\" y=\"{}\" text-anchor=\"end\" font-size=\"13\">{}</text>",
            y + 13,
            escape(&decision.name)
        );
        add!(html, "<rect x=\"160\" y=\"{y}\" width=\"{width:.1}\" height=\"16\" fill=\"#4477aa\"/>");
        add!(html, "<text x=\"{:.1}\" y=\"{}\" font-size=\"13\">{share:.4}</text>", 166.0 + width, y + 13);
    }
    html.push_str("</svg>");
    const MOST: usize = 24;
    if decisions.len() > MOST {
        return;
    }
    let most = variance.pairs.values().copied().fold(f64::MIN_POSITIVE, f64::max);
    html.push_str(
        "<p>What two decisions explain together beyond the sum of both.</p><table class=\"heat\"><tr><th></th>",
    );
    decisions.iter().for_each(|decision| {
        add!(html, "<th>{}</th>", escape(&decision.name));
    });
    for a in decisions {
        add!(html, "</tr><tr><td>{}</td>", escape(&a.name));
        for b in decisions {
            let mut names = [a.name.as_str(), b.name.as_str()];
            names.sort_unstable();
            match variance.pairs.get(&names.join(",")) {
                Some(share) => cell(html, share / most, &format!("{share:.4}")),
                None => html.push_str("<td></td>"),
            }
        }
    }
    html.push_str("</tr></table>");
}

/// A cell of a map: blue above 0, red below.
fn cell(html: &mut String, part: f64, text: &str) {
    let color = if part < 0.0 { "204,102,119" } else { "68,119,170" };
    add!(html, "<td style=\"background:rgba({color},{:.3})\">{text}</td>", 0.7 * part.abs().min(1.0));
}

fn motifs(html: &mut String, analysis: &Analysis, top: u32) {
    const SHOWN: usize = 25;
    add!(
        html,
        "<h2>What the best {top} % have in common</h2><p>{} motifs with a false discovery rate below {SURE}; the surest.</p>\
         <table><tr><th>motif</th><th>of the best</th><th>of the others</th><th>odds ratio</th><th>q</th></tr>",
        analysis.sure_motifs(top).count()
    );
    for Motif { name, share_top, share_rest, odds_ratio, q, .. } in analysis.sure_motifs(top).take(SHOWN) {
        let name = escape(name);
        add!(html, "<tr><td>{name}</td><td>{:.1} %</td>", 100.0 * share_top);
        add!(html, "<td>{:.1} %</td><td>{odds_ratio:.2}</td><td>{q:.1e}</td></tr>", 100.0 * share_rest);
    }
    html.push_str("</table>");
}

/// Mean changes from the row's choice to the column's.
fn swaps(html: &mut String, analysis: &Analysis, decision: &Decision) {
    let of = |swap: &&Swap| swap.condition.is_none() && swap.choice == decision.name;
    let all: Vec<&Swap> = analysis.swaps.iter().filter(of).collect();
    if all.is_empty() {
        return;
    }
    let most = all.iter().map(|swap| swap.mean.abs()).fold(f64::MIN_POSITIVE, f64::max);
    add!(html, "<h2>Swaps of {}</h2><p>Mean change from the row's choice to the column's, ", escape(&decision.name));
    html.push_str("and the share of pairs that become better.</p><table class=\"heat\"><tr><th></th>");
    decision.choices.iter().for_each(|choice| {
        add!(html, "<th>{}</th>", escape(choice));
    });
    for from in &decision.choices {
        add!(html, "</tr><tr><td>{}</td>", escape(from));
        for to in &decision.choices {
            match all.iter().find(|swap| swap.from == *from && swap.to == *to) {
                Some(swap) => cell(html, swap.mean / most, &format!("{:+.3} ({:.2})", swap.mean, swap.share_better)),
                None => html.push_str("<td></td>"),
            }
        }
    }
    html.push_str("</tr></table>");
}

fn turned(html: &mut String, analysis: &Analysis) {
    const SHOWN: usize = 25;
    let turned = analysis.turned_swaps();
    if turned.is_empty() {
        return;
    }
    html.push_str(
        "<h2>Worse over all, better in context</h2><table><tr><th>swap</th><th>where both have</th><th>median there</th>\
         <th>median over all</th><th>better there</th><th>pairs</th></tr>",
    );
    for (swap, over_all) in turned.into_iter().take(SHOWN) {
        let change = escape(&format!("{}: {} -> {}", swap.choice, swap.from, swap.to));
        let condition = escape(swap.condition.as_deref().unwrap_or_default());
        add!(html, "<tr><td>{change}</td><td>{condition}</td><td>{:+.4}</td>", swap.median);
        add!(html, "<td>{:+.4}</td><td>{:.3}</td><td>{}</td></tr>", over_all.median, swap.share_better, swap.n);
    }
    html.push_str("</table>");
}

/// Numbers and a dot for every architecture.
fn transfer(html: &mut String, analysis: &Analysis, pairs: &[(f64, f64)]) {
    let Some(transfer) = &analysis.transfer else { return };
    let number = |value: Option<f64>| value.map_or("-".to_string(), |value| format!("{value:.4}"));
    add!(html, "<h2>Against {}</h2><table>", escape(&transfer.metric));
    for (name, value) in [
        ("Spearman", transfer.spearman),
        ("Spearman in the best tenth", transfer.spearman_top_10),
        ("Spearman in the best hundredth", transfer.spearman_top_1),
        ("overlap of the best tenths", transfer.overlap_top_10),
        ("overlap of the best hundredths", transfer.overlap_top_1),
        ("regret of the best", Some(transfer.regret)),
    ] {
        add!(html, "<tr><td>{name}</td><td>{}</td></tr>", number(value));
    }
    html.push_str("</table>");
    const MOST: usize = 3_000;
    const SIDE: f64 = 420.0;
    let range = |of: fn(&(f64, f64)) -> f64| {
        let (low, high) =
            pairs.iter().map(of).fold((f64::INFINITY, f64::NEG_INFINITY), |r, v| (r.0.min(v), r.1.max(v)));
        (low, (high - low).max(f64::MIN_POSITIVE))
    };
    let (x, y) = (range(|pair| pair.0), range(|pair| pair.1));
    add!(html, "<svg width=\"{0}\" height=\"{0}\" viewBox=\"-40 -20 500 500\" role=\"img\">", SIDE + 80.0);
    add!(html, "<rect width=\"{SIDE}\" height=\"{SIDE}\" fill=\"none\" stroke=\"#888\"/>");
    for (a, b) in pairs.iter().step_by(pairs.len().div_ceil(MOST).max(1)) {
        let (cx, cy) = (SIDE * (a - x.0) / x.1, SIDE * (1.0 - (b - y.0) / y.1));
        add!(html, "<circle cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"1.5\" fill=\"#4477aa\" fill-opacity=\"0.5\"/>");
    }
    let (metric, other) = (escape(&analysis.metric), escape(&transfer.metric));
    let (left, right) = (x.0, x.0 + x.1);
    add!(html, "<text x=\"0\" y=\"440\" font-size=\"13\">{metric}, {left:.2} to {right:.2}</text>");
    let (low, high) = (y.0, y.0 + y.1);
    add!(html, "<text x=\"0\" y=\"-6\" font-size=\"13\">{other}, {low:.2} to {high:.2}</text></svg>");
}
