//! The replication of the server's data folder, if it is set.

#[cfg(not(feature = "replicate"))]
pub use self::off::{Replication, prepare};
#[cfg(feature = "replicate")]
pub use self::on::{Replication, prepare};

#[cfg(feature = "replicate")]
mod on {
    use std::{path::Path, sync::Arc};

    use crate::{
        clock::Clock,
        config::{DataConfig, ServeConfig, replicate::variables},
        error::{Error, Result},
        log::Tail,
        replica::{
            remote::Remote,
            running::{Replica, Settings},
            seal::Seal,
        },
        tenants::{open::fetch::Fetcher, store::Store},
    };

    /// What replicates, if anything does.
    #[derive(Default)]
    pub struct Replication(Option<Arc<Replica>>);

    /// Connects to the bucket that the settings name.
    pub fn prepare(data: &DataConfig, config: &ServeConfig, clock: &Clock) -> Result<Replication> {
        let settings = &config.replicate;
        let Some(url) = &settings.replicate else { return Ok(Replication::default()) };
        let settings = Settings {
            remote: Remote::open(url, &variables())?,
            seal: settings.replicate_key.as_deref().map_or(Ok(Seal::none()), seal)?,
            mode: settings.replicate_mode,
            window: settings.replicate_window,
            backlog: settings.replicate_backlog.0,
            anew: settings.new,
            restore: settings.restore,
            clock: clock.clone(),
        };
        Ok(Replication(Some(Arc::new(Replica::prepare(settings, &data.data)?))))
    }

    /// What the keys in a file encrypt and decrypt.
    fn seal(path: &Path) -> Result<Seal> {
        let unreadable = |e| Error::config(format!("the key file {} cannot be read: {e}", path.display()));
        Seal::from_key_file(&std::fs::read_to_string(path).map_err(unreadable)?)
    }

    impl Replication {
        /// What the store's log is opened with.
        pub fn tail(&self) -> Option<Tail> {
            self.0.as_ref().map(|replica| replica.tail())
        }

        /// What the store is opened with, if not all users' files are there.
        pub fn fetcher(&self) -> Option<Fetcher> {
            self.0.as_ref().and_then(|replica| replica.fetcher())
        }

        /// Begins, when the store is open.
        pub fn start(&self, store: &Store) -> Result<()> {
            self.0.as_ref().map_or(Ok(()), |replica| replica.start(store))
        }

        /// Stops, after the store was closed. May block.
        pub fn stop(&self) {
            self.0.iter().for_each(|replica| replica.stop());
        }

        /// What runs.
        pub fn running(&self) -> Option<&Arc<Replica>> {
            self.0.as_ref()
        }
    }
}

#[cfg(not(feature = "replicate"))]
mod off {
    use crate::{
        clock::Clock,
        config::{DataConfig, ServeConfig},
        error::{Error, Result},
        log::Tail,
        tenants::{open::fetch::Fetcher, store::Store},
    };

    /// This program was built without replication.
    #[derive(Default)]
    pub struct Replication;

    /// Refuses settings that need it.
    pub fn prepare(_: &DataConfig, config: &ServeConfig, _: &Clock) -> Result<Replication> {
        let settings = &config.replicate;
        if settings.replicate.is_some() || settings.backup_to.is_some() {
            return Err(Error::config(
                "this program was built without replication and backups: build it with the cargo feature `replicate`, or unset \
                 CUBBY_REPLICATE and CUBBY_BACKUP",
            ));
        }
        Ok(Replication)
    }

    #[expect(clippy::unused_self, reason = "the same as with replication")]
    impl Replication {
        /// Nothing.
        pub fn tail(&self) -> Option<Tail> {
            None
        }

        /// Nothing.
        pub fn fetcher(&self) -> Option<Fetcher> {
            None
        }

        /// Does nothing.
        pub fn start(&self, _: &Store) -> Result<()> {
            Ok(())
        }

        /// Does nothing.
        pub fn stop(&self) {}
    }
}
