//! Everybody's export while callers are served.

use std::{path::PathBuf, process::Child};

use crate::{
    Options,
    beside::{self, Work, command, interrupt},
    client::{KEY, address, http},
    load::Callers,
    make,
    server::Server,
    table::Table,
};

/// `cubby export --all`, which goes on where it was interrupted.
struct Export<'s> {
    server: &'s Server,
    to: PathBuf,
    all: u64,
    child: Option<Child>,
    over: bool,
}

impl Work for Export<'_> {
    fn go_on(&mut self) {
        let to = self.to.to_str().unwrap();
        self.child = Some(command(self.server, &["export", "--all", "--to", to]).spawn().unwrap());
    }

    fn is_over(&mut self) -> bool {
        if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().unwrap()) {
            // Interrupted, its code is another.
            self.over |= status.success();
            assert!(self.over || self.listed() < self.all, "the export failed");
        }
        self.over
    }

    fn pause(&mut self) {
        if let Some(mut child) = self.child.take() {
            interrupt(&mut child);
            self.over |= child.wait().unwrap().success();
        }
    }

    async fn done(&mut self) -> u64 {
        self.listed()
    }
}

impl Export<'_> {
    /// Those who are in the export's own list.
    fn listed(&self) -> u64 {
        let list = std::fs::read(self.to.join("cubby-export.ndjson")).unwrap_or_default();
        memchr::memchr_iter(b'\n', &list).count() as u64
    }
}

pub async fn run(options: &Options, table: &mut Table) {
    let folder = tempfile::TempDir::new_in(&options.folder).unwrap();
    let data = folder.path().join("data");
    make::run(&data, options.exported, Some(4096)).await;
    let server = Server::start(&http(), &data, &["--admin-api-key", KEY]).await;
    let callers = Callers::seed(address(&server), options.connections, options.exported).await;
    let to = folder.path().join("exports");
    let mut work = Export { server: &server, to, all: u64::from(options.exported), child: None, over: false };
    let name = format!("export of {}", options.exported);
    beside::measure(&name, options, &callers, &mut work, table).await;
    assert!(!work.over || work.listed() == work.all, "all of them are in the list");
    table.tell(&format!("{name}, in all"), format!("{} whole files", work.listed()));
    assert!(server.stop());
}
