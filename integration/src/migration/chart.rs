//! A guest's round-trip time and losses over time, with its moves: as SVG and for a terminal.

use std::fmt::Write as _;
use std::time::Duration;

use super::traffic::Probe;

/// What is drawn.
pub(crate) struct Chart<'a> {
    pub(crate) title: &'a str,
    pub(crate) probes: &'a [Probe],
    /// Where the guest is from when on, since the epoch. The first is where it is at the beginning.
    pub(crate) stays: &'a [(Duration, &'static str)],
}

/// One column of the terminal's chart.
#[derive(Debug, Clone, Copy, Default)]
struct Column {
    longest: Option<Duration>,
    lost: usize,
}

impl Chart<'_> {
    fn span(&self) -> (Duration, Duration) {
        let first = self.probes.first().map(|probe| probe.sent).unwrap_or_default();
        let last = self.probes.last().map(|probe| probe.sent).unwrap_or_default();
        (first, (last - first).max(Duration::from_millis(1)))
    }

    fn longest(&self) -> Duration {
        let longest = self.probes.iter().filter_map(|probe| probe.round_trip).max().unwrap_or_default();
        longest.max(Duration::from_millis(1))
    }

    /// The round-trip time that all but one in a hundred stay below: the scale, so that one late reply does not press the rest flat.
    fn scale(&self) -> Duration {
        let mut all: Vec<Duration> = self.probes.iter().filter_map(|probe| probe.round_trip).collect();
        all.sort_unstable();
        let high = all.get(all.len().saturating_sub(1) * 99 / 100).copied().unwrap_or_default();
        (high * 5 / 4).clamp(Duration::from_millis(1), self.longest().max(Duration::from_millis(1)))
    }

    /// For a terminal: `width` columns of `height` rows of round-trip time, a row of losses, and the sites below.
    pub(crate) fn terminal(&self, width: usize, height: usize) -> String {
        let (begin, span) = self.span();
        let place = |time: Duration| {
            let part = time.saturating_sub(begin).as_secs_f64() / span.as_secs_f64();
            ((part * width as f64) as usize).min(width.saturating_sub(1))
        };
        let mut columns = vec![Column::default(); width];
        for probe in self.probes {
            let Some(column) = columns.get_mut(place(probe.sent)) else { continue };
            match probe.round_trip {
                Some(time) => column.longest = Some(column.longest.map_or(time, |longest| longest.max(time))),
                None => column.lost += 1,
            }
        }
        let scale = self.scale();
        let mut text = format!("{}\n", self.title);
        for row in (0..height).rev() {
            let label = scale.as_secs_f64() * 1000.0 * (row + 1) as f64 / height as f64;
            let _ = write!(text, "{label:8.1} ms │");
            text.extend(columns.iter().map(|column| column.longest.map_or(' ', |time| bar(time, scale, row, height))));
            text.push('\n');
        }
        let _ = write!(text, "       lost │");
        text.extend(columns.iter().map(|column| if column.lost > 0 { '×' } else { ' ' }));
        let _ = write!(text, "\n            └{}\n             ", "─".repeat(width));
        let mut written = 0;
        for (from, name) in self.stays {
            let at = place(*from);
            if at >= written {
                let _ = write!(text, "{}│{name} ", " ".repeat(at - written));
                written = at + name.chars().count() + 2;
            }
        }
        let _ = write!(text, "\n             {:.1} s", span.as_secs_f64());
        text
    }

    /// As a picture.
    pub(crate) fn svg(&self) -> String {
        const WIDTH: f64 = 960.0;
        const HEIGHT: f64 = 360.0;
        const LEFT: f64 = 70.0;
        const TOP: f64 = 50.0;
        const BOTTOM: f64 = 60.0;
        let (begin, span) = self.span();
        let scale = self.scale();
        let x = |time: Duration| {
            LEFT + time.saturating_sub(begin).as_secs_f64() / span.as_secs_f64() * (WIDTH - LEFT - 20.0)
        };
        let base = HEIGHT - BOTTOM;
        let y = |time: Duration| base - (time.as_secs_f64() / scale.as_secs_f64()).min(1.0) * (base - TOP);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"{LEFT}\" y=\"24\" font-size=\"16\">{}</text>\n",
            escape(self.title)
        );
        let end = begin + span;
        for (number, (from, name)) in self.stays.iter().enumerate() {
            let (left, right) = (x(*from), x(self.stays.get(number + 1).map_or(end, |(until, _)| *until)));
            let fill = if number % 2 == 0 { "#eef3fa" } else { "#f8f1e4" };
            let _ = writeln!(
                svg,
                "<rect x=\"{left:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{fill}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                right - left,
                base - TOP,
                left + 4.0,
                TOP + 14.0,
                escape(name)
            );
        }
        for part in 0..=4 {
            let time = scale * part / 4;
            let _ = writeln!(
                svg,
                "<line x1=\"{LEFT}\" x2=\"{:.0}\" y1=\"{1:.1}\" y2=\"{1:.1}\" stroke=\"#ccc\"/>\
                 <text x=\"{2:.0}\" y=\"{3:.1}\" text-anchor=\"end\">{4:.1} ms</text>",
                WIDTH - 20.0,
                y(time),
                LEFT - 6.0,
                y(time) + 4.0,
                time.as_secs_f64() * 1000.0
            );
        }
        for second in 0..=span.as_secs() {
            let at = x(begin + Duration::from_secs(second));
            let _ =
                writeln!(svg, "<text x=\"{at:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{second} s</text>", base + 36.0);
        }
        for probe in self.probes {
            let at = x(probe.sent);
            let _ = match probe.round_trip {
                Some(time) => {
                    writeln!(svg, "<circle cx=\"{at:.1}\" cy=\"{:.1}\" r=\"1.3\" fill=\"#1f5fa8\"/>", y(time))
                }
                None => {
                    writeln!(
                        svg,
                        "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{:.0}\" y2=\"{:.0}\" stroke=\"#c0392b\"/>",
                        base + 4.0,
                        base + 18.0
                    )
                }
            };
        }
        let _ = writeln!(
            svg,
            "<text x=\"{LEFT}\" y=\"{:.0}\">blue: round-trip time of an echo request of a correspondent at home; red: lost</text>\n</svg>",
            HEIGHT - 6.0
        );
        svg
    }
}

/// The part of a bar of `time` that is in `row` from below.
fn bar(time: Duration, scale: Duration, row: usize, height: usize) -> char {
    let eighths = (time.as_secs_f64() / scale.as_secs_f64()).min(1.0) * height as f64 * 8.0;
    let here = (eighths.ceil() as usize).max(1).saturating_sub(row * 8).min(8);
    [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'].get(here).copied().unwrap_or(' ')
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAYS: [(Duration, &str); 2] =
        [(Duration::from_secs(1_000_000), "home"), (Duration::from_secs(1_000_001), "site 1")];

    fn probes() -> Vec<Probe> {
        (0..300)
            .map(|number| Probe {
                guest: 0,
                sent: Duration::from_secs(1_000_000) + Duration::from_millis(number * 10),
                round_trip: (!(100..110).contains(&number)).then_some(Duration::from_millis(if number < 100 {
                    2
                } else {
                    20
                })),
            })
            .collect()
    }

    fn chart(probes: &[Probe]) -> Chart<'_> {
        Chart { title: "a <guest>", probes, stays: &STAYS }
    }

    #[test]
    fn a_terminal_shows_a_step_and_a_loss() {
        let probes = probes();
        let text = chart(&probes).terminal(60, 6);
        let lines: Vec<&str> = text.lines().collect();
        let row = |number: usize| lines[number].chars().skip_while(|c| *c != '│').skip(1).collect::<Vec<char>>();
        // Low on the left third, high on the right.
        assert_eq!((row(6)[5], row(2)[5]), ('▅', ' '), "{text}");
        assert_eq!(row(2)[40], '█', "{text}");
        let lost: Vec<usize> = row(7).iter().enumerate().filter(|(_, c)| **c == '×').map(|(at, _)| at).collect();
        assert_eq!(lost, [20, 21, 22].as_slice()[..lost.len()], "{text}");
        assert!(!lost.is_empty() && text.contains("│home") && text.contains("│site 1"), "{text}");
    }

    #[test]
    fn a_picture_has_every_probe() {
        let probes = probes();
        let svg = chart(&probes).svg();
        assert_eq!((svg.matches("<circle").count(), svg.matches("#c0392b").count()), (290, 10));
        assert!(svg.contains("a &lt;guest>") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn nothing_is_drawn_of_nothing() {
        let chart = Chart { title: "none", probes: &[], stays: &[] };
        assert!(chart.terminal(10, 3).contains("lost") && chart.svg().ends_with("</svg>\n"));
    }
}
