//! What is known of users and their notes, and what may have become of them.
//!
//! Each note's text has its writer and its number in it, so that it is known again wherever it turns up:
//! in another user's file, in the trash, in a log.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use cubby::{ErrorKind, Store, TenantId, reconcile::doctor, tenants::disk::path::Layout};
use rusqlite::Connection;
use sha2::{Digest, Sha256};

use crate::{check, snapshot::occurrences};

const MARK: &str = "mark:";

/// Notes that share a fate: all of them are there, or none.
#[derive(Debug, Clone, Default)]
struct Group {
    notes: BTreeSet<u32>,
    /// A purge was begun, or their retention is over.
    may_vanish: bool,
    /// Whom they were to go to by an adoption that was begun.
    heirs: BTreeSet<String>,
    /// For whose notes an adoption that was begun was to give these up.
    givers: BTreeSet<String>,
}

#[derive(Debug, Clone, Default)]
struct Person {
    groups: Vec<Group>,
    /// The state that somebody was told of, and that nothing may have changed since.
    told: Option<&'static str>,
    /// A purge was begun once.
    was_doomed: bool,
    /// What they had by an adoption was given up for another.
    gave_up: bool,
}

/// All users, and what must hold of them.
#[derive(Debug, Clone, Default)]
pub struct World {
    people: BTreeMap<String, Person>,
    writers: BTreeMap<u32, String>,
    /// Notes that were reported as erased, and in whose files they may be all the same.
    gone: BTreeMap<u32, BTreeSet<String>>,
    /// Notes of users who were purged by an adoption: one of these must have them.
    owed: Vec<(BTreeSet<u32>, BTreeSet<String>)>,
    /// Adoptions that were begun.
    lent: Vec<(String, String)>,
    next: u32,
}

/// What is wrong, a kind and the details.
pub type Wrong = Vec<(&'static str, String)>;

impl World {
    pub fn with(ids: &[&str]) -> Self {
        let people = ids.iter().map(|id| ((*id).to_owned(), Person::default())).collect();
        Self { people, ..Self::default() }
    }

    /// One whose notes have numbers after this: of several, no two may have the same.
    pub fn after(number: u32) -> Self {
        Self { next: number, ..Self::default() }
    }

    pub fn ids(&self) -> Vec<String> {
        self.people.keys().cloned().collect()
    }

    fn person(&mut self, id: &str) -> &mut Person {
        self.people.entry(id.to_owned()).or_default()
    }

    /// The number and text of a note that is about to be written.
    pub fn draft(&mut self, id: &str) -> (u32, String) {
        self.next += 1;
        self.writers.insert(self.next, id.to_owned());
        (self.next, format!("{MARK}{id}:{}; something that {id} wants to keep", self.next))
    }

    /// The same with a text of several pages.
    pub fn long_draft(&mut self, id: &str) -> (u32, String) {
        let (number, text) = self.draft(id);
        (number, format!("{text}{}", " and more of it".repeat(800)))
    }

    /// It was acknowledged.
    pub fn wrote(&mut self, id: &str, number: u32) {
        self.person(id).groups.push(Group { notes: BTreeSet::from([number]), ..Group::default() });
    }

    /// It was acknowledged while the user was about to be erased: it may have come before that, or after.
    pub fn wrote_in_passing(&mut self, id: &str, number: u32) {
        self.wrote(id, number);
        self.person(id).groups.last_mut().unwrap().may_vanish = true;
    }

    pub fn has_notes(&self, id: &str) -> bool {
        self.people.get(id).is_some_and(|person| !person.groups.is_empty())
    }

    /// The user was answered to be back with all they had.
    pub fn brought_back(&mut self, id: &str) {
        self.person(id).groups.iter_mut().for_each(|group| group.may_vanish = false);
    }

    /// Somebody was told that the user is in this state; none: what was told before no longer holds.
    pub fn told(&mut self, id: &str, state: Option<&'static str>) {
        self.person(id).told = state;
    }

    /// From now on the user's notes may be gone.
    pub fn purge_begins(&mut self, id: &str) {
        let person = self.person(id);
        person.was_doomed = true;
        person.groups.iter_mut().for_each(|group| group.may_vanish = true);
    }

    /// It was answered that they are.
    pub fn purged(&mut self, id: &str) {
        for group in std::mem::take(&mut self.person(id).groups) {
            for number in group.notes {
                self.gone.entry(number).or_default().extend(group.heirs.clone());
            }
        }
    }

    /// Whether notes of the user's own hand were reported as erased.
    pub fn was_purged(&self, id: &str) -> bool {
        self.gone
            .iter()
            .any(|(number, heirs)| heirs.is_empty() && self.writers.get(number).is_some_and(|who| who == id))
    }

    pub fn adoption_begins(&mut self, to: &str, from: &str, replace: bool) {
        self.lent.push((from.to_owned(), to.to_owned()));
        for group in &mut self.person(from).groups {
            group.heirs.insert(to.to_owned());
        }
        if replace {
            for group in &mut self.person(to).groups {
                group.givers.insert(from.to_owned());
            }
        }
    }

    pub fn adopted(&mut self, to: &str, from: &str, replace: bool) {
        if replace {
            self.purged(to);
            self.person(to).gave_up = true;
        }
        let groups = self.person(from).groups.clone();
        self.purged(from);
        for mut group in groups {
            for number in &group.notes {
                self.gone.entry(*number).or_default().insert(to.to_owned());
            }
            group = Group { notes: group.notes, may_vanish: group.may_vanish, ..Group::default() };
            self.person(to).groups.push(group);
        }
    }

    /// The user was brought back, and has these notes: what of them was in doubt no longer is.
    pub fn settled(&mut self, id: &str, found: &BTreeSet<u32>) {
        let person = self.person(id);
        for group in &mut person.groups {
            if group.notes.is_subset(found) {
                group.may_vanish = false;
                group.givers.clear();
            }
        }
        person.groups.retain(|group| !(group.may_vanish && group.notes.is_disjoint(found)));
    }

    /// A row says that its user was purged.
    fn seen_purged(&mut self, id: &str, wrong: &mut Wrong) {
        let groups = std::mem::take(&mut self.person(id).groups);
        for group in groups {
            if !group.may_vanish && group.heirs.is_empty() {
                wrong.push(("PURGED", format!("{id} is purged, which nobody asked for")));
            }
            for number in &group.notes {
                self.gone.entry(*number).or_default().extend(group.heirs.clone());
            }
            if let (1, Some(heir)) = (group.heirs.len(), group.heirs.first().cloned())
                && !group.may_vanish
            {
                // The adoption was committed, and so was what it gave up.
                let person = self.person(&heir);
                let (given, kept) =
                    std::mem::take(&mut person.groups).into_iter().partition(|group| group.givers.contains(id));
                person.groups = kept;
                let given: Vec<Group> = given;
                for number in given.into_iter().flat_map(|group| group.notes) {
                    self.gone.entry(number).or_default();
                }
            }
            if !group.may_vanish && !group.heirs.is_empty() {
                self.owed.push((group.notes, group.heirs));
            }
        }
    }

    /// Compares with what the catalog says.
    pub fn compare_rows(&mut self, look: &Look, wrong: &mut Wrong) {
        for row in &look.rows {
            if row.purged && self.people.contains_key(&row.id) {
                self.seen_purged(&row.id, wrong);
            }
        }
        for (id, person) in &self.people {
            let state = look.rows.iter().find(|row| row.id == *id).map_or("unknown", |row| row.state.as_str());
            if let Some(told) = person.told.filter(|told| *told != state) {
                wrong.push(("STATE", format!("{id} is {state}, and was said to be {told}")));
            }
        }
    }

    /// No file holds a note that was reported as erased, but those that it was given to.
    pub fn compare_bytes(&self, data: &Path, wrong: &mut Wrong) {
        if self.gone.is_empty() {
            return;
        }
        for path in every_file(data) {
            let Ok(bytes) = std::fs::read(&path) else { continue };
            let name = path.strip_prefix(data).unwrap_or(&path).display().to_string();
            let mut seen = BTreeSet::new();
            for at in occurrences(&bytes, MARK.as_bytes()) {
                let Some(number) = number_at(&bytes[at..]) else { continue };
                let Some(heirs) = self.gone.get(&number) else { continue };
                if !heirs.iter().any(|heir| name.contains(&digest(heir))) && seen.insert(number) {
                    let writer = self.writers.get(&number).map_or("?", String::as_str);
                    wrong.push(("NOT ERASED", format!("note {number} of {writer} is still in {name}")));
                }
            }
        }
    }

    /// Whether notes of `writer` may be with `id`.
    fn may_have(&self, id: &str, writer: &str) -> bool {
        let mut reached = BTreeSet::from([writer]);
        for _ in &self.lent {
            for (from, to) in &self.lent {
                if reached.contains(from.as_str()) {
                    reached.insert(to);
                }
            }
        }
        reached.contains(id)
    }

    /// Compares with the notes that users have in the end.
    pub fn compare_notes(&self, ids: &[String], found: &BTreeMap<String, BTreeSet<u32>>, wrong: &mut Wrong) {
        let nothing = BTreeSet::new();
        let of = |id: &str| found.get(id).unwrap_or(&nothing);
        let has_all = |id: &str, notes: &BTreeSet<u32>| notes.is_subset(of(id));
        for (id, person) in ids.iter().filter_map(|id| self.people.get_key_value(id)) {
            for number in of(id) {
                let writer = self.writers.get(number).map_or("?", String::as_str);
                if !self.may_have(id, writer) {
                    wrong.push(("FOREIGN", format!("{id} has note {number} of {writer}")));
                }
            }
            for group in &person.groups {
                let missing: Vec<_> = group.notes.difference(of(id)).collect();
                if missing.is_empty() {
                    continue;
                }
                if missing.len() < group.notes.len() {
                    wrong.push(("LOST", format!("{id} has of {:?} no more {missing:?}", group.notes)));
                    continue;
                }
                let doomed = |id: &str| self.people.get(id).is_some_and(|person| person.was_doomed);
                // Whoever adopted them and then gave them up for another's was told so.
                let gave_up = |id: &str| self.people.get(id).is_some_and(|person| person.gave_up);
                let inherited =
                    group.heirs.iter().any(|heir| has_all(heir, &group.notes) || doomed(heir) || gave_up(heir));
                let replaced = group.givers.iter().any(|giver| {
                    let given = self.people.get(giver).map(|giver| &giver.groups);
                    doomed(giver) || given.is_none_or(|given| given.iter().all(|group| has_all(id, &group.notes)))
                });
                if !(group.may_vanish || inherited || replaced) {
                    wrong.push(("LOST", format!("{id} has none of {:?}", group.notes)));
                }
            }
        }
        for (notes, heirs) in self.owed.iter().filter(|(_, heirs)| heirs.iter().any(|heir| ids.contains(heir))) {
            let doomed = |id: &String| self.people.get(id).is_some_and(|heir| heir.was_doomed || heir.gave_up);
            if !heirs.iter().any(|heir| has_all(heir, notes) || doomed(heir)) {
                wrong.push(("LOST", format!("{notes:?} were adopted by one of {heirs:?}, who does not have them")));
            }
        }
    }

    /// Brings everybody back, as an operator would, and reads their notes.
    pub async fn recover(
        &mut self,
        store: &Store,
        ids: &[String],
        wrong: &mut Wrong,
    ) -> BTreeMap<String, BTreeSet<u32>> {
        let mut found = BTreeMap::new();
        let mut orphans = false;
        for id in ids {
            orphans |= self.has_notes(id) && store.find(&tenant(id)).await.unwrap().is_none();
        }
        if orphans {
            let examined = store.clone();
            let fixed =
                tokio::task::spawn_blocking(move || doctor::examine(&examined, Some(&author()), || {})).await.unwrap();
            if let Err(error) = fixed {
                wrong.push(("ERROR", format!("doctor --fix: {error}")));
            }
        }
        for id in ids {
            let who = tenant(id);
            let Some(row) = store.find(&who).await.unwrap() else { continue };
            if row.purged.is_some() {
                continue;
            }
            let state = row.state.to_string();
            let back = match state.as_str() {
                // Whoever was suspended is so again.
                "deleted" => match store.restore(&who, &author()).await {
                    Ok(row) if row.state.to_string() == "suspended" => store.resume(&who, &author()).await.map(drop),
                    done => done.map(drop),
                },
                "suspended" => store.resume(&who, &author()).await.map(drop),
                _ => Ok(()),
            };
            if let Err(error) = back {
                // What a purge left half done is completed by another.
                let doomed = self.people.get(id).is_some_and(|person| person.was_doomed);
                let nobody = error.kind() == ErrorKind::Conflict && (doomed || !self.has_notes(id));
                let adopted = error.kind() == ErrorKind::Conflict && self.lent.iter().any(|(from, _)| from == id);
                let done = match nobody || adopted {
                    true => store.purge(&who, &author()).await.map(drop),
                    false => Err(error),
                };
                if let Err(error) = done {
                    wrong.push(("STUCK", format!("{id}, {state}, cannot be brought back: {error}")));
                }
                continue;
            }
            match notes_of(store, &who).await {
                Ok(notes) => drop(found.insert(id.clone(), notes)),
                Err(error) => wrong.push(("UNREADABLE", format!("{id}, who was {state}: {error}: {}", error.detail()))),
            }
        }
        found
    }
}

pub fn tenant(id: &str) -> TenantId {
    id.parse().unwrap()
}

pub fn author() -> cubby::catalog::audit::Author {
    cubby::catalog::audit::Author::program("torture")
}

/// The numbers of the notes a user has.
pub async fn notes_of(store: &Store, id: &TenantId) -> cubby::Result<BTreeSet<u32>> {
    store.lease(id).await?.read(numbers).await
}

pub fn numbers(conn: &Connection) -> cubby::Result<BTreeSet<u32>> {
    let mut statement = conn.prepare("SELECT text FROM notes")?;
    let texts: Vec<String> = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    Ok(texts.iter().filter_map(|text| number_at(text.as_bytes())).collect())
}

/// The number in a text that starts with the mark.
fn number_at(bytes: &[u8]) -> Option<u32> {
    let text = bytes.strip_prefix(MARK.as_bytes())?;
    let text = &text[..text.len().min(80)];
    let colon = text.iter().position(|byte| *byte == b':')?;
    let end = text.iter().position(|byte| *byte == b';')?;
    std::str::from_utf8(text.get(colon + 1..end)?).ok()?.parse().ok()
}

/// How the files of a user are called.
pub fn digest(id: &str) -> String {
    hex::encode(Sha256::digest(id.as_bytes()))
}

fn every_file(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files = Vec::new();
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            files.extend(every_file(&path));
        } else {
            files.push(path);
        }
    }
    files
}

#[derive(Debug)]
pub struct RowSeen {
    pub id: String,
    pub state: String,
    pub purged: bool,
}

/// The end of a complaint about a file that the catalog does not know.
pub const NOBODYS: &str = ": of nobody in the catalog";

/// Catalog and files, compared without opening a user's file and without the program's own code for it.
#[derive(Debug)]
pub struct Look {
    pub rows: Vec<RowSeen>,
    pub complaints: Vec<String>,
}

impl Look {
    /// Nobody has the folder.
    pub fn at(data: &Path) -> Result<Self, String> {
        let conn = check::connect_shared(&data.join("catalog.db")).map_err(|error| format!("the catalog: {error}"))?;
        let mut statement =
            conn.prepare("SELECT id, state, purged IS NOT NULL FROM tenants").map_err(|e| e.to_string())?;
        let rows = statement
            .query_map([], |row| Ok(RowSeen { id: row.get(0)?, state: row.get(1)?, purged: row.get(2)? }))
            .and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>)
            .map_err(|error| error.to_string())?;
        drop(statement);
        conn.close().map_err(|(_, error)| error.to_string())?;

        let mut complaints = Vec::new();
        let layout = Layout::at(data.to_owned());
        let ids: BTreeMap<String, &RowSeen> = rows.iter().map(|row| (digest(&row.id), row)).collect();
        let mut files = every_file(&layout.tenants());
        files.extend(every_file(&layout.trash()));
        for path in files {
            let name = path.strip_prefix(data).unwrap_or(&path).display().to_string();
            let length = path.metadata().map_or(0, |found| found.len());
            let file = path.file_name().unwrap().to_string_lossy().into_owned();
            let base = file.split('.').next().unwrap_or_default();
            let log = file.ends_with("-wal") || file.ends_with("-shm");
            if log {
                let database = path.with_file_name(&file[..file.len() - 4]);
                if length > 0 && !database.exists() {
                    complaints.push(format!("{name}: {length} bytes without their database"));
                }
            }
            match ids.get(base) {
                Some(row) if row.purged && length > 0 => {
                    complaints.push(format!("{name}: {} was purged", row.id));
                }
                None if !log => complaints.push(format!("{name}{NOBODYS}")),
                _ => {}
            }
        }
        for row in rows.iter().filter(|row| !row.purged) {
            let id = tenant(&row.id);
            let (live, trashed) = (layout.tenant(&id).exists(), layout.trashed(&id).exists());
            match (row.state.as_str(), live, trashed) {
                ("deleted", true, _) => complaints.push(format!("{} is deleted, and in its place", row.id)),
                ("deleted", ..) => {}
                (state, false, _) => complaints.push(format!("{} is {state}, and has no file", row.id)),
                (_, true, true) => complaints.push(format!("{} lives, and is in the trash too", row.id)),
                ("quarantined", ..) => complaints.push(format!("{} is quarantined", row.id)),
                _ => {}
            }
        }
        Ok(Self { rows, complaints })
    }
}
