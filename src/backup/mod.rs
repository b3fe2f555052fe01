//! Backups: everybody's database, and the catalog, at one place, as often as an operator wants.
//!
//! A backup is a list that names copies, and copies are shared: of a database that has not changed since the backup before,
//! not a byte is read or written. It is made while everybody is served.
//!
//! | module | decides |
//! |---|---|
//! | [`destination`] | what is where at the place of the backups |
//! | [`installation`] | whose backups they are |
//! | [`name`], [`manifest`] | what a backup is called, and the list of what it has |
//! | [`fingerprint`] | whether a file is the one that a backup has already |
//! | `journal`, `queries` | what a run remembers on this machine, so that one that was cut short is gone on with |
//! | `take` | making one |
//! | [`keep`], `tidy` | which are kept, and the removal of the others |
//! | [`run`], [`report`], `under_way` | starting, stopping, progress |
//! | [`choice`] | which backup is meant |
//! | [`verify`], [`restore`], `check` | looking whether it is whole, and bringing it back |
//!
//! # Invariants
//! 1. **The list comes last.** A backup without one is none, and one whose list was cut is known.
//! 2. **A copy is known by its content.** Its name and the list have the SHA-256 of the file, and nothing is restored that has
//!    another.
//! 3. **The catalog is newer than the files** of those who are in it from before, so nobody is in it whose file was never
//!    looked at.
//! 4. **Nothing is removed on a guess**: see `tidy`.

mod check;
pub mod choice;
pub mod destination;
pub mod fingerprint;
pub mod installation;
mod journal;
pub mod keep;
pub mod manifest;
pub mod name;
mod queries;
pub mod report;
pub mod restore;
pub mod run;
mod scratch;
mod take;
mod tidy;
mod under_way;
pub mod verify;
