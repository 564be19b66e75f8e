//! By which secret the bundle is asked for: a bootstrap token that was not redeemed yet, or the credential that one has given.

use molecule_domain::bundle::Bundle;

use crate::Error;
use crate::files::Configs;

/// Asks for the bundle by what lies in the folder, and keeps the credential that a token gives; `None` where neither is there.
/// `ask` takes the secret, and the nonce with which a token is redeemed.
///
/// Either database, the tenant's or that of who launches, may have been put back to an earlier state. A tenant that knows a token
/// from before it was redeemed does not know the credential: the token is redeemed once more, and gives the same one. Who launches
/// may bring another token than the one that the credential on the disk is of, and the tenant may not know it: then the credential
/// counts, and the bundle is that of its generation, as the tenant knows it.
pub(crate) fn bundle(
    folder: &Configs<'_>,
    ask: impl Fn(&str, Option<String>) -> Result<Bundle, Error>,
) -> Result<Option<Bundle>, Error> {
    let redeem = |token: &str| {
        let bundle = ask(token, Some(folder.nonce()?))?;
        folder.keep_credential(&bundle.auth_token, token)?;
        Ok(bundle)
    };
    match (folder.bootstrap_token()?, folder.credential()?) {
        (None, None) => return Ok(None),
        (Some(token), None) => redeem(&token),
        (Some(token), Some(credential)) => match redeem(&token) {
            Err(refused) if is_unknown(&refused) => match ask(&credential, None) {
                Err(again) if is_unknown(&again) => Err(refused),
                answer => answer,
            },
            answer => answer,
        },
        (None, Some(credential)) => match (ask(&credential, None), folder.redeemed_token()?) {
            (Err(refused), Some(token)) if is_unknown(&refused) => redeem(&token),
            (answer, _) => answer,
        },
    }
    .map(Some)
}

/// Whether tenant-svc does not know a secret, or takes it no more.
const fn is_unknown(error: &Error) -> bool {
    matches!(error, Error::Refused { status: 401, .. })
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::fs;

    use super::*;

    const UNKNOWN: [u16; 2] = [401; 2];

    fn refused(status: u16) -> Error {
        Error::Refused { status, message: "no".to_owned() }
    }

    /// What was asked by, what came of it, and the credential on the disk after that. `disk` has files by their names; the tenant
    /// knows some secrets, and refuses the first and the second of all others with a status each.
    fn asked(
        disk: &[(&str, &str)],
        known: &[&str],
        statuses: [u16; 2],
    ) -> (Vec<String>, String, Option<String>) {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in disk {
            fs::write(folder.path().join(name), content).unwrap();
        }
        let (configs, secrets) = (Configs::new(folder.path()), RefCell::new(Vec::new()));
        let found = bundle(&configs, |secret, nonce| {
            let place = secrets.borrow().len();
            secrets.borrow_mut().push(secret.to_owned());
            assert_eq!(nonce.is_some(), secret.starts_with("token"), "a token is redeemed with a nonce");
            let auth_token = format!("credential of {secret}");
            let bundle = Bundle { auth_token, files: Vec::new(), env: BTreeMap::new() };
            known.contains(&secret).then_some(bundle).ok_or_else(|| refused(statuses[place]))
        });
        let end = match found {
            Ok(Some(_)) => "fetched".to_owned(),
            Ok(None) => "nothing".to_owned(),
            Err(error) => error.to_string(),
        };
        (secrets.into_inner(), end, configs.credential().unwrap())
    }

    #[test]
    fn what_the_bundle_is_asked_by_is_this_table() {
        let first = [(".bootstrap", "token 1")];
        let again = [(".bootstrap_redeemed", "token 1"), (".auth_token", "credential")];
        let other = [(".bootstrap", "token 2"), again[0], again[1]];
        let same = [(".bootstrap", "token 1"), again[0], again[1]];
        let kept = [again[1]];
        let no = |status| format!("tenant-svc refuses the bundle ({status}): no");
        let (fetched, old) = ("fetched".to_owned(), Some("credential".to_owned()));
        let new = |token: u32| Some(format!("credential of token {token}"));
        for (disk, known, statuses, by, end, credential) in [
            (&[][..], &[][..], UNKNOWN, &[][..], "nothing".to_owned(), None),
            (&first, &["token 1"], UNKNOWN, &["token 1"], fetched.clone(), new(1)),
            (&first, &[], UNKNOWN, &["token 1"], no(401), None),
            // a later boot, of the same instance or of one that replaces it
            (&again, &["credential"], UNKNOWN, &["credential"], fetched.clone(), old.clone()),
            (&same, &["credential", "token 1"], UNKNOWN, &["credential"], fetched.clone(), old.clone()),
            // another token on the same disk
            (&other, &["credential", "token 2"], UNKNOWN, &["token 2"], fetched.clone(), new(2)),
            // the tenant was put back to before the token was redeemed
            (&again, &["token 1"], UNKNOWN, &["credential", "token 1"], fetched.clone(), new(1)),
            (&again, &[], UNKNOWN, &["credential", "token 1"], no(401), old.clone()),
            (&kept, &["token 1"], UNKNOWN, &["credential"], no(401), old.clone()),
            // who launches was put back to before the last token
            (&other, &["credential"], UNKNOWN, &["token 2", "credential"], fetched, old.clone()),
            (&other, &[], UNKNOWN, &["token 2", "credential"], no(401), old.clone()),
            // and can't say yet whether it knows the other
            (&again, &[], [401, 503], &["credential", "token 1"], no(503), old.clone()),
            (&other, &[], [401, 503], &["token 2", "credential"], no(503), old.clone()),
            // any other refusal says nothing of a secret
            (&again, &["token 1"], [403; 2], &["credential"], no(403), old.clone()),
            (&other, &["credential"], [403; 2], &["token 2"], no(403), old),
        ] {
            let by = by.iter().map(|secret: &&str| (*secret).to_owned()).collect();
            assert_eq!(
                asked(disk, known, statuses),
                (by, end, credential),
                "{disk:?}, {known:?}, {statuses:?}"
            );
        }
    }
}
