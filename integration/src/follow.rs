//! The lines of an inner side as they come, and a watch over it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::failure::{Failure, Outcome, While};
use crate::init::HEARTBEAT;
use crate::job::{ALIVE, Event, LINE};

/// How an inner side has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// It has closed its output.
    Closed,
    /// It has said nothing at all for so long.
    Silent(Duration),
    /// The time for everything is over.
    Late(Duration),
}

/// How long it may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// Until the first line.
    pub(crate) start: Duration,
    /// From one line to the next; machines have a heartbeat, other inner sides have none.
    pub(crate) silence: Option<Duration>,
    /// Until its end.
    pub(crate) end: Instant,
}

/// A machine that says nothing for so long is dead, however busy the lab is.
pub(crate) const SILENCE: Duration = Duration::from_secs(24 * HEARTBEAT.as_secs());

/// Follows both streams to their end, with `prefix` in front of each line for the user, and keeps all in `log`.
pub(crate) fn follow(
    streams: (Box<dyn Read + Send>, Box<dyn Read + Send>),
    prefix: &str,
    log: &Path,
    patience: Patience,
    mut heard: impl FnMut(Event) -> Outcome,
) -> Outcome<End> {
    let (lines, receiver) = mpsc::channel::<Vec<u8>>();
    for stream in [streams.0, streams.1] {
        let lines = lines.clone();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stream);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                if lines.send(std::mem::take(&mut line)).is_err() {
                    break;
                }
            }
        });
    }
    drop(lines);
    let mut log = fs::File::create(log).during(|| log.display().to_string())?;
    let mut wait = Some(patience.start);
    loop {
        let left = patience.end.saturating_duration_since(Instant::now());
        let this = wait.map_or(left, |wait| wait.min(left));
        match receiver.recv_timeout(this) {
            Ok(line) => {
                wait = patience.silence;
                let text = String::from_utf8_lossy(&line);
                let text = text.trim_end();
                if text == ALIVE {
                    continue;
                }
                log.write_all(&line)?;
                if let Some(event) = Event::of_line(text) {
                    heard(event)?;
                }
                // An empty line has lost the space at its end.
                if let Some(text) = text.strip_prefix(LINE.trim_end()) {
                    // Whoever reads may have seen enough; the run goes on and has its exit code.
                    let _ = writeln!(std::io::stdout(), "{prefix}{}", text.strip_prefix(' ').unwrap_or(text));
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(End::Closed),
            Err(mpsc::RecvTimeoutError::Timeout) if this < left => return Ok(End::Silent(this)),
            Err(mpsc::RecvTimeoutError::Timeout) => return Ok(End::Late(patience.end.elapsed())),
        }
    }
}

impl End {
    /// The failure it is for somebody who expected the job to be done; `last_words` of the machine.
    pub(crate) fn failure(&self, what: &str, last_words: &str) -> Failure {
        match self {
            Self::Closed => Failure::new(format!("{what} has ended before its work was done: {last_words}")),
            Self::Silent(time) => {
                Failure::timeout(format!("{what} hangs: nothing for {} s, and {last_words}", time.as_secs()))
            }
            Self::Late(_) => Failure::timeout(format!("{what} was ended: --timeout is over")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn followed(text: &'static str, silence: Option<Duration>) -> (End, Vec<Event>) {
        let log = std::env::temp_dir().join(format!("kagemusha-lab-follow-{}-{}", std::process::id(), text.len()));
        let mut events = vec![];
        let end = Instant::now() + Duration::from_secs(5);
        let patience = Patience { start: Duration::from_secs(5), silence, end };
        let streams: (Box<dyn Read + Send>, Box<dyn Read + Send>) = match silence {
            // Nothing more comes, and the pipe stays open.
            Some(_) => {
                let (reader, writer) = std::io::pipe().unwrap();
                (&writer).write_all(text.as_bytes()).unwrap();
                std::mem::forget(writer);
                (Box::new(reader), Box::new(std::io::empty()))
            }
            None => (Box::new(text.as_bytes()), Box::new(std::io::empty())),
        };
        let found = follow(streams, "", &log, patience, |event| {
            events.push(event);
            Ok(())
        });
        let _ = fs::remove_file(&log);
        (found.unwrap(), events)
    }

    #[test]
    fn events_are_heard_and_the_end_is_told() {
        let text = "noise\nlab-event| {\"Begun\":\"a\"}\nlab-alive|\nlab-event| \"Done\"\n";
        assert_eq!(followed(text, None), (End::Closed, vec![Event::Begun("a".into()), Event::Done]));
    }

    #[test]
    fn who_says_nothing_hangs() {
        let silence = Duration::from_millis(50);
        assert_eq!(followed("lab| x\n", Some(silence)).0, End::Silent(silence));
    }
}
