//! Fixtures without their types, so that the checks are compiled once and not once a backend.
//!
//! Owns [`AnyFixture`], the fixture as the checks use it, and [`Held`], the backend it opened.

use std::any::Any;

use super::Fixture;
use crate::backend::StorageBackend;

/// A backend that its own fixture knows again.
pub(super) trait Held: StorageBackend + Any {}

impl<B: StorageBackend + 'static> Held for B {}

/// [`Fixture`], method by method.
pub(super) trait AnyFixture: Sync {
    fn open(&self) -> Box<dyn Held>;
    fn reopen(&self, backend: Box<dyn Held>) -> Option<Box<dyn Held>>;
    fn crash(&self, backend: Box<dyn Held>) -> Option<Box<dyn Held>>;
    fn acknowledges_durably(&self) -> bool;
    fn payload_len_max(&self) -> usize;
}

impl<F: Fixture> AnyFixture for F {
    fn open(&self) -> Box<dyn Held> {
        Box::new(Fixture::open(self))
    }

    fn reopen(&self, backend: Box<dyn Held>) -> Option<Box<dyn Held>> {
        hold(Fixture::reopen(self, own::<F>(backend)))
    }

    fn crash(&self, backend: Box<dyn Held>) -> Option<Box<dyn Held>> {
        hold(Fixture::crash(self, own::<F>(backend)))
    }

    fn acknowledges_durably(&self) -> bool {
        Fixture::acknowledges_durably(self)
    }

    fn payload_len_max(&self) -> usize {
        Fixture::payload_len_max(self)
    }
}

fn hold<B: StorageBackend + 'static>(backend: Option<B>) -> Option<Box<dyn Held>> {
    backend.map(|backend| Box::new(backend) as Box<dyn Held>)
}

fn own<F: Fixture>(backend: Box<dyn Held>) -> F::Backend {
    let any: Box<dyn Any> = backend;
    *any.downcast().expect("a fixture gets back what it opened")
}
