//! How a command ends: an exit code, or one line that says what failed and where.
//!
//! Owns the exit codes and the shape of the line. Does not decide which errors a command survives.

use std::fmt;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::error::ErrorKind;

/// The end of a command that ran to its end.
pub type Outcome = Result<ExitCode, Failure>;

const FAILED: u8 = 1;
const WRONG_USAGE: u8 = 2;
/// What a shell expects of a program that ended by Ctrl-C: 128 + SIGINT.
pub const INTERRUPTED: u8 = 130;

/// A command that could not do what it was asked.
#[derive(Debug)]
pub struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    /// A failure of the work itself.
    pub fn new(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), code: FAILED }
    }

    /// A command line that asks for something that makes no sense.
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), code: WRONG_USAGE }
    }

    /// The operating system refused `what` on `path`.
    pub fn io(what: &str, path: &Path, source: impl fmt::Display) -> Failure {
        Failure::new(format!("{what} {}: {source}", path.display()))
    }

    /// The work was stopped from the keyboard; what it had committed stays.
    pub fn interrupted(done: &str) -> Failure {
        Failure { message: format!("interrupted, {done}"), code: INTERRUPTED }
    }

    /// Prints the line and returns the exit code.
    pub fn report(self) -> ExitCode {
        eprintln!("aegis-blocks: {}", self.message);
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<aegis_blocks::Error> for Failure {
    fn from(error: aegis_blocks::Error) -> Failure {
        Failure::new(error.to_string())
    }
}

/// For errors of standard output and standard input, which have no path.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::new(error.to_string())
    }
}

/// Folds the parser's paragraph into one line.
impl From<clap::Error> for Failure {
    fn from(error: clap::Error) -> Failure {
        if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
            return Failure::usage("no command given (try --help)");
        }
        let text = error.to_string();
        let paragraph = text.split("\n\n").next().unwrap_or(&text);
        let words: Vec<&str> = paragraph.split_whitespace().collect();
        let line = words.join(" ");
        let line = line.strip_prefix("error: ").unwrap_or(&line);
        Failure::usage(format!("{line} (try --help)"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parser_error_becomes_one_line() {
        let command = clap::Command::new("x").arg(clap::Arg::new("STORE").required(true));
        let error = command.try_get_matches_from(["x"]).expect_err("STORE is missing");
        let failure = Failure::from(error);
        assert_eq!(failure.code, WRONG_USAGE);
        assert_eq!(
            failure.message,
            "the following required arguments were not provided: <STORE> (try --help)"
        );
    }
}
