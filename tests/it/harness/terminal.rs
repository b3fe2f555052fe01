//! A command on a pseudoterminal.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
    process::{Child, Command, ExitStatus},
};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// A person at a terminal.
pub struct Terminal {
    pub child: Child,
    /// What is written here is typed; what is read is on the screen.
    screen: File,
    seen: String,
}

impl Terminal {
    pub fn start(mut command: Command) -> Self {
        let screen = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&screen).unwrap();
        unlockpt(&screen).unwrap();
        let name = ptsname(&screen, Vec::new()).unwrap().into_string().unwrap();
        let flags = i32::try_from(rustix::fs::OFlags::NOCTTY.bits()).unwrap();
        let terminal = OpenOptions::new().read(true).write(true).custom_flags(flags).open(name).unwrap();
        command.env("TERM", "xterm").stdin(terminal.try_clone().unwrap()).stdout(terminal.try_clone().unwrap());
        let child = command.stderr(terminal).spawn().unwrap();
        // The command has a copy of the terminal; only the child's may keep it open.
        drop(command);
        Self { child, screen: screen.into(), seen: String::new() }
    }

    pub fn types(&mut self, text: &str) {
        self.screen.write_all(text.as_bytes()).unwrap();
    }

    pub fn enters(&mut self, line: &str) {
        self.types(&format!("{line}\r"));
    }

    /// Reads until this is on the screen; what was before it.
    pub fn sees(&mut self, wanted: &str) -> String {
        loop {
            if let Some(at) = self.seen.find(wanted) {
                let before = self.seen[..at].to_owned();
                self.seen.drain(..at + wanted.len());
                return before;
            }
            assert!(self.reads(), "{wanted:?} does not come: {:?}", self.seen);
        }
    }

    fn reads(&mut self) -> bool {
        let mut bytes = [0; 4096];
        // The terminal is closed when the child has ended, which is an error on Linux.
        let read = self.screen.read(&mut bytes).unwrap_or(0);
        self.seen.push_str(&String::from_utf8_lossy(&bytes[..read]));
        read > 0
    }

    pub fn ends(mut self) -> (String, ExitStatus) {
        while self.reads() {}
        (self.seen, self.child.wait().unwrap())
    }
}
