//! What every store refuses, and how it numbers changes.

use molecule_domain::Error;
use molecule_domain::Timestamp;
use molecule_domain::error::ErrorReason;
use molecule_domain::id::{IntentNumber, Revision};
use molecule_workspace::WorkspaceRecord;
use molecule_workspace::store::{
    check_etag, check_id_is_free, check_revision, is_of_lost_time, next_revision, request_id_reused,
};

use crate::world::{key, record, second, workspace_id};

fn told(result: Result<(), Error>) -> Option<(ErrorReason, String)> {
    result.err().map(|error| (error.reason, error.message))
}

#[test]
fn a_revision_is_above_the_last_one_and_not_behind_the_clock() {
    assert_eq!(next_revision(Revision(5), second(0)), Revision(6));
    assert_eq!(next_revision(Revision(5), second(1)), Revision(1_000_000));
    assert_eq!(next_revision(Revision(1_000_000), second(1)), Revision(1_000_001));
}

#[test]
fn an_id_is_free_where_nobody_has_it_or_its_creation_was_refused() {
    let id = workspace_id(1);
    assert_eq!(told(check_id_is_free(id, None)), None);
    let refused = WorkspaceRecord { refused: true, ..record() };
    assert_eq!(told(check_id_is_free(id, Some(&refused))), None);
    let message = format!("there is a workspace {id} already; choose another id, or leave it out");
    let taken = told(check_id_is_free(id, Some(&record())));
    assert_eq!(taken, Some((ErrorReason::WorkspaceExists, message)));
}

#[test]
fn a_request_id_is_one_requests() {
    let message = "the request_id \"mine\" was used for another request; use a new one";
    let refused = told(Err(request_id_reused(&key("mine"))));
    assert_eq!(refused, Some((ErrorReason::RequestIdReused, message.to_owned())));
}

#[test]
fn an_etag_is_the_number_of_the_last_change() {
    assert_eq!(told(check_etag(&record(), None)), None);
    assert_eq!(told(check_etag(&record(), Some(IntentNumber(3)))), None);
    let message = "the workspace has changed since that etag; get it again and decide anew";
    let stale = Some((ErrorReason::StaleEtag, message.to_owned()));
    for other in [2, 4] {
        assert_eq!(told(check_etag(&record(), Some(IntentNumber(other)))), stale);
    }
}

#[test]
fn a_watch_begins_within_the_history_that_is_kept() {
    let lost = "was given out in a time that is lost: the database was put back to an earlier state since";
    for (after, of_lost_time, problem) in [
        (9, false, Some("is older than the history kept")),
        (10, false, None),
        (15, false, None),
        (15, true, Some(lost)),
        (20, false, None),
        (21, false, Some("has not come yet")),
    ] {
        let expected = problem.map(|problem| {
            let message = format!("revision {after} {problem}; start the watch over with 0");
            (ErrorReason::RevisionTooOld, message)
        });
        assert_eq!(told(check_revision(Revision(after), Revision(20), Revision(10), of_lost_time)), expected);
    }
}

#[test]
fn a_start_gives_out_nothing_that_is_behind_its_beginning() {
    let lost = |revision| is_of_lost_time(Revision(revision), Some(Timestamp::from_micros(20)));
    assert_eq!([19, 20, 21].map(lost), [true, false, false]);
    assert!(!is_of_lost_time(Revision(5), None), "it is of a time before all starts that are kept");
}
