//! Being told to stop: by Ctrl-C, SIGTERM or a closed terminal.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// How long a program that a signal has ended may be ahead of the news of that signal.
const NEWS: Duration = Duration::from_millis(300);

/// Whether this was told to stop.
pub(super) struct Stop {
    came: Arc<AtomicBool>,
    news: mpsc::Receiver<()>,
}

impl Stop {
    /// Listens for signals from now on.
    pub(super) fn on_signals() -> anyhow::Result<Self> {
        let came = Arc::<AtomicBool>::default();
        let (sender, news) = mpsc::channel();
        let told = Arc::clone(&came);
        ctrlc::set_handler(move || {
            told.store(true, Ordering::SeqCst);
            let _ = sender.send(());
        })?;
        Ok(Self { came, news })
    }

    /// Whether a signal comes within this time, or came before.
    pub(super) fn came_within(&self, time: Duration) -> bool {
        self.came.load(Ordering::SeqCst) || self.news.recv_timeout(time).is_ok()
    }

    /// Whether a signal came. One that has just ended another program of the group counts.
    pub(super) fn came(&self) -> bool {
        self.came_within(NEWS)
    }
}
