//! Which form the migrations in a folder have, told by what is in it.

use std::path::Path;

use super::{
    drizzle,
    form::{File, Form},
    plain, prisma, text,
};
use crate::error::{Error, Result};

/// Finds the form of a folder.
///
/// # Errors
/// [`ErrorKind::Config`](crate::ErrorKind::Config) for a mixture, or a form that is not known.
pub(super) fn form(folder: &Path) -> Result<Form> {
    let names = text::names(folder)?;
    let has = |name: &str| folder.join(name).is_file();
    let nested: Vec<&String> = names.iter().filter(|name| has(&format!("{name}/migration.sql"))).collect();
    let (journal, lock) = (has(drizzle::JOURNAL), has(prisma::LOCK));
    let snapshots = names.iter().any(|name| has(&format!("{name}/snapshot.json")));
    let found = [
        (Form::Drizzle, journal),
        (Form::DrizzleFolders, snapshots),
        (Form::Prisma, lock),
        // Drizzle's files begin with numbers, too.
        (Form::Plain, !journal && names.iter().any(|name| text::is_numbered_sql(name))),
        (Form::Numbered, names.iter().any(|name| is_versioned(name))),
    ];
    let found: Vec<Form> = found.into_iter().filter_map(|(form, found)| found.then_some(form)).collect();
    match (&found[..], nested.first()) {
        ([Form::Drizzle, Form::DrizzleFolders], _) => Err(Error::config(
            "it has Drizzle's meta/_journal.json as well as its folders: finish drizzle-kit up, which removes the journal",
        )),
        ([one, other, ..], _) => {
            Err(Error::config(format!("it has migrations in two forms, {one} and {other}: keep one of them")))
        }
        ([form @ (Form::Plain | Form::Numbered)], Some(name)) => Err(Error::config(format!(
            "it has migrations in two forms, {form} and {name}/migration.sql: keep one of them"
        ))),
        ([form], _) => Ok(*form),
        ([], Some(name)) => Err(Error::config(format!(
            "{name}/migration.sql may be Prisma's or Drizzle's, and there is neither {} nor a snapshot.json: give the \
             whole folder as the tool wrote it",
            prisma::LOCK
        ))),
        ([], None) => {
            let of_a_tool =
                |name: &&String| [drizzle::JOURNAL, prisma::LOCK].iter().any(|file| has(&format!("{name}/{file}")));
            match names.iter().find(of_a_tool) {
                Some(name) => Err(Error::config(format!(
                    "the migrations are in the folder {name} in it: give {}",
                    folder.join(name).display()
                ))),
                // They may be in folders within it.
                None => Ok(Form::Numbered),
            }
        }
    }
}

/// The migrations of a folder in their order; none for [`Form::Numbered`], which refinery reads.
pub(super) fn read(folder: &Path, form: Form) -> Result<Vec<File>> {
    match form {
        Form::Numbered => Ok(Vec::new()),
        Form::Plain => plain::read(folder),
        Form::Drizzle => drizzle::journal(folder),
        Form::DrizzleFolders => refuse_loose(folder, form).and_then(|()| drizzle::folders(folder)),
        Form::Prisma => refuse_loose(folder, form).and_then(|()| prisma::read(folder)),
    }
}

/// Refuses a file of SQL beside the folders in which a form has its migrations: nobody would run it.
fn refuse_loose(folder: &Path, form: Form) -> Result<()> {
    let is_loose = |name: &String| text::is_like_sql(name) && !folder.join(name).is_dir();
    text::names(folder)?.iter().find(|name| is_loose(name)).map_or(Ok(()), |name| Err(form.stray(name)))
}

/// Whether a file's name is like `V1__name.sql`.
fn is_versioned(name: &str) -> bool {
    let number = name.strip_prefix(['V', 'U']).filter(|_| text::is_sql(name));
    number.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()) && rest.contains("__"))
}
