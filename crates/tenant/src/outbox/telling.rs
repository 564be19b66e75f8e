//! One wish is told: the call that it makes, and what its answer means.

use molecule_domain::error::{Error, ErrorReason, Result};
use molecule_domain::incarnation::Standpoint;
use molecule_domain::instance::InstanceView;
use molecule_domain::lifecycle::Phase;
use molecule_provisioner::admission::{Change, ChangeRequest, ProvisionRequest};
use molecule_telemetry::trace;
use molecule_workspace::aggregate::{Answer, Refusal};
use molecule_workspace::record::WorkspaceRecord;
use molecule_workspace::{Entry, Wish};
use tracing::{debug, info};

use super::{Outbox, Told, copy_of};
use crate::provider::Standpoints;

impl Outbox {
    /// Tells a wish, keeps what was answered, and gives word to those who wait. An error says that it waits.
    pub(super) async fn tell_entry(
        &self,
        record: &WorkspaceRecord,
        entry: &Entry,
        seen: Option<Standpoint>,
    ) -> Result<()> {
        let workspace = record.workspace;
        let (answer, was_called) = match self.request(record, entry) {
            Ok(request) => (self.call(record, request, seen).await, true),
            Err(error) => (Err(error), false),
        };
        if let Ok(instance) = &answer {
            self.agreement.note_seen(instance.revision);
        }
        let answer = answer.and_then(|instance| is_of_this_wish(entry, instance));
        let now = self.clock.now();
        match answer {
            Ok(instance) if entry.is_taken_for_another(&instance) => {
                self.agreement.doubt();
                let message =
                    "the provider has heard of other wishes than this tenant knows of; the two agree first";
                self.store.call_failed(workspace, entry.number, message, now).await?;
                Err(Error::new(ErrorReason::ControlPlaneUnavailable, message))
            }
            Ok(instance) => {
                let answer = Answer::Granted(instance);
                let record = self.store.answered(workspace, entry.number, &answer, now).await?;
                let record = record.ok_or_else(|| Error::workspace_not_found(workspace))?;
                let mut queue = self.queue();
                queue.settle(workspace, entry.number, None);
                queue.answer(workspace, entry.number, || Told::Granted(Box::new(record.clone())));
                Ok(())
            }
            Err(error) if entry.wish == Wish::Delete && error.reason == ErrorReason::WorkspaceNotFound => {
                let record = self.store.answered(workspace, entry.number, &Answer::NotFound, now).await?;
                if let Some(record) = record {
                    self.queue().answer(workspace, entry.number, || Told::Granted(Box::new(record.clone())));
                }
                Ok(())
            }
            Err(error) if entry.may_be_refused() && error.reason.is_refusal() => {
                info!(reason = error.reason.as_str(), message = error.message, "the provider refuses a wish");
                let answer = Answer::Refused(refusal(&error));
                let record = self.store.answered(workspace, entry.number, &answer, now).await?;
                // with a creation all that waits behind it is taken back; what comes after that creates another
                let provision = matches!(entry.wish, Wish::Provision { .. });
                let last = record.filter(|_| provision).map(|record| record.intent);
                let upto = last.map_or(entry.number, |last| last.max(entry.number));
                let mut queue = self.queue();
                // those stand, and are told next
                for stop in entry.undo.stops.iter().filter(|_| !provision) {
                    queue.settle(workspace, *stop, None);
                    queue.answer_one(workspace, *stop, || Told::Waits(copy_of(&error)));
                }
                queue.settle(workspace, upto, Some(&error));
                queue.answer(workspace, upto, || Told::Refused(copy_of(&error)));
                Ok(())
            }
            Err(error) if gives_way(record, entry, &error, was_called) => {
                info!(
                    message = error.message,
                    "a wish can't be told, and gives way to the deletion behind it"
                );
                self.store.answered(workspace, entry.number, &Answer::NotFound, now).await?;
                Ok(())
            }
            Err(error) => {
                debug!(error = &error as &dyn std::error::Error, "a wish waits");
                if entry.retold && entry.wish == Wish::Start && error.reason == ErrorReason::WrongState {
                    // it has failed since the two agreed, so that it has to be replaced
                    self.agreement.doubt();
                }
                // it may give way to what waits behind it
                let answer = match error.reason {
                    ErrorReason::WorkspaceNotFound => Some(Answer::NotFound),
                    reason if entry.retold && reason.is_refusal() => Some(Answer::Refused(refusal(&error))),
                    _ => None,
                };
                if let Some(answer) = answer {
                    self.store.answered(workspace, entry.number, &answer, now).await?;
                }
                self.store.call_failed(workspace, entry.number, &error.message, now).await?;
                Err(error)
            }
        }
    }

    async fn call(
        &self,
        record: &WorkspaceRecord,
        request: Request,
        seen: Option<Standpoint>,
    ) -> Result<InstanceView> {
        let own = Standpoint { incarnation: self.own, revision: record.revision };
        let standpoints = Standpoints { own, seen };
        match request {
            Request::Provision(request) => self.provider.provision(&request, standpoints).await,
            Request::Change(request) => self.provider.change(&request, standpoints).await,
        }
    }

    fn request(&self, record: &WorkspaceRecord, entry: &Entry) -> Result<Request> {
        let (organization, workspace, intent) = (record.organization, record.workspace, entry.number);
        let launch_spec = |reset| {
            let spec = self.rules.launch_spec(&entry.spec, reset);
            spec.ok_or_else(|| {
                let runtime = &entry.spec.runtime;
                let message =
                    format!("the runtime {runtime:?} is no longer known; add it to the runtimes file again");
                // not WRONG_STATE: the wish stands until the file is mended
                Error::new(ErrorReason::BackendUnavailable, message)
            })
        };
        let sealed_token = entry.sealed_token.clone();
        let change = match &entry.wish {
            Wish::Provision { run } => {
                let request = ProvisionRequest {
                    organization,
                    workspace,
                    intent,
                    generation: entry.generation,
                    run: *run,
                    backend: self.provider.info().backend,
                    spec: launch_spec(false)?,
                    sealed_token,
                    refusal_is_final: entry.may_be_refused(),
                    process: Some(self.own),
                    trace: trace::current(),
                };
                return Ok(Request::Provision(Box::new(request)));
            }
            Wish::Start => Change::Start,
            Wish::Stop(cause) => Change::Stop(cause.clone()),
            Wish::Delete => Change::Delete,
            Wish::Replace { run, reset_session } => Change::Replace {
                generation: entry.generation,
                spec: Box::new(launch_spec(*reset_session)?),
                sealed_token,
                run: *run,
            },
        };
        let request = ChangeRequest {
            organization,
            workspace,
            intent,
            change,
            refusal_is_final: entry.may_be_refused(),
            process: Some(self.own),
            trace: trace::current(),
        };
        Ok(Request::Change(Box::new(request)))
    }
}

/// What is asked of the provider.
enum Request {
    Provision(Box<ProvisionRequest>),
    Change(Box<ChangeRequest>),
}

/// Whether a wish that got no answer need not be told any more, since a deletion waits behind it: it would have to wait for ever
/// behind what can't be told. A call of it that is heard after the deletion is behind that one's number. Only of a creation nothing
/// may be known that could be deleted: it gives way where it was not called for, or where the provider is at fault.
fn gives_way(record: &WorkspaceRecord, entry: &Entry, error: &Error, was_called: bool) -> bool {
    let deletion_waits = record.is_deleting() && entry.wish != Wish::Delete;
    let creates = matches!(entry.wish, Wish::Provision { .. });
    deletion_waits && (!creates || !was_called || error.reason == ErrorReason::Internal)
}

/// A new workspace whose id was used before: the provider answers with that one, which is deleted, or was asked for by a
/// creation that was refused and then heard late. What is told again was this workspace's all along.
fn is_of_this_wish(entry: &Entry, instance: InstanceView) -> Result<InstanceView> {
    let other = instance.phase == Phase::Gone || instance.intent < entry.number;
    if matches!(entry.wish, Wish::Provision { .. }) && !entry.retold && other {
        return Err(Error::new(
            ErrorReason::WorkspaceExists,
            format!("the id {} was another workspace's; choose another id", instance.workspace),
        ));
    }
    Ok(instance)
}

fn refusal(error: &Error) -> Refusal {
    Refusal { reason: error.reason, message: error.message.clone() }
}
