//! Something that is on or off, and can be waited for. Whoever waits is woken in the order in which it came: tokio's own
//! channels for this wake in an order of chance, and a life would not be the same twice.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Something that is on or off.
#[derive(Debug, Default)]
pub struct Switch {
    on: AtomicBool,
    changed: Notify,
}

impl Switch {
    /// Whether it is on.
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// Sets it; whether that changed it.
    pub fn set(&self, on: bool) -> bool {
        let changed = self.on.swap(on, Ordering::Relaxed) != on;
        if changed {
            self.changed.notify_waiters();
        }
        changed
    }

    /// Waits until it is so.
    pub async fn becomes(&self, on: bool) {
        while self.is_on() != on {
            // what is polled once hears of every change from then on, and nothing comes between here
            self.changed.notified().await;
        }
    }
}
