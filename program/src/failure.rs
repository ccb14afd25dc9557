//! How a command ends: an exit code, or one line that says what failed and where.
//!
//! Owns the shape of the line. The codes are [`crate::exit`]'s. Does not decide which errors a
//! command survives.

use std::path::Path;
use std::{fmt, io};

use clap::error::ErrorKind;

use crate::exit::Exit;
use crate::interrupt::{self, Stopped};

/// The end of a command that ran to its end.
pub type Outcome = Result<Exit, Failure>;

/// A command that failed.
#[derive(Debug)]
pub struct Failure {
    message: String,
    exit: Exit,
}

impl Failure {
    /// Some items of many failed, or stored bytes differ.
    pub fn new(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), exit: Exit::Found }
    }

    /// A command line that asks for something that makes no sense.
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), exit: Exit::Usage }
    }

    /// A file or block named by the command line is missing, or is of the wrong kind.
    pub fn missing(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), exit: Exit::Missing }
    }

    /// The operating system or a limit refuses.
    pub fn refused(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), exit: Exit::Refused }
    }

    /// A lock that another process holds, or that the system refused.
    pub fn of_lock(message: String, source: io::Error) -> Failure {
        match source.kind() {
            io::ErrorKind::WouldBlock => Failure { message, exit: Exit::Locked },
            _ => Failure { message: format!("{message}: {source}"), exit: Exit::Refused },
        }
    }

    /// The operating system refused `what` on `path`.
    pub fn io(what: &str, path: &Path, source: io::Error) -> Failure {
        let exit = Exit::of_io(&source);
        Failure { message: format!("{what} {}: {source}", path.display()), exit }
    }

    /// A signal stopped the work; `done` says how far it came.
    pub fn interrupted(done: &str) -> Failure {
        let signal = interrupt::signal();
        Failure {
            message: format!("{}: {done}", signal.words()),
            exit: Exit::Signal(signal.number()),
        }
    }

    /// The same with other words for what the library calls aborted.
    pub fn or_interrupted(error: aegis_blocks::Error, done: &str) -> Failure {
        match error {
            aegis_blocks::Error::Aborted => Failure::interrupted(done),
            other => other.into(),
        }
    }

    /// Puts the work done before the failure in front.
    pub fn after(mut self, done: &str) -> Failure {
        self.message = format!("{done}; {}", self.message);
        self
    }

    /// The line and the exit code.
    pub fn into_parts(self) -> (String, Exit) {
        (self.message, self.exit)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<aegis_blocks::Error> for Failure {
    fn from(error: aegis_blocks::Error) -> Failure {
        if let aegis_blocks::Error::Aborted = error {
            return Failure::interrupted("nothing was changed");
        }
        Failure { message: error.to_string(), exit: Exit::of(&error) }
    }
}

/// For errors that name their place themselves, such as those of standard output.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        if error.get_ref().is_some_and(|inner| inner.is::<Stopped>()) {
            return Failure::interrupted("the output is not complete");
        }
        Failure { message: error.to_string(), exit: Exit::of_io(&error) }
    }
}

/// Folds the parser's message into one line, its tip ("a similar subcommand exists") too.
impl From<clap::Error> for Failure {
    fn from(error: clap::Error) -> Failure {
        if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
            return Failure::usage("no command given (try --help)");
        }
        let text = error.to_string();
        let mut paragraphs = text.split("\n\n").map(to_one_line);
        let first = paragraphs.next().unwrap_or_default();
        let line = first.strip_prefix("error: ").unwrap_or(&first);
        let tips: String = paragraphs
            .filter_map(|paragraph| Some(format!("; {}", paragraph.strip_prefix("tip: ")?)))
            .collect();
        Failure::usage(format!("{line}{tips} (try --help)"))
    }
}

fn to_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<&str>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(arguments: &[&str]) -> (String, Exit) {
        let command = clap::Command::new("x")
            .arg(clap::Arg::new("STORE").required(true))
            .arg(clap::Arg::new("chunk").long("chunk"));
        let error = command.try_get_matches_from(arguments).expect_err("a wrong command line");
        Failure::from(error).into_parts()
    }

    #[test]
    fn a_parser_error_becomes_one_line() {
        let line = "the following required arguments were not provided: <STORE> (try --help)";
        assert_eq!(refused(&["x"]), (line.to_string(), Exit::Usage));
    }

    #[test]
    fn a_tip_of_the_parser_is_kept() {
        let (line, _) = refused(&["x", "store", "--chnuk", "1"]);
        let tip = "unexpected argument '--chnuk' found; a similar argument exists: '--chunk'";
        assert_eq!(line, format!("{tip} (try --help)"));
    }
}
