//! Signals of the process as events.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT: de-register and leave.
    Leave,
    /// SIGHUP: read the policy again.
    Reload,
    /// SIGUSR1: write the counters to the log.
    Report,
}

/// The signals this process listens to.
#[derive(Debug)]
pub struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
    report: tokio::signal::unix::Signal,
}

impl Signals {
    /// Starts to listen. From here on no signal ends the process by itself: one that comes before [`Self::next`] waits for it.
    ///
    /// # Errors
    /// The error of `sigaction(2)`.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            report: signal(SignalKind::user_defined1())?,
        })
    }

    /// Waits for the next signal.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::Leave,
            _ = self.interrupt.recv() => Signal::Leave,
            _ = self.hang_up.recv() => Signal::Reload,
            _ = self.report.recv() => Signal::Report,
        }
    }

    /// Whether a signal to leave came already.
    pub async fn leave_asked(&mut self) -> bool {
        // The event loop has to look at its signal pipe first.
        tokio::task::yield_now().await;
        tokio::select! {
            biased;
            signal = self.next() => signal == Signal::Leave,
            () = std::future::ready(()) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_before_the_loop_waits_for_it() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut signals = Signals::new().unwrap();
            assert!(!signals.leave_asked().await);
            nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM).unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            assert!(signals.leave_asked().await);
            assert!(!signals.leave_asked().await);
        });
    }
}
