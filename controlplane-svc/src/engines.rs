//! One engine per backend, over one store. A workspace keeps the backend that it was launched on.

use std::collections::BTreeMap;

use molecule_domain::error::{Error, ErrorReason, Result};
use molecule_provisioner::Engine;

/// The engines by their backend's kind.
#[derive(Clone, Debug)]
pub(crate) struct Engines {
    by_kind: BTreeMap<&'static str, Engine>,
    default: &'static str,
}

impl Engines {
    /// These engines, of which the first is the default.
    pub(crate) fn new(engines: Vec<Engine>) -> Option<Self> {
        let default = engines.first()?.backend_kind();
        let by_kind = engines.into_iter().map(|engine| (engine.backend_kind(), engine)).collect();
        Some(Self { by_kind, default })
    }

    /// The engine of a backend that was chosen; the default's where none was.
    pub(crate) fn choose(&self, chosen: &str) -> Result<&Engine> {
        self.get(if chosen.is_empty() { self.default } else { chosen })
    }

    /// The engine of a backend.
    pub(crate) fn get(&self, kind: &str) -> Result<&Engine> {
        self.by_kind.get(kind).ok_or_else(|| {
            Error::new(
                ErrorReason::BackendUnavailable,
                format!("this control plane has no backend {kind:?} now; its operators must add it again"),
            )
        })
    }

    /// Whether there is such a backend.
    pub(crate) fn has(&self, kind: &str) -> bool {
        self.by_kind.contains_key(kind)
    }

    /// All kinds, for messages.
    pub(crate) fn kinds(&self) -> String {
        self.by_kind.keys().copied().collect::<Vec<_>>().join(", ")
    }

    /// All engines.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Engine> {
        self.by_kind.values()
    }
}
