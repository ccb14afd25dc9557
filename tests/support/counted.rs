//! What a run adds up to, one line for each figure: `count: WHAT N`. `scripts/reliability` reads
//! them.
//!
//! Printed behind everything else that a test asserts, so that a figure stands for what held.

/// The line that says how often something was tried.
pub fn line(what: &str, count: u64) -> String {
    format!("count: {what} {count}")
}

/// Prints that line.
#[allow(dead_code, reason = "some tests print past the test runner")]
pub fn tell(what: &str, count: u64) {
    println!("{}", line(what, count));
}
