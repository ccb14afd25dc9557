//! Standard output for results. A reader that goes away (`aegis-blocks ls STORE | head`) ends the
//! output quietly; any other error is a failure.

use std::io::{self, BufWriter, Write};

use crate::failure::Failure;

/// Runs `body` on buffered standard output and returns its result.
pub fn print<T>(body: impl FnOnce(&mut dyn Write) -> Result<T, Failure>) -> Result<T, Failure> {
    let mut out = Quiet { inner: BufWriter::new(io::stdout().lock()), gone: false };
    let result = body(&mut out)?;
    out.flush()?;
    Ok(result)
}

/// Swallows everything after the reader has gone.
struct Quiet<W: Write> {
    inner: W,
    gone: bool,
}

impl<W: Write> Quiet<W> {
    fn forgive<T>(&mut self, result: io::Result<T>, instead: T) -> io::Result<T> {
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
        self.forgive(result, buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.gone {
            return Ok(());
        }
        let result = self.inner.flush();
        self.forgive(result, ())
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
