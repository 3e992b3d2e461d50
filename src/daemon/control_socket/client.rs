//! The client's side of the control socket: one request, and its answers.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::protocol::{Reply, Request};

/// Longest time until the daemon answers: reading the tables of ten thousand guests takes less.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens.
    #[error(
        "no kagemusha listens at {path} ({source}): is it running in this network namespace, with this runtime_directory?"
    )]
    Nobody {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The socket is not ours to use.
    #[error("{path}: {source}; only root and the user that kagemusha runs as may ask it")]
    Forbidden {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the daemon did not answer: {0}; its log may tell why")]
    Broken(#[source] io::Error),
    /// It closed without a word.
    #[error("the daemon has closed the connection: too many commands at a time, or this user may not ask it")]
    Closed,
    /// The answer is none.
    #[error("the daemon's answer is malformed ({0}): is it of another version?")]
    Malformed(#[source] serde_json::Error),
    /// The daemon said no.
    #[error("{0}")]
    Refused(String),
}

/// A connection with a request on it.
#[derive(Debug)]
pub struct Answers {
    reader: BufReader<UnixStream>,
}

/// Sends a request.
///
/// # Errors
/// See [`Error`].
pub fn send(path: &Path, request: &Request) -> Result<Answers, Error> {
    let stream = UnixStream::connect(path).map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => Error::Forbidden { path: path.to_owned(), source },
        _ => Error::Nobody { path: path.to_owned(), source },
    })?;
    let limit = (*request != Request::Watch).then_some(PATIENCE);
    stream.set_read_timeout(limit).and_then(|()| stream.set_write_timeout(Some(PATIENCE))).map_err(Error::Broken)?;
    let mut octets = serde_json::to_vec(request).map_err(Error::Malformed)?;
    octets.push(b'\n');
    // One that does not let us speak may still say why.
    let _ = (&stream).write_all(&octets);
    Ok(Answers { reader: BufReader::new(stream) })
}

impl Answers {
    /// The next answer; none after the last one.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::Refused`] when the answer is an error.
    pub fn next_answer(&mut self) -> Result<Option<Reply>, Error> {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(0) => Ok(None),
            Ok(_) => match serde_json::from_str(&line).map_err(Error::Malformed)? {
                Reply::Error(text) => Err(Error::Refused(text)),
                reply => Ok(Some(reply)),
            },
            Err(error) => Err(Error::Broken(error)),
        }
    }
}

/// Sends a request that has one answer.
///
/// # Errors
/// See [`Error`].
pub fn ask(path: &Path, request: &Request) -> Result<Reply, Error> {
    send(path, request)?.next_answer()?.ok_or(Error::Closed)
}
