//! The workspace's files: token, nonce and credential in `/configs`, and what the bundle brings.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use molecule_domain::bundle::BundleFile;

use crate::Error;

/// The folder that holds the configuration.
pub(crate) struct Configs<'a>(&'a Path);

impl<'a> Configs<'a> {
    pub(crate) const fn new(folder: &'a Path) -> Self {
        Self(folder)
    }

    /// The bootstrap token, until it has given the credential. An instance that replaces another of its generation brings the
    /// same one again, which is worth nothing by then.
    pub(crate) fn bootstrap_token(&self) -> Result<Option<String>, Error> {
        let redeemed = self.read(".bootstrap_redeemed")?;
        Ok(self.read(".bootstrap")?.filter(|token| redeemed.as_ref() != Some(token)))
    }

    /// The token that gave the credential.
    pub(crate) fn redeemed_token(&self) -> Result<Option<String>, Error> {
        self.read(".bootstrap_redeemed")
    }

    /// The credential that an earlier boot of this generation got.
    pub(crate) fn credential(&self) -> Result<Option<String>, Error> {
        self.read(".auth_token")
    }

    /// The nonce with which this disk redeems tokens: stored before it is first sent, so that a crash in between does not lose the
    /// credential, and kept, so that a token gives the same credential if it is redeemed again.
    pub(crate) fn nonce(&self) -> Result<String, Error> {
        if let Some(nonce) = self.read(".bootstrap_nonce")? {
            return Ok(nonce);
        }
        let nonce = uuid::Uuid::new_v4().simple().to_string();
        Self::replace(&self.0.join(".bootstrap_nonce"), nonce.as_bytes(), 0o600, true)?;
        Ok(nonce)
    }

    /// Stores the credential that the token gave; then the token has done its work.
    pub(crate) fn keep_credential(&self, credential: &str, token: &str) -> Result<(), Error> {
        Self::replace(&self.0.join(".auth_token"), credential.as_bytes(), 0o600, true)?;
        Self::replace(&self.0.join(".bootstrap_redeemed"), token.as_bytes(), 0o600, true)?;
        let path = self.0.join(".bootstrap");
        match fs::remove_file(&path) {
            Err(cause) if cause.kind() != ErrorKind::NotFound => Err(Error::Write { path, cause }),
            _ => Ok(()),
        }
    }

    /// Writes a file of the bundle where it belongs.
    pub(crate) fn write(&self, home: &Path, file: &BundleFile) -> Result<(), Error> {
        let path = match file.path.strip_prefix("~/") {
            Some(below_home) => home.join(below_home),
            None => self.0.join(&file.path),
        };
        if path.components().any(|part| part == Component::ParentDir) {
            return Err(Error::BadBundle(format!("the path {:?} leads upwards", file.path)));
        }
        let content = BASE64_STANDARD.decode(&file.content).map_err(|e| Error::BadBundle(e.to_string()))?;
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|cause| Error::Write { path: folder.to_owned(), cause })?;
        }
        Self::replace(&path, &content, 0o644, false)
    }

    fn read(&self, name: &str) -> Result<Option<String>, Error> {
        let path = self.0.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
            Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(Error::Write { path, cause }),
        }
    }

    /// Writes beside and renames over, so that a file is old or new and never half. What is fetched anew at
    /// every boot need not outlive a power cut; that takes milliseconds a file.
    fn replace(path: &Path, content: &[u8], mode: u32, durable: bool) -> Result<(), Error> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        let write = || {
            let _ = fs::remove_file(&beside);
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
            file.write_all(content)?;
            if durable {
                file.sync_all()?;
            }
            fs::rename(&beside, path)
        };
        write().map_err(|cause| Error::Write { path: path.to_owned(), cause })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(path: &str, content: &str) -> BundleFile {
        BundleFile { path: path.to_owned(), content: BASE64_STANDARD.encode(content) }
    }

    #[test]
    fn a_token_is_redeemed_once_and_the_nonce_stays() {
        let folder = tempfile::tempdir().unwrap();
        let configs = Configs::new(folder.path());
        fs::write(folder.path().join(".bootstrap"), "token\n").unwrap();
        assert_eq!(configs.bootstrap_token().unwrap().as_deref(), Some("token"));
        let nonce = configs.nonce().unwrap();
        assert_eq!(configs.nonce().unwrap(), nonce);
        configs.keep_credential("credential", "token").unwrap();
        assert_eq!(configs.redeemed_token().unwrap().as_deref(), Some("token"));
        assert_eq!(configs.nonce().unwrap(), nonce, "it may have to be redeemed again");
        assert_eq!(configs.bootstrap_token().unwrap(), None);
        // an instance that replaces it brings the token again; the next generation brings another
        fs::write(folder.path().join(".bootstrap"), "token\n").unwrap();
        assert_eq!(configs.bootstrap_token().unwrap(), None);
        fs::write(folder.path().join(".bootstrap"), "another").unwrap();
        assert_eq!(configs.bootstrap_token().unwrap().as_deref(), Some("another"));
        assert_eq!(configs.credential().unwrap().as_deref(), Some("credential"));
        let mode = fs::metadata(folder.path().join(".auth_token")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn files_go_where_they_belong() {
        let (folder, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let configs = Configs::new(folder.path());
        configs.write(home.path(), &file("config.yaml", "a: 1")).unwrap();
        configs.write(home.path(), &file("deep/er/file", "x")).unwrap();
        configs.write(home.path(), &file("~/.gemini/settings.json", "{}")).unwrap();
        configs.write(home.path(), &file("config.yaml", "a: 2")).unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("config.yaml")).unwrap(), "a: 2");
        assert!(folder.path().join("deep/er/file").exists());
        assert!(home.path().join(".gemini/settings.json").exists());
        assert!(configs.write(home.path(), &file("../escape", "x")).is_err());
    }
}
