//! Errors that are left unheard on purpose.

/// Leaves the error of a result unheard, because of the reason that is given.
///
/// Every place that does so calls this, so that `grep unheard` lists them with their reasons. A
/// test (`security`) refuses other ways to drop a result.
pub(crate) fn unheard<T, E>(result: std::result::Result<T, E>, reason: &'static str) {
    debug_assert!(!reason.is_empty(), "an error is unheard for a reason");
    drop(result);
}
