//! Config files and secrets, as they are stored.

/// A workspace's private parts, each sealed by itself: what an update leaves alone stays the same to the byte.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SealedParts {
    /// The config files.
    pub config_files: Vec<u8>,
    /// The secrets.
    pub secrets: Vec<u8>,
}

impl SealedParts {
    /// Sets each part that still is as `applied` made it back to what it was `before`.
    pub(crate) fn take_back(&mut self, applied: &Self, before: &Self) {
        if self.config_files == applied.config_files {
            self.config_files.clone_from(&before.config_files);
        }
        if self.secrets == applied.secrets {
            self.secrets.clone_from(&before.secrets);
        }
    }
}
