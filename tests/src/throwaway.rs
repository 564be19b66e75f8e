//! A throwaway root: this machine's own files below, a layer in memory above, so that a script meant for a fresh machine
//! can do there what it does, and nothing of it stays. It has the Docker socket, a disk at `/dev/sdf`, and a
//! `shutdown` that only notes that it was called. Needs root.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};

/// What the daemon must see at the same path: it is shared with the machine itself.
const SHARED: &str = "/var/lib/molecule";

/// A root to throw away. Dropping this does.
#[derive(Debug)]
pub struct Throwaway {
    folder: tempfile::TempDir,
    disk: String,
    mounts: Vec<PathBuf>,
    /// One at a time: they share a folder with the machine itself.
    _alone: std::fs::File,
}

impl Throwaway {
    /// Makes one.
    pub fn new() -> anyhow::Result<Self> {
        let alone = std::fs::File::create("/var/tmp/molecule-throwaway.lock")?;
        alone.lock()?;
        let folder = tempfile::tempdir_in("/var/tmp")?;
        let image = folder.path().join("disk.img");
        run("truncate", &["-s", "64M", &text(&image)])?;
        let disk = run("losetup", &["--find", "--show", &text(&image)])?;
        let mut made = Self { folder, disk, mounts: Vec::new(), _alone: alone };
        made.assemble().context("a throwaway root needs root, overlayfs and loop devices")?;
        Ok(made)
    }

    fn assemble(&mut self) -> anyhow::Result<()> {
        let memory = self.folder.path().join("memory");
        std::fs::create_dir(&memory)?;
        self.mount(&memory, &["-t", "tmpfs", "tmpfs"])?;
        for name in ["upper", "work"] {
            std::fs::create_dir(memory.join(name))?;
        }
        let root = self.root();
        std::fs::create_dir(&root)?;
        let layers = format!("lowerdir=/,upperdir={0}/upper,workdir={0}/work", memory.display());
        self.mount(&root, &["-t", "overlay", "overlay", "-o", &layers])?;
        self.mount(&root.join("proc"), &["-t", "proc", "proc"])?;
        self.mount(&root.join("dev"), &["-t", "tmpfs", "tmpfs"])?;
        for (name, minor) in [("null", "3"), ("zero", "5"), ("random", "8"), ("urandom", "9")] {
            run("mknod", &["-m", "666", &text(&root.join("dev").join(name)), "c", "1", minor])?;
        }
        let minor = self.disk.trim_start_matches("/dev/loop");
        run("mknod", &[&text(&root.join("dev/sdf")), "b", "7", minor])?;
        let socket = root.join("run/docker.sock");
        std::fs::create_dir_all(root.join("run"))?;
        let _ = std::fs::remove_file(&socket);
        std::fs::write(&socket, "")?;
        self.mount(&socket, &["--bind", "/var/run/docker.sock"])?;
        // what is mounted below it in there must be seen by the daemon out here
        std::fs::create_dir_all(SHARED)?;
        let shared = PathBuf::from(SHARED);
        if !std::fs::read_to_string("/proc/self/mounts")?.contains(&format!(" {SHARED} ")) {
            self.mount(&shared, &["--bind", SHARED])?;
        }
        run("mount", &["--make-shared", SHARED])?;
        std::fs::create_dir_all(root.join(&SHARED[1..]))?;
        self.mount(&root.join(&SHARED[1..]), &["--bind", SHARED])?;
        // never the machine's own, which a link may lead to
        let shutdown = root.join("usr/sbin/shutdown");
        let _ = std::fs::remove_file(&shutdown);
        std::fs::write(&shutdown, "#!/bin/sh\necho down >/shut-down\n")?;
        run("chmod", &["755", &text(&shutdown)]).map(drop)
    }

    fn mount(&mut self, at: &Path, arguments: &[&str]) -> anyhow::Result<()> {
        let at_text = text(at);
        run("mount", &[arguments, &[&at_text]].concat())?;
        self.mounts.push(at.to_owned());
        Ok(())
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// Runs a script in there, as cloud-init runs user-data.
    pub fn boot(&self, script: &[u8]) -> anyhow::Result<Child> {
        let path = self.root().join("user-data");
        std::fs::write(&path, script)?;
        run("chmod", &["755", &text(&path)])?;
        let mut chroot = Command::new("chroot");
        chroot.args([&text(&self.root()), "/user-data"]).env_clear();
        chroot.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdin(Stdio::null());
        Ok(chroot.spawn()?)
    }

    /// Whether it has told the machine to go down.
    pub fn is_down(&self) -> bool {
        self.root().join("shut-down").exists()
    }

    /// What the script has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.root().join("var/log/molecule-boot.log")).unwrap_or_default()
    }

    /// Takes away what a workspace has left on the machine itself.
    pub fn forget(&self, workspace: &str, generation: u32) {
        let _ = run("docker", &["rm", "-f", &format!("ws-{workspace}-{generation}")]);
        let data = format!("{SHARED}/{workspace}");
        let _ = run("umount", &["-l", &data]);
        let _ = std::fs::remove_dir(&data);
    }
}

impl Drop for Throwaway {
    fn drop(&mut self) {
        for mounted in self.mounts.iter().rev() {
            let _ = run("umount", &["-l", &text(mounted)]);
        }
        let _ = run("losetup", &["--detach", &self.disk]);
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Runs it; what it printed.
fn run(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let done =
        Command::new(program).args(arguments).output().with_context(|| format!("{program} can't be run"))?;
    let told = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{program} {}: {told}", arguments.join(" "));
    Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned())
}
