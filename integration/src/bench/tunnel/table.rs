//! The report as text.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::aims::{self, Limit};
use super::report::Report;
use super::stats::{self, Quantity, Range};
use super::variant::{Setting, Variant};

/// Everything.
pub(super) fn whole(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_whole(&mut text, report);
    text
}

fn write_whole(text: &mut String, report: &Report) -> std::fmt::Result {
    writeln!(
        text,
        "\nLinux {}, {} CPUs; kernel-tunnel is {}; TCP by {}. Ratios are to kernel VXLAN over IPv6 in the same round:\n\
         median (smallest to largest). Every way is guest, host, home agent, correspondent.",
        report.kernel, report.cpus, report.kernel_tunnel, report.congestion_control
    )?;
    let settings: BTreeSet<Setting> = report.samples.iter().map(|sample| sample.setting).collect();
    for setting in Setting::all().into_iter().filter(|setting| settings.contains(setting)) {
        write_setting(text, report, setting)?;
    }
    write_shaped(text, report)?;
    write_memory(text, report)?;
    writeln!(text, "\nAims ({}; median)", Setting::MAIN.describe())?;
    for aim in aims::all(report) {
        let limit = match aim.limit {
            Limit::AtLeast(limit) => format!("≥ {limit}"),
            Limit::AtMost(limit) => format!("≤ {limit}"),
        };
        let verdict = match aim.met() {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "not measured",
        };
        let measured = aim.measured.map_or("—".to_owned(), |measured| format!("{measured:.2}"));
        writeln!(text, "  {:<55} {limit:>8} {measured:>9} {:<3} {verdict}", aim.what, aim.unit)?;
    }
    for (title, lines) in [("Failures", &report.failures), ("Counted by the engines", &report.counters)] {
        if !lines.is_empty() {
            writeln!(text, "\n{title}")?;
            lines.iter().try_for_each(|line| writeln!(text, "  {line}"))?;
        }
    }
    for (variant, why) in &report.skipped {
        writeln!(text, "\nSKIP {}: {why}", variant.name())?;
    }
    writeln!(text, "\n{:.0} s", report.seconds)
}

fn write_setting(text: &mut String, report: &Report, setting: Setting) -> std::fmt::Result {
    let samples = &report.samples;
    let of_setting = || samples.iter().filter(|sample| sample.setting == setting);
    let foreign = stats::range(of_setting().map(|sample| sample.foreign)).map_or(0.0, |range| range.median);
    let rounds: BTreeSet<usize> = of_setting().map(|sample| sample.round).collect();
    writeln!(
        text,
        "\n{}; {} rounds; other programs had {foreign:.2} CPUs meanwhile",
        setting.describe(),
        rounds.len()
    )?;
    let columns: [(&str, Quantity); 5] = [
        ("1 stream", |s| s.one_stream.gigabits),
        ("CPU per GB", |s| s.one_stream.cpu_per_gigabyte),
        ("8 streams", |s| s.eight_streams.gigabits),
        ("small packets", |s| s.small_packets),
        ("jitter", |s| s.jitter),
    ];
    write!(text, "  {:<14}", "")?;
    columns.iter().try_for_each(|(title, _)| write!(text, "{title:>18}"))?;
    writeln!(text, "{:>16}{:>9}{:>9}", "added µs, 1 way", "Gb/s", "RTT µs")?;
    for variant in Variant::ALL {
        let Some(gigabits) = stats::absolute(samples, setting, variant, |s| s.one_stream.gigabits) else { continue };
        write!(text, "  {:<14}", variant.name())?;
        for (_, of) in columns {
            write!(text, "{:>18}", shown(stats::ratio(samples, setting, variant, Variant::Vxlan, of)))?;
        }
        let added = stats::added_latency(samples, setting, variant)
            .map_or("—".into(), |added| format!("{:.1}", added.median));
        let trip = stats::absolute(samples, setting, variant, |s| s.round_trip).map_or(0.0, |range| range.median);
        writeln!(text, "{added:>16}{:>9.2}{trip:>9.1}", gigabits.median)?;
    }
    Ok(())
}

fn shown(range: Option<Range>) -> String {
    range.map_or("—".to_owned(), |range| format!("{:.2} ({:.2}–{:.2})", range.median, range.smallest, range.largest))
}

fn write_shaped(text: &mut String, report: &Report) -> std::fmt::Result {
    if report.shaped.is_empty() {
        return Ok(());
    }
    writeln!(text, "\nThe original's table: a link of 100 Mb/s (token bucket filter), 1500 octets, all CPUs.")?;
    writeln!(text, "kernel-tunnel stands for a mobile router of NEMO: a namespace whose kernel forwards and tunnels.")?;
    writeln!(
        text,
        "  {:<14}{:>12}{:>16}{:>12}{:>12}{:>14}",
        "", "TCP Mb/s", "CPU % of one", "RTT µs", "jitter µs", "memory kB"
    )?;
    for column in &report.shaped {
        let memory = column.memory.map_or("kernel".to_owned(), |memory| memory.to_string());
        writeln!(
            text,
            "  {:<14}{:>12.1}{:>16.1}{:>12.1}{:>12.1}{memory:>14}",
            column.variant.name(),
            column.megabits,
            column.cpu_percent,
            column.round_trip,
            column.jitter
        )?;
    }
    Ok(())
}

fn write_memory(text: &mut String, report: &Report) -> std::fmt::Result {
    if report.memory.is_empty() {
        return Ok(());
    }
    writeln!(text, "\nResident memory of the process at the guest's host, kB: its own + of files")?;
    writeln!(
        text,
        "  {:<14}{:>14}{:>16}{:>12}{:>20}",
        "", "idle", "after traffic", "carried GB", "each further guest"
    )?;
    for memory in &report.memory {
        let sum = |(own, shared): (u64, u64)| format!("{own} + {shared}");
        writeln!(
            text,
            "  {:<14}{:>14}{:>16}{:>12.1}{:>20.2}",
            memory.variant.name(),
            sum(memory.idle),
            sum(memory.after),
            memory.carried as f64 / 1e9,
            memory.each_guest
        )?;
    }
    Ok(())
}
