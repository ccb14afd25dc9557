//! The alarm: calls back when space runs low, before it has run out.
//!
//! Owns whether the alarm has rung. It rings once when less is left than the threshold. It can ring
//! again only after more than an eighth above the threshold was left in between. So space that is
//! zeroed ahead and given back does not make it ring again and again. The maintenance thread
//! measures the space and calls it.

use crate::callback::{self, Duty};
use crate::local::options::OnSpaceLow;
use crate::sync::{AtomicBool, Ordering};

/// Calls the callback of [`OnSpaceLow`], if one is set.
pub(crate) struct Alarm {
    on: Option<OnSpaceLow>,
    rung: AtomicBool,
}

impl Alarm {
    pub(crate) fn new(on: Option<OnSpaceLow>) -> Alarm {
        Alarm { on, rung: AtomicBool::new(false) }
    }

    /// Whether a callback is set.
    pub(crate) fn is_set(&self) -> bool {
        self.on.is_some()
    }

    /// Rings if `left` bytes are below the threshold. Called without locks and with nothing of the
    /// store begun, because the callback may use the store.
    pub(crate) fn ring_if_low(&self, left: u64) {
        let Some(OnSpaceLow { threshold, tell }) = &self.on else { return };
        if left >= threshold.saturating_add(threshold / 8) {
            self.rung.store(false, Ordering::Relaxed);
        }
        if left < *threshold && !self.rung.swap(true, Ordering::Relaxed) {
            let _duty = callback::begin(Duty::Telling);
            callback::run(|| tell(left));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::sync::Mutex;

    #[test]
    fn rings_once_for_each_time_that_space_gets_low() {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let tell = {
            let heard = Arc::clone(&heard);
            move |left| heard.lock().push(left)
        };
        let alarm = Alarm::new(Some(OnSpaceLow { threshold: 800, tell: Arc::new(tell) }));
        [1000, 800, 799, 500, 850, 700, 900, 750, 10]
            .into_iter()
            .for_each(|left| alarm.ring_if_low(left));
        assert_eq!(*heard.lock(), [799, 750]);
    }

    #[test]
    fn panic_of_who_is_told_ends_there() {
        let tell = Arc::new(|left| panic!("{left} bytes are left"));
        let alarm = Alarm::new(Some(OnSpaceLow { threshold: 800, tell }));
        alarm.ring_if_low(10);
        assert!(alarm.rung.load(Ordering::Relaxed));
    }
}
