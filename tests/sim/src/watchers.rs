//! What watchers must have seen once all is calm.

use std::collections::BTreeMap;

use molecule_domain::id::{IntentNumber, Revision, WorkspaceId};
use molecule_workspace::record::WorkspaceRecord;
use molecule_workspace::store::TenantStore;

use crate::known::Violation;
use crate::oracle::short;
use crate::pair::Pair;

impl Pair {
    /// Whoever follows from any revision, and whoever lists, see the same in the end.
    pub(crate) async fn check_watchers(&self) {
        for tenant in &self.tenants {
            let (database, organization) = (tenant.database(), tenant.organization);
            let (list, _) = database.snapshot(organization).await.unwrap_or_default();
            let mut seen: BTreeMap<WorkspaceId, WorkspaceRecord> = BTreeMap::new();
            let mut at = Revision(0);
            let limit = u32::try_from(self.world.rng().between(1, 50)).unwrap_or(1);
            let from_first = database.changes_after(organization, at, limit).await;
            if from_first.is_err() && tenant.was_set_back() {
                // whoever follows across that is told to start over with a list
                self.world.coverage().figure("watchers that have to start over");
                continue;
            }
            while let Ok(changes) = database.changes_after(organization, at, limit).await {
                if changes.is_empty() {
                    break;
                }
                for change in changes {
                    if change.revision <= at {
                        let what = format!("tenant {}: {} after {at}", short(organization), change.revision);
                        self.world.violated(Violation::new("watchers see each change once", what));
                    }
                    at = change.revision;
                    seen.insert(change.workspace, change);
                }
            }
            seen.retain(|_, record| record.deleted_at.is_none());
            let visible = |record: &WorkspaceRecord| WorkspaceRecord {
                agent: molecule_workspace::record::AgentRecord {
                    health: record.agent.health,
                    ..molecule_workspace::record::AgentRecord::default()
                },
                // what changes it is not told
                instance_revision: Revision(0),
                answered: IntentNumber(0),
                ..record.clone()
            };
            let listed: BTreeMap<_, _> =
                list.iter().map(|record| (record.workspace, visible(record))).collect();
            let followed: BTreeMap<_, _> = seen.iter().map(|(id, record)| (*id, visible(record))).collect();
            if listed != followed {
                let differs = listed.iter().find(|(id, record)| followed.get(id) != Some(record));
                let what = format!(
                    "tenant {}: listed {} and followed {}; first that differs: {:?} / {:?}",
                    short(organization),
                    listed.len(),
                    followed.len(),
                    differs,
                    differs.and_then(|(id, _)| followed.get(id))
                );
                self.world.violated(Violation::new("watchers equal a list", what));
            }
        }
    }
}
