//! The data directory: one process at a time, and the secrets that are made at first start.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use molecule_service_kit::seal::Aes;
use molecule_service_kit::token;
use secrecy::{ExposeSecret, SecretString};

/// An open data directory. Holding it keeps other processes out.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Opens the folder, making it where it is missing.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(path)
            .with_context(|| format!("TENANT_DATA_DIR: {} can't be made", path.display()))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
        let lock_path = path.join("lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&lock_path);
        let lock = lock.with_context(|| format!("{} can't be opened", lock_path.display()))?;
        if lock.try_lock().is_err() {
            bail!(
                "another tenant-svc uses TENANT_DATA_DIR {}; end it, or give this one its own",
                path.display()
            );
        }
        Ok(Self { path: path.canonicalize()?, _lock: lock })
    }

    /// Where the database is.
    pub(crate) fn database(&self) -> PathBuf {
        self.path.join("tenant.db")
    }

    /// The clients' token; made at first start, readable by the owner only.
    pub(crate) fn token(&self) -> anyhow::Result<SecretString> {
        let text = self.secret("token", || token::generate("mol").expose_secret().as_bytes().to_vec())?;
        let text = String::from_utf8(text).context("the token file is not text")?;
        Ok(text.trim().to_owned().into())
    }

    /// The key that everything secret in the database is sealed with.
    pub(crate) fn key(&self) -> anyhow::Result<Aes> {
        let key = self.secret("seal.key", || Aes::generate_key().to_vec())?;
        Aes::new(&key).context("seal.key is not 32 bytes long; restore it from a backup")
    }

    fn secret(&self, name: &str, make: impl FnOnce() -> Vec<u8>) -> anyhow::Result<Vec<u8>> {
        let path = self.path.join(name);
        if !path.exists() {
            // Whole or not at all: a crash must not leave half a key.
            let beside = self.path.join(format!("{name}.new"));
            let _ = fs::remove_file(&beside);
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
            file.write_all(&make())?;
            file.sync_all()?;
            fs::rename(&beside, &path)?;
            File::open(&self.path)?.sync_all()?;
        }
        fs::read(&path).with_context(|| format!("{} can't be read", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_made_once_and_are_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let data = DataDir::open(&path).unwrap();
        let token = data.token().unwrap();
        assert!(DataDir::open(&path).is_err(), "a second process was let in");
        drop(data);
        let again = DataDir::open(&path).unwrap();
        assert_eq!(again.token().unwrap().expose_secret(), token.expose_secret());
        again.key().unwrap();
        for name in ["token", "seal.key"] {
            assert_eq!(fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
        }
    }
}
