//! What a machine said before it was silent, in one line, and what to do about it.

/// Why a machine that has not done its work has ended, from what its kernel and QEMU have said.
pub(crate) fn last_words(console: &str, qemu: &str) -> String {
    let said = |text: &str| -> Option<String> {
        let mut lines = text.lines().map(|line| without_time(line).trim()).filter(|line| !line.is_empty());
        lines.next_back().map(str::to_owned)
    };
    if let Some(panic) = console.lines().map(without_time).find(|line| line.contains("Kernel panic")) {
        return format!("its kernel has panicked: \"{}\"", panic.trim().trim_start_matches("Kernel panic - "));
    }
    if let Some(line) = said(qemu) {
        // It begins with the name of what says it.
        return format!("\"{line}\"");
    }
    match said(console) {
        Some(line) => format!("its last words are \"{line}\""),
        None => "it has not said a word; is this a kernel for x86-64?".to_owned(),
    }
}

/// A line of the kernel without the time in front of it.
fn without_time(line: &str) -> &str {
    match line.trim_start().strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((time, rest)) if time.trim().parse::<f64>().is_ok() => rest,
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_what_counts() {
        let console = "[    4.1] Run /bin/false as init process\r\n\
            [    4.2] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100\r\n[    4.3] CPU: 0 PID: 1\r\n";
        let found = last_words(console, "");
        assert_eq!(found, "its kernel has panicked: \"not syncing: Attempted to kill init! exitcode=0x00000100\"");
    }

    #[test]
    fn otherwise_who_spoke_last() {
        assert_eq!(last_words("a\n[    1.5] b\n\n", ""), "its last words are \"b\"");
        assert_eq!(last_words("a\n", "qemu: no memory\n"), "\"qemu: no memory\"");
        assert!(last_words("", "").contains("not said a word"));
    }
}
