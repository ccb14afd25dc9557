//! Output of the program: results on standard output, everything else on standard error.
//!
//! Owns both streams. Rules:
//! 1. An error of standard output is named by its stream, never taken for one of the store's disk.
//! 2. A reader that goes away (`aegis-blocks ls STORE | head`) ends the output quietly, except
//!    where the output cannot be had again ([`print_all`]).
//! 3. A reader that does not read cannot hang a command: a signal ends the wait.
//! 4. A message on standard error is one line, even with line feeds in names. A standard error that
//!    takes nothing (full, closed) ends no command.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;

use nix::poll::PollFlags;

use crate::failure::Failure;
use crate::interrupt::{self, Stopped};
use crate::unheard::unheard;

/// A pipe that is ready takes this much without waiting (`PIPE_BUF`).
const WRITE_LEN_MAX: usize = 4096;

/// Runs `body` on buffered standard output and returns its result.
pub fn print<T>(body: impl FnOnce(&mut dyn Write) -> Result<T, Failure>) -> Result<T, Failure> {
    let mut out = Quiet { inner: BufWriter::with_capacity(WRITE_LEN_MAX, stdout()?), gone: false };
    let result = body(&mut out)?;
    out.flush()?;
    Ok(result)
}

/// As [`print`], for output that exists only once: a closed reader is a failure too.
pub fn print_all<T>(body: impl FnOnce(&mut dyn Write) -> Result<T, Failure>) -> Result<T, Failure> {
    let mut out = BufWriter::with_capacity(WRITE_LEN_MAX, stdout()?);
    let result = body(&mut out)?;
    out.flush()?;
    Ok(result)
}

/// Prints one line that is no result, such as omissions.
pub fn note(line: impl Display) {
    write_message("", &line);
}

/// Says one line about something that failed.
pub fn warn(line: impl Display) {
    write_message("aegis-blocks: ", &line);
}

fn write_message(prefix: &str, line: &dyn Display) {
    let line = line.to_string().replace(char::is_control, "\u{fffd}");
    let written = io::stderr().lock().write_all(format!("{prefix}{line}\n").as_bytes());
    unheard(written, "there is no other place to say it, and the exit code says what failed");
}

fn stdout() -> io::Result<Stdout> {
    Ok(Stdout(File::from(io::stdout().as_fd().try_clone_to_owned().map_err(name_stdout_in)?)))
}

/// Standard output, unbuffered, with its name in its errors.
struct Stdout(File);

impl Write for Stdout {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        interrupt::wait_for(self.0.as_fd(), PollFlags::POLLOUT).map_err(name_stdout_in)?;
        self.0.write(&buf[..buf.len().min(WRITE_LEN_MAX)]).map_err(name_stdout_in)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn name_stdout_in(error: io::Error) -> io::Error {
    // Tried again by the caller, or no error of the stream.
    let is_own = error.get_ref().is_some_and(|inner| inner.is::<Stopped>());
    if is_own || error.kind() == io::ErrorKind::Interrupted {
        return error;
    }
    io::Error::new(error.kind(), format!("standard output: {error}"))
}

/// Swallows everything after the reader has gone.
struct Quiet<W: Write> {
    inner: W,
    gone: bool,
}

impl<W: Write> Quiet<W> {
    fn ignore_broken_pipe<T>(&mut self, result: io::Result<T>, instead: T) -> io::Result<T> {
        match result {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {
                self.gone = true;
                Ok(instead)
            }
            other => other,
        }
    }
}

impl<W: Write> Write for Quiet<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.gone {
            return Ok(buf.len());
        }
        let result = self.inner.write(buf);
        self.ignore_broken_pipe(result, buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.gone {
            return Ok(());
        }
        let result = self.inner.flush();
        self.ignore_broken_pipe(result, ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Failing(io::ErrorKind);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_goes_away_is_no_error_but_a_full_disk_is() {
        let mut out = Quiet { inner: Failing(io::ErrorKind::BrokenPipe), gone: false };
        assert!(out.write_all(b"line").is_ok());
        assert!(out.gone);
        let mut out = Quiet { inner: Failing(io::ErrorKind::StorageFull), gone: false };
        assert_eq!(out.write_all(b"line").map_err(|e| e.kind()), Err(io::ErrorKind::StorageFull));
    }
}
