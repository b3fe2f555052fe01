//! An ordered set of migrations: what a file's schema should be.

use std::path::{Path, PathBuf};

use refinery::Migration;
use sha2::{Digest, Sha256};

use super::{
    folder,
    form::{File, Form, Record},
    history::{Mismatch, Step},
    numbered, order,
};
use crate::error::{Error, Result};

/// An ordered set of migrations: what a file's schema should be.
#[derive(Debug, Clone)]
pub struct Schema {
    pub(super) migrations: Vec<Migration>,
    version: i32,
    digest: i64,
    folder: Option<PathBuf>,
    form: Form,
    /// How the tool writes each migration down, in the order of the versions; none for [`Form::Numbered`].
    records: Vec<Record>,
}

impl Schema {
    /// A schema from refinery's migrations. They must have distinct versions, starting at 1.
    pub(crate) fn new(mut migrations: Vec<Migration>) -> Result<Self> {
        migrations.sort();
        let Some(last) = migrations.last() else {
            return Err(Error::config("there is no migration: at least V1__….sql is needed"));
        };
        let version = last.version();
        if let Some([a, b]) = migrations.array_windows().find(|[a, b]| a.version() == b.version()) {
            return Err(Error::config(format!("two migrations have one version: {a} and {b}")));
        }
        if let Some(bad) = migrations.iter().find(|m| m.version() < 1 || m.prefix().to_string() != "V") {
            return Err(Error::config(format!("migration {bad}: versions are V1, V2, … (no zero, no U)")));
        }
        let mut hash = Sha256::new();
        for migration in &migrations {
            hash.update(migration.version().to_be_bytes());
            hash.update(migration.checksum().to_be_bytes());
        }
        let digest = hash.finalize();
        let digest = i64::from_be_bytes(std::array::from_fn(|i| digest[i]));
        Ok(Self { migrations, version, digest, folder: None, form: Form::Numbered, records: Vec::new() })
    }

    /// The schema of a file on which no migration has run: it is older than every other.
    #[cfg(feature = "replicate")]
    pub(crate) fn none() -> Self {
        let (migrations, records) = (Vec::new(), Vec::new());
        Self { migrations, version: 0, digest: 0, folder: None, form: Form::Numbered, records }
    }

    /// A schema from migrations in the program: pairs of a name, `V<version>__<name>`, and SQL, in any order.
    ///
    /// A migration that has run on a file must not be edited, renamed or removed: add another one.
    ///
    /// ```
    /// use cubby::{StoreOptions, sqlite::migrate::Schema};
    ///
    /// let schema = Schema::from_sql(&[
    ///     ("V1__todos", "CREATE TABLE todos (id INTEGER PRIMARY KEY, title TEXT NOT NULL) STRICT"),
    ///     ("V2__done", "ALTER TABLE todos ADD COLUMN done INTEGER NOT NULL DEFAULT 0"),
    /// ])?;
    /// assert_eq!(schema.version(), 2);
    /// let options = StoreOptions { schema: Some(schema), ..StoreOptions::new("./data") };
    /// # Ok::<_, cubby::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) if there is none, or for a name that is not of this form, or a
    /// version that two have. The SQL is tried when a store is opened.
    pub fn from_sql(migrations: &[(&str, &str)]) -> Result<Self> {
        let parse = |(name, sql): &(&str, &str)| {
            Migration::unapplied(name, sql)
                .map_err(|e| Error::config(format!("migration {name:?}: {}", chain(&e))).with_source(e))
        };
        Self::new(migrations.iter().map(parse).collect::<Result<_>>()?)
    }

    /// A schema from a folder of migrations in one of the [forms](Form), which is told by what is in it.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) for a folder without migrations, with those of two forms, or in
    /// which a file is not as it must be.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        if !folder.is_dir() {
            return Err(Error::config(format!("migrations: {} is not a folder", folder.display())));
        }
        let read = folder::form(folder).and_then(|form| match form {
            Form::Numbered => {
                numbered::refuse_strays(folder)?;
                let found = refinery::load_sql_migrations(folder);
                let migrations = found.map_err(|e| Error::config(chain(&e)).with_source(e))?;
                match migrations.is_empty() {
                    true => Err(Error::config(
                        "there is no migration in a form that is known: V1__name.sql, 001_name.sql, or a folder as Drizzle \
                         or Prisma writes it",
                    )),
                    false => Self::new(migrations),
                }
            }
            _ => Self::ordered(form, folder::read(folder, form)?),
        });
        let schema = read.map_err(|e| {
            Error::config(format!("migrations in {}: {}", folder.display(), e.message())).with_source(e)
        })?;
        Ok(Self { folder: Some(folder.to_owned()), ..schema })
    }

    /// A schema from the files of a form whose versions are the places in the order.
    fn ordered(form: Form, files: Vec<File>) -> Result<Self> {
        let (mut migrations, mut records): (Vec<Migration>, Vec<Record>) = (Vec::new(), Vec::new());
        for (File { name, record, sql }, version) in files.into_iter().zip(1..) {
            let migration = order::migration(version, &form.written(&name), &sql)?;
            if let Some(at) = migrations.iter().position(|other| other.name() == migration.name()) {
                let (one, other) = (&records[at].name, &record.name);
                return Err(Error::config(format!(
                    "two migrations have one name: {one} and {other}; rename the newer"
                )));
            }
            migrations.push(migration);
            records.push(record);
        }
        if migrations.is_empty() {
            return Err(Error::config(format!("there is no migration in a folder that is {form}")));
        }
        Ok(Self { form, records, ..Self::new(migrations)? })
    }

    /// The folder it was read from, if it was.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// The form of its migrations.
    pub fn form(&self) -> Form {
        self.form
    }

    /// How the tool writes the migrations behind `version` down.
    pub(super) fn records_after(&self, version: i32) -> &[Record] {
        let after = usize::try_from(version).unwrap_or(0);
        self.records.get(after..).unwrap_or_default()
    }

    /// The newest version, which is also the `user_version` of a migrated file.
    pub fn version(&self) -> i32 {
        self.version
    }

    /// A digest of all migrations together. Each file keeps it, so that every open detects a migration that was
    /// edited after it ran, which the version alone would hide.
    pub fn digest(&self) -> i64 {
        self.digest
    }

    /// The migrations up to `version`: an older schema.
    pub fn up_to(&self, version: i32) -> Result<Self> {
        let older = Self::new(self.migrations.iter().filter(|m| m.version() <= version).cloned().collect())?;
        let records = self.records.iter().take(older.migrations.len()).cloned().collect();
        Ok(Self { form: self.form, records, ..older })
    }

    /// Its migrations, in the order of their versions.
    pub fn steps(&self) -> Vec<Step> {
        let files = self.records.iter().map(|record| Some(record.name.clone())).chain(std::iter::repeat(None));
        self.migrations.iter().zip(files).map(|(migration, file)| order::step(migration, file)).collect()
    }

    /// Whether every file that had some of `applied` can be migrated to this schema.
    pub fn continues(&self, applied: &[Step]) -> Result<(), Mismatch> {
        let (Some(first), Some(newest)) = (applied.first(), applied.last()) else { return Ok(()) };
        let steps = self.steps();
        if self.form != Form::Numbered {
            return order::continues(&self.migrations, &steps, applied);
        }
        let now = |ran: &Step| steps.iter().find(|step| step.version == ran.version);
        let renamed = |ran: &Step| now(ran).is_none_or(|step| step.name != ran.name);
        if applied.iter().all(|ran| now(ran) != Some(ran)) && renamed(first) {
            return Err(Mismatch::Other(first.clone()));
        }
        for ran in applied {
            match now(ran) {
                Some(step) if step == ran => {}
                Some(step) if step.name == ran.name => return Err(Mismatch::Edited(ran.clone())),
                None if ran.version > self.version => return Err(Mismatch::Older(newest.clone())),
                Some(_) | None => return Err(Mismatch::Missing(ran.clone())),
            }
        }
        let late = steps.into_iter().find(|step| step.version < newest.version && !applied.contains(step));
        late.map_or(Ok(()), |late| Err(Mismatch::Late { late, newest: newest.clone() }))
    }

    /// The migration with this SQL, for a message.
    pub(super) fn name_of(&self, sql: &str) -> Option<String> {
        let at = self.migrations.iter().position(|migration| migration.sql() == Some(sql))?;
        self.steps().get(at).map(ToString::to_string)
    }
}

/// An error's text with those of its sources.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let part = source.to_string();
        if !text.contains(&part) {
            text = format!("{text}: {part}");
        }
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_in_the_program_are_checked_as_those_in_a_folder() {
        let refused = |migrations: &[(&str, &str)]| Schema::from_sql(migrations).unwrap_err().message().to_owned();
        let sql = "CREATE TABLE a (x)";
        assert_eq!(refused(&[]), "there is no migration: at least V1__….sql is needed");
        assert_eq!(refused(&[("V1__a", sql), ("V1__b", sql)]), "two migrations have one version: V1__a and V1__b");
        assert_eq!(refused(&[("V0__a", sql)]), "migration V0__a: versions are V1, V2, … (no zero, no U)");
        for name in ["a", "V1", "V1_a", "1__a", "Vx__a"] {
            assert!(refused(&[(name, sql)]).starts_with(&format!("migration {name:?}: ")), "{name}");
        }
        let schema = Schema::from_sql(&[("V2__b", sql), ("V1__a", sql)]).unwrap();
        assert_eq!(schema.steps().iter().map(ToString::to_string).collect::<Vec<_>>(), ["V1__a", "V2__b"]);

        let folder = tempfile::TempDir::new().unwrap();
        ["V1__a.sql", "V2__b.sql"].iter().for_each(|file| std::fs::write(folder.path().join(file), sql).unwrap());
        assert_eq!(Schema::from_folder(folder.path()).unwrap().digest(), schema.digest());
    }

    #[test]
    fn of_a_history_an_edited_or_renamed_migration_is_named() {
        let schema = |migrations: &[(&str, &str)]| Schema::from_sql(migrations).unwrap();
        let sql = "CREATE TABLE a (x)";
        let ran = schema(&[("V1__a", sql), ("V3__c", sql)]).steps();
        let (first, last) = (ran[0].clone(), ran[1].clone());
        let renamed = schema(&[("V1__a", sql), ("V3__x", sql)]);
        assert_eq!(renamed.continues(&ran), Err(Mismatch::Missing(last)));
        // Also when it is the only one that ran.
        let edited = schema(&[("V1__a", "CREATE TABLE other (x)")]);
        assert_eq!(edited.continues(&ran[..1]), Err(Mismatch::Edited(first)));
    }
}
