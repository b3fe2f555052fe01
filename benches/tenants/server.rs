//! The server's own binary as a process, and what the kernel knows of it.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

pub struct Server {
    child: Child,
    pub base: String,
    /// From the start of the process to the first `/readyz` that was 200.
    pub ready_after: Duration,
}

impl Server {
    pub async fn start(http: &reqwest::Client, data: &Path, flags: &[&str]) -> Self {
        let started = Instant::now();
        let mut child = Command::new(env!("CARGO_BIN_EXE_cubby"))
            .args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json", "--data"])
            .arg(data)
            .args(flags)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let base = loop {
            let line = lines.next().expect("the server ended at start-up").unwrap();
            if let Some((_, rest)) = line.split_once("serving on ") {
                let end =
                    rest.find(|c: char| !(c.is_ascii_alphanumeric() || ".:/[]".contains(c))).unwrap_or(rest.len());
                break rest[..end].to_owned();
            }
        };
        std::thread::spawn(move || lines.for_each(drop));
        let url = format!("{base}/readyz");
        while !http.get(&url).send().await.is_ok_and(|reply| reply.status() == 200) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Self { child, base, ready_after: started.elapsed() }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to stop, as an operator does, and waits; tells whether it ended well.
    pub fn stop(mut self) -> bool {
        let asked = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        asked.success() && self.child.wait().unwrap().success()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Resident memory in KiB; 0 once the process is gone.
pub fn memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    line.trim().trim_end_matches(" kB").trim().parse().unwrap_or(0)
}

/// All descriptors of a process, and those of tenants' files among them. The process stands still
/// meanwhile: a file that is closed and another that is opened behind the look would both count.
pub fn descriptors(process: u32) -> (usize, usize) {
    let Some(pid) = i32::try_from(process).ok().and_then(Pid::from_raw) else { return (0, 0) };
    if kill_process(pid, Signal::STOP).is_err() {
        return (0, 0);
    }
    while is_running(process) {
        std::thread::yield_now();
    }
    let entries = std::fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten();
    let links: Vec<_> = entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok()).collect();
    let _ = kill_process(pid, Signal::CONT);
    // The folders that are opened for a moment, to be synced, are not among them.
    let of_tenant = |link: &&PathBuf| {
        let name = link.to_string_lossy();
        name.contains("/tenants/") && (name.ends_with(".db") || name.ends_with(".db-wal"))
    };
    (links.len(), links.iter().filter(of_tenant).count())
}

fn is_running(process: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['T', 'Z', 'X']))
}
