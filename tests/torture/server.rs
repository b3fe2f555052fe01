//! The server under attack, in a process of its own.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crate::http::Http;

/// How to start it.
#[derive(Debug, Clone)]
pub struct Launch {
    /// What stands before the command line: `strace …`, `prlimit …`.
    pub wrapper: Vec<String>,
    pub program: PathBuf,
    /// The subcommand and its own flags.
    pub command: Vec<String>,
    pub data: PathBuf,
    pub environment: Vec<(String, String)>,
}

pub struct Node {
    child: Child,
    pub address: SocketAddr,
    pub started: Instant,
    log: Arc<Mutex<Vec<String>>>,
}

/// Lines of its log that are kept.
const LINES: usize = 400;

/// The binary beside this one's folder, or the one given.
pub fn cubby(given: Option<&Path>) -> PathBuf {
    given.map_or_else(
        || {
            let own = std::env::current_exe().unwrap();
            own.ancestors().nth(2).unwrap().join("cubby")
        },
        Path::to_owned,
    )
}

/// A command with none of the settings of whoever runs this.
pub fn clean(program: &Path) -> Command {
    let mut command = Command::new(program);
    #[expect(clippy::disallowed_methods, reason = "names of variables to be taken away")]
    for (name, _) in std::env::vars() {
        if ["CUBBY_", "CLERK_", "ADMIN_", "HOOKDECK_"].iter().any(|prefix| name.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    command.current_dir(std::env::temp_dir());
    command
}

impl Launch {
    /// The real server.
    pub fn real(program: &Path, data: &Path, flags: &[&str]) -> Self {
        let mut command = vec!["serve".to_owned()];
        command.extend(flags.iter().map(|flag| (*flag).to_owned()));
        Self { wrapper: vec![], program: program.to_owned(), command, data: data.to_owned(), environment: vec![] }
    }

    /// A deliberately broken one, which the checks must catch.
    pub fn broken(mode: &str, data: &Path, flags: &[&str]) -> Self {
        let mut launch = Self::real(&std::env::current_exe().unwrap(), data, flags);
        launch.command[0] = "broken".to_owned();
        launch.command.insert(1, mode.to_owned());
        launch
    }

    pub fn under(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Under strace, which changes what these calls do: `fsync,syncfs:retval=0`. The process is the server's all
    /// the same.
    pub fn tampered(self, with: &str) -> Self {
        let (calls, _) = with.split_once(':').unwrap();
        let (traced, injected) = (format!("trace={calls}"), format!("inject={with}"));
        let quiet = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", &traced, "-e", &injected];
        // With it only those calls take longer, and no signal can be sent.
        let fast: &[&str] = if with.contains("signal=") { &[] } else { &["--seccomp-bpf"] };
        self.under(&[&quiet[..], fast].concat())
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The whole command line, ready to be spawned.
    pub fn command(&self) -> Command {
        let mut words: Vec<PathBuf> = self.wrapper.iter().map(PathBuf::from).collect();
        words.push(self.program.clone());
        let mut command = clean(&words[0]);
        command.args(&words[1..]).args(&self.command);
        command.args(["--listen", "127.0.0.1:0", "--log-format", "json", "--data"]).arg(&self.data);
        command.envs(self.environment.iter().cloned());
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// Starts it and waits until it says where it listens; else gives what it said.
    pub fn try_start(&self) -> Result<Node, (ExitStatus, String)> {
        let started = Instant::now();
        let mut child = self.command().spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = Vec::new();
        let address = loop {
            let Some(Ok(line)) = lines.next() else {
                return Err((child.wait().unwrap(), said.join("\n")));
            };
            let found = address_in(&line);
            said.push(line);
            if let Some(address) = found {
                break address;
            }
        };
        let log = Arc::new(Mutex::new(said));
        let kept = log.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let mut log = kept.lock().unwrap();
                // A panic is kept whatever comes after.
                if log.len() < LINES || line.contains("panicked") {
                    log.push(line);
                } else {
                    let last = log.len() - 1;
                    log[last] = line;
                }
            }
        });
        Ok(Node { child, address, started, log })
    }

    pub fn start(&self) -> Node {
        self.try_start().unwrap_or_else(|(status, said)| panic!("the server ended at start-up, {status}: {said}"))
    }
}

impl Node {
    /// Its process, or that of what wraps it.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it calls itself ready; how long that took since it was started.
    pub fn ready(&self) -> Duration {
        let mut http = Http::new(self.address);
        while http.get("/readyz").status() != 200 {
            assert!(self.started.elapsed() < Duration::from_secs(60), "never ready: {:#?}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        self.started.elapsed()
    }

    pub fn http(&self) -> Http {
        Http::new(self.address)
    }

    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// Lines that tell of a panic.
    pub fn panics(&self) -> Vec<String> {
        self.log().into_iter().filter(|line| line.contains("panicked")).collect()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }

    pub fn terminate(&self) {
        signal(self.id(), "TERM");
    }

    /// Waits for its end.
    pub fn wait(&mut self, most: Duration) -> Option<ExitStatus> {
        let until = Instant::now() + most;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Some(status);
            }
            if Instant::now() > until {
                return None;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Asks it to stop and sees that it does.
    pub fn stop(mut self) -> Result<(), String> {
        self.terminate();
        match self.wait(Duration::from_secs(40)) {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(format!("after SIGTERM: {status}")),
            None => Err("does not end after SIGTERM".into()),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where a server listens, if this line of its log says so.
pub fn address_in(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("serving on http://")?;
    let text: String = rest.chars().take_while(|c| c.is_ascii_hexdigit() || ".:[]".contains(*c)).collect();
    text.parse().ok()
}

pub fn signal(process: u32, name: &str) {
    // It may have ended by itself.
    let _ = Command::new("kill").arg(format!("-{name}")).arg(process.to_string()).stderr(Stdio::null()).status();
}
