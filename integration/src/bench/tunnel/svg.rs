//! The report as a picture: for each setting the three ratios that decide, a bar for each variant, whiskers from the smallest to
//! the largest round, and a mark at 1, which is kernel VXLAN.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::report::Report;
use super::stats::{self, Quantity};
use super::variant::{Setting, Variant};

const WIDTH: f64 = 1080.0;
const LEFT: f64 = 130.0;
const PANEL: f64 = 290.0;
const GAP: f64 = 25.0;
const BAR: f64 = 15.0;
const HEAD: f64 = 46.0;

/// Title, quantity, and the ratio at the right edge.
const PANELS: [(&str, Quantity, f64); 3] = [
    ("TCP throughput ÷ VXLAN (more is better)", |s| s.one_stream.gigabits, 2.0),
    ("CPU per GB ÷ VXLAN (less is better)", |s| s.one_stream.cpu_per_gigabyte, 8.0),
    ("small packets per second ÷ VXLAN (more is better)", |s| s.small_packets, 3.0),
];

fn colour(variant: Variant) -> &'static str {
    match variant {
        Variant::Plain => "#9aa0a6",
        Variant::Vxlan => "#5f6368",
        Variant::KernelTunnel => "#7b8794",
        Variant::Naive => "#c5221f",
        Variant::Portable => "#f29900",
        Variant::SuperPacket => "#1a73e8",
        Variant::Ebpf => "#188038",
    }
}

/// A whole SVG document.
pub(super) fn draw(report: &Report) -> String {
    let mut body = String::new();
    // Writing to a string cannot fail.
    let height = write_body(&mut body, report).unwrap_or_default();
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    )
}

fn write_body(svg: &mut String, report: &Report) -> Result<f64, std::fmt::Error> {
    writeln!(
        svg,
        "<text x=\"10\" y=\"20\" font-size=\"15\">Kagemusha's tunnel engine beside the kernel's tunnels (Linux {}, {} CPUs)</text>",
        escape(&report.kernel),
        report.cpus
    )?;
    let settings: BTreeSet<Setting> = report.samples.iter().map(|sample| sample.setting).collect();
    let mut y = 40.0;
    for setting in Setting::all().into_iter().filter(|setting| settings.contains(setting)) {
        let variants: Vec<Variant> = Variant::ALL
            .into_iter()
            .filter(|variant| report.samples.iter().any(|s| s.setting == setting && s.variant == *variant))
            .collect();
        writeln!(
            svg,
            "<text x=\"10\" y=\"{:.1}\" font-weight=\"bold\">{}</text>",
            y + 14.0,
            escape(&setting.describe())
        )?;
        for (row, variant) in variants.iter().enumerate() {
            let at = y + HEAD + row as f64 * (BAR + 4.0) + BAR - 4.0;
            writeln!(svg, "<text x=\"{:.1}\" y=\"{at:.1}\" text-anchor=\"end\">{}</text>", LEFT - 8.0, variant.name())?;
        }
        for (index, (title, of, limit)) in PANELS.into_iter().enumerate() {
            let x = LEFT + index as f64 * (PANEL + GAP);
            let depth = variants.len() as f64 * (BAR + 4.0);
            writeln!(svg, "<text x=\"{x:.1}\" y=\"{:.1}\" fill=\"#444\">{title}</text>", y + HEAD - 10.0)?;
            for (row, variant) in variants.iter().enumerate() {
                let Some(range) = stats::ratio(&report.samples, setting, *variant, Variant::Vxlan, of) else {
                    continue;
                };
                let top = y + HEAD + row as f64 * (BAR + 4.0);
                let place = |value: f64| x + (value / limit).clamp(0.0, 1.0) * PANEL;
                writeln!(
                    svg,
                    "<rect x=\"{x:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{}\"><title>{}: {:.2} ({:.2} to {:.2})</title></rect>",
                    place(range.median) - x,
                    colour(*variant),
                    variant.name(),
                    range.median,
                    range.smallest,
                    range.largest
                )?;
                let middle = top + BAR / 2.0;
                writeln!(
                    svg,
                    "<line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\" stroke=\"black\"/>",
                    place(range.smallest),
                    place(range.largest)
                )?;
                let label = place(range.largest.max(range.median)) + 4.0;
                let (label, anchor) =
                    if label > x + PANEL - 30.0 { (x + PANEL - 2.0, "end") } else { (label, "start") };
                writeln!(
                    svg,
                    "<text x=\"{label:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{:.2}</text>",
                    middle + 4.0,
                    range.median
                )?;
            }
            let one = x + PANEL / limit;
            let (top, bottom) = (y + HEAD - 4.0, y + HEAD + depth);
            writeln!(
                svg,
                "<line x1=\"{one:.1}\" x2=\"{one:.1}\" y1=\"{top:.1}\" y2=\"{bottom:.1}\" stroke=\"#888\" stroke-dasharray=\"3 2\"/>"
            )?;
        }
        y += HEAD + variants.len() as f64 * (BAR + 4.0) + 16.0;
    }
    Ok(y)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::tunnel::stats::tests::sample;

    #[test]
    fn a_bar_for_each_ratio() {
        let mut report = Report::new(None).unwrap();
        report.samples = vec![sample(Variant::Vxlan, 0, 10.0), sample(Variant::Portable, 0, 5.0)];
        let svg = draw(&report);
        assert_eq!(svg.matches("<title>portable: 0.50 (0.50 to 0.50)").count(), 2, "throughput and small packets");
        assert_eq!(svg.matches("<title>portable: 2.00").count(), 1, "CPU");
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
    }
}
