//! Handles: transactions keep their store open by them.
//!
//! Owns one counted handle for each thread slot, made when it is first asked for. So threads that
//! begin transactions at the same time do not share a counter. A handle in here holds no
//! [`Handles`] of its own, so none keeps itself alive.

use std::sync::Arc;

use crate::sync::{OnceLock, SLOT_COUNT, thread_slot};

/// The handles of one store.
#[derive(Debug)]
pub(crate) struct Handles<B> {
    slots: [OnceLock<Arc<B>>; SLOT_COUNT],
}

impl<B> Default for Handles<B> {
    fn default() -> Self {
        Handles { slots: Default::default() }
    }
}

impl<B> Handles<B> {
    /// The handle of the calling thread's slot.
    pub(crate) fn handle_of_thread(&self, make: impl FnOnce() -> B) -> Arc<B> {
        Arc::clone(self.slots[thread_slot()].get_or_init(|| Arc::new(make())))
    }
}
