//! Wakes whoever waits for commits: of any organisation, or of one. A lost wake-up only costs time.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use molecule_domain::id::OrganizationId;
use tokio::sync::watch;

/// Counts of commits that can be waited for.
#[derive(Debug)]
pub struct Wakes {
    any: watch::Sender<u64>,
    by_organization: Mutex<HashMap<OrganizationId, watch::Sender<u64>>>,
}

impl Default for Wakes {
    fn default() -> Self {
        Self { any: watch::Sender::new(0), by_organization: Mutex::default() }
    }
}

impl Wakes {
    /// Something of an organisation's was committed.
    pub fn committed(&self, organization: OrganizationId) {
        let mut waiting = self.by_organization.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = waiting.get(&organization) {
            if sender.receiver_count() == 0 {
                waiting.remove(&organization);
            } else {
                sender.send_modify(|count| *count += 1);
            }
        }
        drop(waiting);
        self.woken();
    }

    /// Something was committed that only the engine waits for.
    pub fn woken(&self) {
        self.any.send_modify(|count| *count += 1);
    }

    /// Something may have been committed, of anybody's: whoever waits should look.
    pub fn all(&self) {
        let waiting = self.by_organization.lock().unwrap_or_else(PoisonError::into_inner);
        for sender in waiting.values() {
            sender.send_modify(|count| *count += 1);
        }
        drop(waiting);
        self.woken();
    }

    /// Rises after every commit.
    pub fn any(&self) -> watch::Receiver<u64> {
        self.any.subscribe()
    }

    /// Rises after every commit of an organisation's.
    pub fn of(&self, organization: OrganizationId) -> watch::Receiver<u64> {
        let mut waiting = self.by_organization.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.entry(organization).or_insert_with(|| watch::Sender::new(0)).subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wakes_its_own_and_forgets_who_has_gone() {
        let wakes = Wakes::default();
        let (one, other) = (OrganizationId::generate(), OrganizationId::generate());
        let (any, of_one, of_other) = (wakes.any(), wakes.of(one), wakes.of(other));
        wakes.committed(one);
        let risen = |receiver: &watch::Receiver<u64>| receiver.has_changed().unwrap_or(false);
        assert_eq!((risen(&any), risen(&of_one), risen(&of_other)), (true, true, false));
        assert_eq!((*any.borrow(), *of_one.borrow()), (1, 1));
        wakes.all();
        assert!(risen(&of_other));
        assert_eq!((*any.borrow(), *of_one.borrow(), *of_other.borrow()), (2, 2, 1));
        drop(of_other);
        wakes.committed(other);
        assert_eq!(wakes.by_organization.lock().unwrap().len(), 1);
    }
}
