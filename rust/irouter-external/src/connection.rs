//! Lines over a socket, with a deadline.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// The longest answer in bytes: an answer is one small object, and what never ends a line must not fill the memory.
const LONGEST_ANSWER: usize = 1 << 16;

/// The time on the wall clock: answers have a limit in real time, whatever the time of the simulation.
#[expect(clippy::disallowed_methods, reason = "an external process answers in real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    /// It did not come in time; it may come later.
    Late,
    /// The connection is of no use any more, and why.
    Broken(String),
}

/// A connection that is asked one line at a time and answers each with one line, in order.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    received: Vec<u8>,
    /// Answers still to come to questions that were given up: they are skipped when they come.
    late: usize,
}

impl Connection {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self { stream, received: Vec::new(), late: 0 }
    }

    /// Sends `line`, which ends with a newline, and returns the line that answers it.
    pub(crate) fn ask(&mut self, line: &[u8], limit: Duration) -> Result<Vec<u8>, NoAnswer> {
        let deadline = now() + limit;
        self.send(line, deadline)?;
        loop {
            while let Some(end) = self.received.iter().position(|&byte| byte == b'\n') {
                let answer: Vec<u8> = self.received.drain(..=end).collect();
                if self.late == 0 {
                    return Ok(answer);
                }
                self.late -= 1;
            }
            if self.received.len() > LONGEST_ANSWER {
                return Err(NoAnswer::Broken(format!(
                    "it sent more than {LONGEST_ANSWER} bytes without a newline"
                )));
            }
            let Some(left) = remaining(deadline) else {
                self.late += 1;
                return Err(NoAnswer::Late);
            };
            let mut chunk = [0; 4096];
            let read = self.stream.set_read_timeout(Some(left)).and_then(|()| self.stream.read(&mut chunk));
            match read {
                Ok(0) => return Err(NoAnswer::Broken("it closed the connection".into())),
                Ok(bytes) => self.received.extend_from_slice(&chunk[..bytes]),
                Err(error) if is_interruption(error.kind()) => {}
                Err(error) => return Err(broken("reading from it", &error)),
            }
        }
    }

    /// A line that is not taken in time leaves the connection in the middle of a message, so it is broken.
    fn send(&mut self, mut line: &[u8], deadline: Instant) -> Result<(), NoAnswer> {
        while !line.is_empty() {
            let Some(left) = remaining(deadline) else {
                return Err(NoAnswer::Broken("it did not read what it was sent".into()));
            };
            match self.stream.set_write_timeout(Some(left)).and_then(|()| self.stream.write(line)) {
                Ok(bytes) => line = &line[bytes..],
                Err(error) if is_interruption(error.kind()) => {}
                Err(error) => return Err(broken("writing to it", &error)),
            }
        }
        Ok(())
    }
}

/// Time until `deadline`, unless it has passed.
pub(crate) fn remaining(deadline: Instant) -> Option<Duration> {
    Some(deadline.saturating_duration_since(now())).filter(|left| !left.is_zero())
}

/// A time-out or a signal: the deadline decides whether to go on.
fn is_interruption(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

fn broken(what: &str, error: &std::io::Error) -> NoAnswer {
    match error.kind() {
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => {
            NoAnswer::Broken("it closed the connection".into())
        }
        _ => NoAnswer::Broken(format!("{what} failed: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(20);

    fn pair() -> (Connection, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Connection::new(ours), theirs)
    }

    #[test]
    fn a_late_answer_is_not_taken_for_the_next_one() {
        let (mut connection, mut process) = pair();
        assert_eq!(connection.ask(b"first\n", SHORT), Err(NoAnswer::Late));
        process.write_all(b"one\ntwo\n").unwrap();
        assert_eq!(connection.ask(b"second\n", LONG).unwrap(), b"two\n");
    }

    #[test]
    fn an_answer_in_pieces_is_put_together() {
        let (mut connection, mut process) = pair();
        process.write_all(b"{\"instance\"").unwrap();
        assert_eq!(connection.ask(b"first\n", SHORT), Err(NoAnswer::Late));
        process.write_all(b": 1}\n{}\n").unwrap();
        assert_eq!(connection.ask(b"second\n", LONG).unwrap(), b"{}\n");
    }

    #[test]
    fn what_closes_does_not_read_or_never_ends_a_line_breaks_the_connection() {
        let (mut connection, process) = pair();
        drop(process);
        assert_eq!(connection.ask(b"x\n", LONG), Err(NoAnswer::Broken("it closed the connection".into())));

        let (mut connection, mut process) = pair();
        let flood = std::thread::spawn(move || process.write_all(&vec![b'x'; 1 << 24]));
        let broken = connection.ask(b"x\n", LONG);
        assert!(
            matches!(&broken, Err(NoAnswer::Broken(why)) if why.contains("without a newline")),
            "{broken:?}"
        );
        drop(connection);
        assert!(flood.join().unwrap().is_err());

        let (mut connection, _process) = pair();
        let broken = connection.ask(&vec![b'x'; 1 << 24], SHORT);
        assert_eq!(broken, Err(NoAnswer::Broken("it did not read what it was sent".into())));
    }
}
