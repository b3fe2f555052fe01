//! Operations on a tenant's files that were cut half-way, and whatever comes after them: no acknowledged
//! note is lost, nobody gets another's, and nothing of the erased is left.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
        mpsc,
    },
};

use cubby::{
    Store, StoreOptions, TenantId,
    catalog::{
        model::{Profile, State},
        queries,
    },
    clock::Clock,
    tenants::disk::path::{Layout, wal_of},
};
use serde_json::json;
use tempfile::TempDir;

use crate::harness::{
    self, Process, Server, author,
    clerk::Clerk,
    sender::{SECRET, deliver, event, gone, user},
};

const ADMIN: &str = "an operator's key of some length";
const NOTES: [&str; 4] = ["one", "two", "three", "four"];
const ADA: &str = "user_ada";

fn id(text: &str) -> TenantId {
    text.parse().unwrap()
}

fn layout(folder: &Path) -> Layout {
    Layout::at(folder.canonicalize().unwrap())
}

/// A folder in which a killed server left four notes, some of them in the write-ahead log alone, and a
/// second user who has none.
async fn killed_with_notes() -> TempDir {
    let folder = TempDir::new().unwrap();
    let server = Process::start(folder.path(), &["--clerk-webhook-secret", SECRET]);
    for name in [ADA, "user_new"] {
        deliver(&server.client, name, &event("user.created", user(name, name, 10), 1)).await;
    }
    for text in NOTES {
        server.client.note(ADA, text).await;
    }
    server.kill();
    let log = wal_of(&layout(folder.path()).tenant(&id(ADA)));
    assert!(fs::metadata(log).unwrap().len() > 0, "a kill leaves a log that is not empty");
    folder
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    Deletion,
    Restoration,
}

/// Makes what a crash between the two renames leaves: the log in one folder and the database in the
/// other, and a row that says deleted.
fn cut(folder: &Path, which: Cut) {
    let layout = layout(folder);
    let (live, trashed) = (layout.tenant(&id(ADA)), layout.trashed(&id(ADA)));
    let (database, log) = (fs::read(&live).unwrap(), fs::read(wal_of(&live)).unwrap());
    harness::stdout(&harness::run(folder, &["tenants", "delete", ADA]));
    for path in [&trashed, &wal_of(&trashed), &live, &wal_of(&live)] {
        let _ = fs::remove_file(path);
    }
    let (home, away) = if which == Cut::Deletion { (&live, &trashed) } else { (&trashed, &live) };
    fs::write(home, database).unwrap();
    fs::write(wal_of(away), log).unwrap();
}

async fn texts(folder: &Path, name: &str) -> Vec<String> {
    let server = Server::on(folder, &[]).await;
    let texts = server.client.texts(name).await;
    server.stop().await;
    texts
}

fn in_order(folder: &Path) {
    let doctor = harness::run(folder, &["doctor"]);
    assert_eq!(doctor.status.code(), Some(0), "{doctor:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_was_cut_loses_no_note_whatever_command_follows() {
    for which in [Cut::Deletion, Cut::Restoration] {
        for follower in
            ["restore", "doctor", "doctor --fix", "tenants delete", "tenants show", "migrate --all", "tenants revive"]
        {
            let folder = killed_with_notes().await;
            cut(folder.path(), which);
            let mut words: Vec<&str> = match follower {
                "restore" => vec!["tenants", "list"],
                other => other.split(' ').collect(),
            };
            if words[0] == "tenants" && words[1] != "list" {
                words.push(ADA);
            }
            harness::run(folder.path(), &words);
            harness::stdout(&harness::run(folder.path(), &["tenants", "restore", ADA]));
            assert_eq!(texts(folder.path(), ADA).await, NOTES, "{which:?}, then {follower}");
            in_order(folder.path());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_was_cut_loses_no_note_when_the_user_is_adopted() {
    for which in [Cut::Deletion, Cut::Restoration] {
        let folder = killed_with_notes().await;
        cut(folder.path(), which);
        harness::stdout(&harness::run(folder.path(), &["tenants", "adopt", "user_new", "--from", ADA]));
        assert_eq!(texts(folder.path(), "user_new").await, NOTES, "{which:?}");
        in_order(folder.path());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_was_cut_loses_no_note_when_a_reconcile_brings_the_user_back() {
    for which in [Cut::Deletion, Cut::Restoration] {
        let folder = killed_with_notes().await;
        cut(folder.path(), which);
        let clerk = Clerk::start().await;
        for name in [ADA, "user_new"] {
            clerk.add(user(name, name, 10));
        }
        let mut words = vec!["sync".to_owned()];
        words.extend(clerk.flags());
        harness::stdout(&harness::run(folder.path(), &words.iter().map(String::as_str).collect::<Vec<_>>()));
        assert_eq!(texts(folder.path(), ADA).await, NOTES, "{which:?}");
        in_order(folder.path());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_delivered_after_a_cut_one_completes_it() {
    for which in [Cut::Deletion, Cut::Restoration] {
        let folder = killed_with_notes().await;
        cut(folder.path(), which);
        let server = Server::on(folder.path(), &["--clerk-webhook-secret", SECRET]).await;
        deliver(&server.client, "m2", &event("user.deleted", gone(ADA), 2)).await;
        server.client.post(&format!("/{ADA}"), json!({"text": "late"})).await.expect(404);
        server.stop().await;
        harness::stdout(&harness::run(folder.path(), &["tenants", "restore", ADA]));
        assert_eq!(texts(folder.path(), ADA).await, NOTES, "{which:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_after_a_cut_move_erases_both_halves() {
    for which in [Cut::Deletion, Cut::Restoration] {
        let folder = killed_with_notes().await;
        cut(folder.path(), which);
        harness::stdout(&harness::run(folder.path(), &["tenants", "purge", ADA, "--yes"]));
        let places = layout(folder.path()).paths(&id(ADA));
        for path in [&places.live, &wal_of(&places.live), &places.trashed, &wal_of(&places.trashed)] {
            assert!(!path.exists(), "{which:?}: {}", path.display());
        }
        in_order(folder.path());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_names_halves_of_a_move_and_leaves_nothing_behind() {
    for which in [Cut::Deletion, Cut::Restoration] {
        let folder = killed_with_notes().await;
        cut(folder.path(), which);
        let files = || {
            let all = [layout(folder.path()).tenants(), layout(folder.path()).trash()];
            all.iter().flat_map(|folder| harness::tree(folder)).filter(|(path, ..)| path.is_file()).collect::<Vec<_>>()
        };
        let before = files();
        let doctor = harness::run(folder.path(), &["doctor"]);
        assert_eq!(doctor.status.code(), Some(1), "{which:?}: {doctor:?}");
        assert_eq!(files(), before, "{which:?}: who only looks changes nothing");
        assert_eq!(harness::run(folder.path(), &["doctor", "--fix"]).status.code(), Some(0), "{which:?}");
        in_order(folder.path());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reviving_is_refused_while_a_file_is_there() {
    for which in [Cut::Deletion, Cut::Restoration] {
        let folder = killed_with_notes().await;
        cut(folder.path(), which);
        let revive = harness::run(folder.path(), &["tenants", "revive", ADA]);
        let said = String::from_utf8_lossy(&revive.stderr).into_owned();
        assert!(!revive.status.success() && said.contains("tenants restore"), "{which:?}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_a_purged_user_is_found_and_erased() {
    for follower in ["doctor", "revive", "restore"] {
        let folder = killed_with_notes().await;
        let layout = layout(folder.path());
        harness::stdout(&harness::run(folder.path(), &["tenants", "delete", ADA]));
        let file = fs::read(layout.trashed(&id(ADA))).unwrap();
        harness::stdout(&harness::run(folder.path(), &["tenants", "purge", ADA, "--yes"]));
        in_order(folder.path());
        fs::write(layout.trashed(&id(ADA)), file).unwrap();

        let doctor = harness::run(folder.path(), &["doctor"]);
        assert_eq!(doctor.status.code(), Some(1), "the doctor tells: {doctor:?}");
        match follower {
            "doctor" => drop(harness::run(folder.path(), &["doctor", "--fix"])),
            "revive" => {
                harness::stdout(&harness::run(folder.path(), &["tenants", "revive", ADA]));
                assert!(texts(folder.path(), ADA).await.is_empty(), "nothing of the old user comes back");
            }
            _ => {
                let restore = harness::run(folder.path(), &["tenants", "restore", ADA]);
                assert!(String::from_utf8_lossy(&restore.stderr).contains("tenants revive"), "{restore:?}");
            }
        }
        assert!(!layout.trashed(&id(ADA)).exists(), "{follower}");
        in_order(folder.path());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_that_was_cut_leaves_no_log_to_be_replayed_into_a_new_database() {
    let folder = killed_with_notes().await;
    let layout = layout(folder.path());
    let log = fs::read(wal_of(&layout.tenant(&id(ADA)))).unwrap();
    harness::stdout(&harness::run(folder.path(), &["tenants", "delete", ADA]));
    for place in [layout.trashed(&id(ADA)), layout.tenant(&id(ADA))] {
        // The database is erased, and its log is not.
        let _ = fs::remove_file(layout.trashed(&id(ADA)));
        let _ = fs::remove_file(layout.tenant(&id(ADA)));
        fs::write(wal_of(&place), &log).unwrap();
        harness::stdout(&harness::run(folder.path(), &["tenants", "revive", ADA]));
        assert!(texts(folder.path(), ADA).await.is_empty(), "{}", place.display());
        in_order(folder.path());
        harness::stdout(&harness::run(folder.path(), &["tenants", "delete", ADA]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_in_the_trash_is_not_replayed_into_a_live_users_database() {
    for follower in [&["doctor", "--fix"][..], &["tenants", "show", ADA]] {
        let folder = killed_with_notes().await;
        let layout = layout(folder.path());
        let log = fs::read(wal_of(&layout.tenant(&id(ADA)))).unwrap();
        // A clean close merges the log; then others' frames lie where this user's file is to be moved.
        let server = Server::on(folder.path(), &[]).await;
        server.client.note(ADA, "five").await;
        server.stop().await;
        fs::write(wal_of(&layout.trashed(&id(ADA))), log).unwrap();
        let expected = ["one", "two", "three", "four", "five"];

        assert_eq!(harness::run(folder.path(), &["doctor"]).status.code(), Some(1), "the doctor tells");
        harness::run(folder.path(), follower);
        assert_eq!(texts(folder.path(), ADA).await, expected);
        harness::stdout(&harness::run(folder.path(), &["tenants", "delete", ADA]));
        assert_eq!(harness::run(folder.path(), &["doctor"]).status.code(), Some(1), "it is kept and told of");
        harness::stdout(&harness::run(folder.path(), &["tenants", "restore", ADA]));
        assert_eq!(texts(folder.path(), ADA).await, expected);
        harness::stdout(&harness::run(folder.path(), &["tenants", "purge", ADA, "--yes"]));
        in_order(folder.path());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_goes_on_after_a_user_it_cannot_mend() {
    let folder = killed_with_notes().await;
    cut(folder.path(), Cut::Deletion);
    let layout = layout(folder.path());
    // Which of two logs is the user's own, nobody can say.
    fs::write(wal_of(&layout.tenant(&id(ADA))), "another log").unwrap();
    harness::stdout(&harness::run(folder.path(), &["tenants", "delete", "user_new"]));
    fs::rename(layout.trashed(&id("user_new")), layout.tenant(&id("user_new"))).unwrap();
    assert_eq!(harness::run(folder.path(), &["doctor", "--fix"]).status.code(), Some(1));
    assert!(layout.trashed(&id("user_new")).exists(), "the other user is put right");
    assert!(fs::metadata(wal_of(&layout.trashed(&id(ADA)))).unwrap().len() > 0, "and nothing is lost");
    assert_eq!(fs::read(wal_of(&layout.tenant(&id(ADA)))).unwrap(), b"another log");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_misses_the_file_of_a_deleted_user_who_could_be_restored() {
    let folder = killed_with_notes().await;
    harness::stdout(&harness::run(folder.path(), &["tenants", "delete", ADA]));
    in_order(folder.path());
    fs::remove_file(layout(folder.path()).trashed(&id(ADA))).unwrap();
    let doctor = harness::run(folder.path(), &["doctor"]);
    assert_eq!(doctor.status.code(), Some(1), "{doctor:?}");
    assert!(String::from_utf8_lossy(&doctor.stdout).contains(ADA), "{doctor:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_in_quarantine_is_deleted_and_restored_as_it_was_found() {
    let folder = killed_with_notes().await;
    let places = layout(folder.path()).paths(&id(ADA));
    let mut damaged = fs::read(&places.live).unwrap();
    let half = damaged.len() / 2;
    damaged[4096..half].fill(0xA5);
    fs::write(&places.live, &damaged).unwrap();
    // Pages that the log has are read from there, so the log goes, but for its header.
    let log = fs::read(wal_of(&places.live)).unwrap()[..32].to_vec();
    fs::write(wal_of(&places.live), &log).unwrap();
    fs::remove_dir_all(layout(folder.path()).log()).unwrap();
    let server = Server::on(folder.path(), &[]).await;
    server.client.get(&format!("/{ADA}")).await.expect(503);
    server.stop().await;
    let row = harness::stdout(&harness::run(folder.path(), &["tenants", "show", ADA, "--json"]));
    assert!(row.contains("\"quarantined\""), "{row}");
    let found = [fs::read(&places.live).unwrap(), fs::read(wal_of(&places.live)).unwrap()];
    harness::stdout(&harness::run(folder.path(), &["tenants", "delete", ADA]));
    assert_eq!([fs::read(&places.trashed).unwrap(), fs::read(wal_of(&places.trashed)).unwrap()], found);
    harness::stdout(&harness::run(folder.path(), &["tenants", "restore", ADA]));
    assert_eq!([fs::read(&places.live).unwrap(), fs::read(wal_of(&places.live)).unwrap()], found);
}

#[tokio::test(flavor = "multi_thread")]
async fn adoptions_at_once_bring_each_user_their_own_data() {
    const PAIRS: usize = 24;
    let folder = TempDir::new().unwrap();
    let server = Process::start(folder.path(), &["--admin-api-key", ADMIN]);
    let admin = server.client.bearing(ADMIN);
    for n in 0..PAIRS {
        server.client.note(&format!("old{n}"), &format!("note of old{n}")).await;
        server.client.note(&format!("new{n}"), "to be given up").await;
        admin.delete(&format!("/api/admin/tenants/old{n}")).await.expect(200);
    }
    let adoptions: Vec<_> = (0..PAIRS)
        .map(|n| {
            let admin = admin.clone();
            tokio::spawn(async move {
                let body = json!({"from": format!("old{n}"), "replace": true});
                admin.post(&format!("/api/admin/tenants/new{n}/adopt"), body).await
            })
        })
        .collect();
    for (n, adoption) in adoptions.into_iter().enumerate() {
        let reply = adoption.await.unwrap();
        assert_eq!(reply.status, 200, "new{n}: {}", String::from_utf8_lossy(&reply.body));
    }
    for n in 0..PAIRS {
        assert_eq!(server.client.texts(&format!("new{n}")).await, [format!("note of old{n}")]);
    }
}

/// A store on a clock that is set by hand.
fn store(folder: &Path, change: impl FnOnce(&mut StoreOptions)) -> (Store, Arc<AtomicI64>) {
    let now = Arc::new(AtomicI64::new(1_700_000_000_000));
    let told = now.clone();
    let mut options = StoreOptions::new(folder);
    options.clock = Clock::new(move || told.load(Ordering::SeqCst));
    change(&mut options);
    (Store::open(options).unwrap(), now)
}

async fn close(store: Store) {
    store.close(tokio::time::Instant::now() + harness::PATIENCE).await;
}

async fn add_note(store: &Store, name: &str, text: &'static str) {
    let tenant = store.lease(&id(name)).await.unwrap();
    let insert = move |tx: &rusqlite::Transaction| Ok(tx.execute("INSERT INTO notes VALUES (?1, ?1, 1, 1)", [text])?);
    tenant.write(insert).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_is_restored_during_a_sweep_is_not_purged() {
    const DUE: usize = 20;
    let folder = TempDir::new().unwrap();
    let (store, now) = store(folder.path(), |_| {});
    let name = |n: usize| format!("user_{n:02}");
    for n in 0..DUE {
        store.create(&id(&name(n)), Profile::default(), &author()).await.unwrap();
        add_note(&store, &name(n), "kept").await;
        store.delete(&id(&name(n)), &author()).await.unwrap();
    }
    now.fetch_add(31 * 86_400_000, Ordering::SeqCst);

    // The sweep has its list and waits for the catalog while the restoration lines up behind it.
    let (release, released) = mpsc::channel::<()>();
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let catalog = store.catalog().clone();
    let writer = tokio::spawn(async move {
        let wait = move |_: &rusqlite::Transaction| {
            let _ = begun.send(());
            let _ = released.recv();
            Ok(())
        };
        catalog.write(wait).await
    });
    has_begun.await.unwrap();
    let sweep = tokio::spawn({
        let store = store.clone();
        async move { store.purge_due().await }
    });
    let last = id(&name(DUE - 1));
    let restore = tokio::spawn({
        let (store, last) = (store.clone(), last.clone());
        async move { store.restore(&last, &author()).await }
    });
    let live = store.layout().tenant(&last);
    harness::eventually("the file is back", async || live.exists()).await;
    drop(release);
    writer.await.unwrap().unwrap();
    restore.await.unwrap().unwrap();
    add_note(&store, last.as_str(), "written after").await;

    assert_eq!(sweep.await.unwrap().unwrap(), DUE as u64 - 1);
    let tenant = store.lease(&last).await.unwrap();
    let count = tenant.read(|conn| Ok(conn.query_row("SELECT count(*) FROM notes", [], |row| row.get::<_, i64>(0))?));
    assert_eq!(count.await.unwrap(), 2);
    drop(tenant);
    close(store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn purges_that_fail_do_not_keep_the_others() {
    const FAILING: usize = 150;
    let folder = TempDir::new().unwrap();
    let (store, now) = store(folder.path(), |_| {});
    let at = now.load(Ordering::SeqCst);
    let rows = move |tx: &rusqlite::Transaction| {
        for n in 0..=FAILING {
            let id = id(&format!("user_{n:03}"));
            queries::insert(tx, &id, at, 1, &Profile::default())?;
            queries::mark_deleted(tx, &id, at, at + n as i64)?;
        }
        Ok(())
    };
    store.catalog().write(rows).await.unwrap();
    for n in 0..FAILING {
        // A folder in a file's place cannot be removed as one.
        fs::create_dir(store.layout().trashed(&id(&format!("user_{n:03}")))).unwrap();
    }
    now.fetch_add(86_400_000, Ordering::SeqCst);
    assert_eq!(store.purge_due().await.unwrap(), 1);
    let last = store.find(&id(&format!("user_{FAILING:03}"))).await.unwrap().unwrap();
    assert!(last.purged.is_some());
    close(store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_usage_sample_is_not_written_to_a_tombstone() {
    let folder = TempDir::new().unwrap();
    let (store, _) = store(folder.path(), |options| options.max_open = Some(1));
    store.create(&id(ADA), Profile::default(), &author()).await.unwrap();
    add_note(&store, ADA, "one").await;
    let row = store.find(&id(ADA)).await.unwrap().unwrap();
    assert_eq!(row.bytes, None, "its size is not in the catalog yet");
    // Room for one alone: the first is closed, and its size waits to be written.
    store.create(&id("user_new"), Profile::default(), &author()).await.unwrap();
    store.purge(&id(ADA), &author()).await.unwrap();
    // Usage samples that wait are written at the close.
    close(store).await;
    let (store, _) = self::store(folder.path(), |_| {});
    let row = store.find(&id(ADA)).await.unwrap().unwrap();
    assert_eq!((row.state, row.bytes, row.last_seen, row.schema_version), (State::Deleted, None, None, None));
    close(store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_by_a_clock_that_is_behind_is_kept_for_the_whole_retention() {
    const DAY: i64 = 86_400_000;
    let folder = TempDir::new().unwrap();
    let (store, now) = store(folder.path(), |_| {});
    store.create(&id(ADA), Profile::default(), &author()).await.unwrap();
    let today = now.load(Ordering::SeqCst);
    let line = move |tx: &rusqlite::Transaction| author().record(tx, today, "tenants list", None, "200");
    store.catalog().write(line).await.unwrap();
    now.store(today - 1000 * DAY, Ordering::SeqCst);
    store.delete(&id(ADA), &author()).await.unwrap();
    now.store(today + 29 * DAY, Ordering::SeqCst);
    assert_eq!(store.purge_due().await.unwrap(), 0);
    now.store(today + 30 * DAY, Ordering::SeqCst);
    assert_eq!(store.purge_due().await.unwrap(), 1);
    close(store).await;
}
