//! Forks: a store belongs to the process that opened it, in every state that a fork may find it in.
//!
//! Each test starts this program again with the name of a state in its environment. That program
//! opens a store, forks in that state and looks at both sides: the child is refused everything and
//! changes nothing by dropping what it holds; the parent's store goes on, stays locked and keeps
//! its commits. A child that hangs is ended by its own alarm, and a program that hangs by its own,
//! so that a test which fails ends, too.

#[path = "../support/block.rs"]
mod block;
mod child;
#[path = "../support/options.rs"]
mod options;
mod states;
mod strangers;

use std::path::Path;
use std::process::Command;

const STATE: &str = "AEGIS_FORK_STATE";
const DIR: &str = "AEGIS_FORK_DIR";
/// Seconds after which a program or a child counts as hanging.
const HANGS_AFTER: u32 = 120;

/// What a program does in a directory of its own.
type State = fn(&Path);

const STATES: &[(&str, State)] = &[
    ("idle", states::idle),
    ("single_threaded", states::single_threaded),
    ("writers", states::writers),
    ("transaction", states::transaction),
    ("ticket", states::ticket),
    ("carried_ticket", states::carried_ticket),
    ("upkeep", states::upkeep),
    ("memory", states::memory),
    ("turn", states::turn),
    ("reader", states::reader),
    ("callback", states::callback),
    ("space_callback", states::space_callback),
    ("backup_watch", states::backup_watch),
    ("open_watch", states::open_watch),
    ("raw_fork", states::raw_fork),
    ("daemon", strangers::daemon),
    ("killed_parent", strangers::killed_parent),
    ("exec", strangers::exec),
    ("own_store", strangers::own_store),
    ("closed_before", strangers::closed_before),
];

/// The program's half. Does nothing unless a test has started it.
#[test]
fn program_started_by_a_test() {
    let (Ok(state), Ok(dir)) = (std::env::var(STATE), std::env::var(DIR)) else { return };
    nix::unistd::alarm::set(HANGS_AFTER);
    let (_, run) = STATES.iter().find(|(name, _)| *name == state).expect("a state");
    run(Path::new(&dir));
}

/// Runs the program in a state, and expects it to end well.
fn run(state: &str) {
    let dir = tempfile::tempdir().expect("a directory");
    let output = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "program_started_by_a_test", "--nocapture"])
        .env(STATE, state)
        .env(DIR, dir.path())
        .output()
        .expect("the program runs");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{state}: {}\n{told}", output.status);
}

macro_rules! tests {
    ($(fn $name:ident() in $state:literal;)+) => {
        $(#[test] fn $name() { run($state); })+

        #[test]
        fn every_state_has_a_test() {
            let mut tested = [$($state),+];
            let mut all: Vec<&str> = STATES.iter().map(|(name, _)| *name).collect();
            tested.sort_unstable();
            all.sort_unstable();
            assert_eq!(tested.as_slice(), all);
        }
    };
}

tests! {
    fn child_of_an_idle_store_is_refused_everything() in "idle";
    fn child_of_a_single_threaded_store_is_refused_everything() in "single_threaded";
    fn child_forked_beside_writers_is_refused_everything() in "writers";
    fn child_with_open_transactions_ends_none_of_them() in "transaction";
    fn child_with_a_pending_ticket_does_not_wait_for_it() in "ticket";
    fn child_with_a_ticket_that_another_thread_carries_does_not_wait() in "carried_ticket";
    fn child_forked_beside_upkeep_and_backups_is_refused_everything() in "upkeep";
    fn child_of_a_store_in_memory_is_refused_everything() in "memory";
    fn child_that_returns_into_a_turn_ends_none() in "turn";
    fn child_keeps_the_bytes_that_its_parent_read() in "reader";
    fn child_that_returns_from_a_callback_of_a_commit_is_ended() in "callback";
    fn child_that_returns_from_the_callback_of_low_space_is_ended() in "space_callback";
    fn child_that_returns_into_a_backup_leaves_it_alone() in "backup_watch";
    fn child_that_returns_into_an_open_leaves_it_alone() in "open_watch";
    fn child_of_a_raw_fork_is_refused_everything() in "raw_fork";
    fn daemon_is_refused_and_keeps_no_lock_of_its_parent() in "daemon";
    fn child_of_a_killed_parent_keeps_no_lock() in "killed_parent";
    fn program_that_a_child_execs_has_nothing_of_the_store() in "exec";
    fn child_opens_the_store_anew_when_its_parent_has_closed_it() in "own_store";
    fn ticket_of_a_store_closed_before_the_fork_is_refused() in "closed_before";
}
