//! Errors that are left unheard on purpose.

/// Leaves the error of a result unheard, because of the reason that is given.
///
/// As in the library: `grep unheard` lists every such place, and its test `security` refuses other
/// ways to drop a result here, too.
pub fn unheard<T, E>(result: Result<T, E>, reason: &'static str) {
    debug_assert!(!reason.is_empty(), "an error is unheard for a reason");
    drop(result);
}
