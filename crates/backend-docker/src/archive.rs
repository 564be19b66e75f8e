//! Tar archives as the Engine API takes them.

use std::io;

/// An archive in the making.
pub(crate) struct Archive(tar::Builder<Vec<u8>>);

impl Archive {
    pub(crate) fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    /// A file with its owner.
    pub(crate) fn file(&mut self, path: &str, data: &[u8], mode: u32, owner: (u64, u64)) -> io::Result<()> {
        let mut header = header(tar::EntryType::Regular, mode, owner);
        header.set_size(data.len() as u64);
        self.0.append_data(&mut header, path, data)
    }

    /// Gives the folder that the archive is unpacked into its owner. An entry `.` is skipped by the daemon,
    /// but `/` is taken for the folder itself.
    pub(crate) fn own_root(&mut self, mode: u32, owner: (u64, u64)) -> io::Result<()> {
        let mut header = header(tar::EntryType::Directory, mode, owner);
        header
            .as_gnu_mut()
            .map(|gnu| gnu.name[0] = b'/')
            .ok_or_else(|| io::Error::other("not a GNU header"))?;
        header.set_cksum();
        self.0.append(&header, io::empty())
    }

    pub(crate) fn finish(self) -> io::Result<Vec<u8>> {
        self.0.into_inner()
    }
}

fn header(kind: tar::EntryType, mode: u32, owner: (u64, u64)) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(owner.0);
    header.set_gid(owner.1);
    header.set_size(0);
    header.set_mtime(0);
    header
}
