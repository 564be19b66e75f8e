//! Instances as they are listed and watched: whoever follows an organisation needs each of them, those included that only
//! a newer version can work on.

use molecule_domain::Timestamp;
use molecule_domain::id::{Generation, IntentNumber, OrganizationId, Revision, WorkspaceId};
use molecule_domain::instance::InstanceView;
use molecule_domain::lifecycle::{Desired, Phase};
use molecule_domain::tier::Tier;
use serde::Deserialize;

use crate::model::InstanceRecord;
use crate::store::StoreError;
use crate::store::codec::{from_text, number};

/// An instance as it is listed and watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// What is known of it.
    pub view: InstanceView,
    /// The kind of the backend that it is on.
    pub backend: String,
    /// When it was admitted.
    pub created_at: Timestamp,
}

impl From<InstanceRecord> for Shown {
    fn from(record: InstanceRecord) -> Self {
        let (backend, created_at) = (record.backend.clone(), record.created_at);
        Self { view: record.into(), backend, created_at }
    }
}

impl From<Shown> for InstanceView {
    fn from(shown: Shown) -> Self {
        shown.view
    }
}

/// What is stored of an instance, column by column, in a database's own terms.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // as in the record
pub struct Columns {
    pub workspace: WorkspaceId,
    pub organization: OrganizationId,
    pub backend: String,
    pub desired: String,
    pub intent: i64,
    pub generation: i64,
    pub wanted_generation: i64,
    pub spec: String,
    pub phase: String,
    pub phase_since: Timestamp,
    pub reason: Option<String>,
    pub message: String,
    pub endpoint: Option<String>,
    /// The number of the generation's last launch.
    pub attempt: Option<i64>,
    pub revision: i64,
    pub created_at: Timestamp,
}

/// What is shown of a launch spec.
#[derive(Default, Deserialize)]
struct ShownSpec {
    #[serde(default)]
    runtime: String,
    #[serde(default)]
    tier: serde_json::Value,
}

impl TryFrom<Columns> for Shown {
    type Error = StoreError;

    /// What only a newer version knows is left open. Fails for numbers that no version stores.
    fn try_from(columns: Columns) -> Result<Self, StoreError> {
        let desired: Option<Desired> = from_text(&columns.desired, "desired state").ok();
        let phase: Option<Phase> = from_text(&columns.phase, "phase").ok();
        let spec: ShownSpec = serde_json::from_str(&columns.spec).unwrap_or_default();
        let view = InstanceView {
            workspace: columns.workspace,
            organization: columns.organization,
            desired,
            intent: IntentNumber(columns.intent),
            generation: Generation(number(columns.generation)?),
            wanted_generation: Generation(number(columns.wanted_generation)?),
            runtime: spec.runtime,
            tier: serde_json::from_value::<Tier>(spec.tier).unwrap_or_default(),
            phase: phase.unwrap_or(Phase::Booting),
            phase_since: columns.phase_since,
            reason: columns.reason.and_then(|reason| from_text(&reason, "reason").ok()),
            message: columns.message,
            endpoint: columns.endpoint.and_then(|endpoint| serde_json::from_str(&endpoint).ok()),
            launched: columns.attempt.is_some(),
            in_unknown_state: desired.is_none() || phase.is_none(),
            revision: Revision(columns.revision),
        };
        Ok(Self { view, backend: columns.backend, created_at: columns.created_at })
    }
}

#[cfg(test)]
mod tests {
    use molecule_domain::id::LaunchSeq;
    use molecule_domain::lifecycle::Reason;

    use super::*;
    use crate::admission::{Account, provision};
    use crate::outcome::begin_launch;
    use crate::samples;
    use crate::store::codec::{json, text};

    fn record() -> InstanceRecord {
        let request = samples::provision(WorkspaceId::generate());
        provision(&Account::default(), &request, Timestamp::from_micros(1)).unwrap().record
    }

    fn columns(record: &InstanceRecord) -> Columns {
        Columns {
            workspace: record.workspace,
            organization: record.organization,
            backend: record.backend.clone(),
            desired: text(record.desired),
            intent: record.intent.0,
            generation: record.generation.0.into(),
            wanted_generation: record.wanted_generation.0.into(),
            spec: json(&record.spec).unwrap(),
            phase: text(record.phase),
            phase_since: record.phase_since,
            reason: record.reason.map(text),
            message: record.message.clone(),
            endpoint: record.endpoint.as_ref().map(|endpoint| json(endpoint).unwrap()),
            attempt: record.attempt.as_ref().map(|attempt| attempt.number.0.into()),
            revision: record.revision.0,
            created_at: record.created_at,
        }
    }

    #[test]
    fn columns_show_what_their_record_shows() {
        let mut record = record();
        for launched in [false, true] {
            let shown = Shown::try_from(columns(&record)).unwrap();
            assert_eq!((&shown, shown.view.launched), (&Shown::from(record.clone()), launched));
            assert_eq!(InstanceView::from(shown), InstanceView::from(record.clone()));
            let (wanted, now) = (record.wanted(), Timestamp::from_micros(2));
            begin_launch(&mut record, wanted, LaunchSeq(7), "", now, now).unwrap();
            record.reason = Some(Reason::NoCapacity);
        }
    }

    #[test]
    fn what_only_a_newer_version_knows_is_left_open() {
        let known = columns(&record());
        let newer = || "Hibernating".to_owned();
        let view = |columns| Shown::try_from(columns).unwrap().view;
        let whole = view(known.clone());
        let phase = view(Columns { phase: newer(), ..known.clone() });
        assert_eq!(
            phase,
            InstanceView { phase: Phase::Booting, in_unknown_state: true, ..whole.clone() },
            "what is wanted is known"
        );
        let desired = view(Columns { desired: newer(), ..known.clone() });
        assert_eq!(desired, InstanceView { desired: None, in_unknown_state: true, ..whole });
        let small = Columns {
            reason: Some(newer()),
            endpoint: Some("[]".to_owned()),
            spec: "[]".to_owned(),
            ..known.clone()
        };
        let small = view(small);
        assert_eq!((small.in_unknown_state, small.reason, small.endpoint), (false, None, None));
        assert!(Shown::try_from(Columns { generation: -1, ..known }).is_err());
    }
}
