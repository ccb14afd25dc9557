//! Exit codes: the result of a command for scripts.
//!
//! Owns the codes, their table for readers ([`TABLE`]), and the code of each error of the library
//! or of the system. A script tells these apart: wrong bytes (1), wrong command (2), try later (3),
//! nothing there (4), refused by the system (5).

use std::io;
use std::process::ExitCode;

use aegis_blocks::Error;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All that was asked for is done, and nothing is damaged.
    Done,
    /// Damage was found, a block is not there, or some items of many failed.
    Found,
    /// The command line asks for something that makes no sense or is not allowed.
    Usage,
    /// Another process has the store open.
    Locked,
    /// There is no store, backup or file where the command line says, or a target is not empty.
    Missing,
    /// The operating system or a limit refuses.
    Refused,
    /// A signal ended the command.
    Signal(u8),
}

/// Shells show a program that was ended by a signal as this plus its number.
const SIGNALS_FROM: u8 = 128;

/// The table of `--help` and of the manual.
pub const TABLE: &str = "\
Exit codes:
  0    done; for verify and probe: sound
  1    damage was found, a block does not exist, or some of the files failed
  2    wrong usage: the command line asks for what makes no sense or is not allowed
  3    the store is open in another process
  4    no store, backup or input file is there, or the target is not empty
  5    the system refused: permission, read-only, no space, a limit, a failing disk
  129, 130, 143  ended by SIGHUP, SIGINT (Ctrl-C), SIGTERM";

impl Exit {
    /// The number that the shell sees.
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Found => 1,
            Exit::Usage => 2,
            Exit::Locked => 3,
            Exit::Missing => 4,
            Exit::Refused => 5,
            Exit::Signal(number) => SIGNALS_FROM + number,
        }
    }

    /// `Done` if it is sound, `Found` if not.
    pub fn of_check(is_sound: bool) -> Exit {
        if is_sound { Exit::Done } else { Exit::Found }
    }

    /// The code of an error of the library.
    pub fn of(error: &Error) -> Exit {
        match error {
            Error::BlockTooLarge { .. }
            | Error::TransactionTooLarge { .. }
            | Error::InvalidArgument { .. }
            | Error::Unsupported { .. } => Exit::Usage,
            Error::Locked { .. } => Exit::Locked,
            Error::NotAStore { .. } | Error::NotEmpty { .. } | Error::UnsupportedFormat { .. } => {
                Exit::Missing
            }
            Error::Io { .. }
            | Error::StorageFull { .. }
            | Error::ResourceExhausted { .. }
            | Error::Poisoned { .. }
            | Error::ReadOnly
            | Error::TooManyTransactions { .. }
            | Error::IdsExhausted => Exit::Refused,
            _ => Exit::Found,
        }
    }

    /// The code of an error of the operating system on a file that the command line names.
    pub fn of_io(error: &io::Error) -> Exit {
        match error.kind() {
            io::ErrorKind::NotFound => Exit::Missing,
            _ => Exit::Refused,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_every_code() {
        let signals = [1, 2, 15].map(Exit::Signal);
        let all =
            [Exit::Done, Exit::Found, Exit::Usage, Exit::Locked, Exit::Missing, Exit::Refused];
        for exit in all.into_iter().chain(signals) {
            let code = exit.code().to_string();
            let words = TABLE.split(|c: char| !c.is_ascii_digit());
            assert_eq!(words.filter(|word| *word == code).count(), 1, "{exit:?}");
        }
    }
}
