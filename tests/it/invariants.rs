//! What holds for every input, looked for among random ones.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Component, PathBuf},
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use cubby::{
    Error, ErrorKind, TenantId,
    notes::{
        model::{NoteId, Page},
        queries,
    },
    sqlite::{
        combine::{Combiner, Limits},
        deadline::Deadline,
        migrate::Schema,
        open,
    },
    tenants::{disk::path::Layout, id::RESERVED, options::shipped_schema},
};
use proptest::{collection::vec, prelude::*, test_runner::Config};
use rusqlite::Connection;

fn cases(count: u32) -> Config {
    // A failure is shown in full; a file of old ones would be one more thing to keep.
    Config { cases: count, failure_persistence: None, ..Config::default() }
}

/// The grammar once more, said in another way.
fn is_id(bytes: &[u8]) -> bool {
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-.@:|+";
    (1..=128).contains(&bytes.len())
        && bytes.iter().all(|byte| ALPHABET.as_bytes().contains(byte))
        && ![&b"."[..], b".."].contains(&bytes)
        && !RESERVED.iter().any(|word| word.as_bytes() == bytes)
}

fn near_ids() -> impl Strategy<Value = Vec<u8>> {
    let words = RESERVED.iter().map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>();
    prop_oneof![
        vec(any::<u8>(), 0..8),
        "[A-Za-z0-9_.@:|+-]{0,140}".prop_map(String::into_bytes),
        "[./\\\\%a-c\u{0}é]{0,6}".prop_map(String::into_bytes),
        proptest::sample::select(words),
    ]
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn an_id_parses_exactly_when_the_grammar_says_so(bytes in near_ids()) {
        prop_assert_eq!(TenantId::parse(&bytes).is_ok(), is_id(&bytes));
    }

    #[test]
    fn every_id_has_a_path_of_its_own_inside_the_folder(ids in vec("[A-Za-z0-9_.@:|+-]{1,128}", 1..20)) {
        let layout = Layout::at(PathBuf::from("/data"));
        let mut seen: HashMap<String, TenantId> = HashMap::new();
        for id in ids.iter().filter_map(|text| text.parse::<TenantId>().ok()) {
            for path in [layout.tenant(&id), layout.trashed(&id)] {
                prop_assert!(path.starts_with("/data"));
                prop_assert!(path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_))));
            }
            let path = layout.tenant(&id);
            let parts: Vec<_> = path.strip_prefix("/data/tenants").unwrap().iter().map(|p| p.to_str().unwrap()).collect();
            prop_assert_eq!(parts.len(), 2);
            prop_assert!(parts[0].len() == 2 && parts[1].starts_with(parts[0]) && parts[1].ends_with(".db"));
            // Told apart even by a file system that does not tell cases apart.
            let other = seen.insert(path.to_string_lossy().to_lowercase(), id.clone());
            prop_assert!(other.is_none_or(|other| other == id));
        }
    }
}

fn memory() -> Connection {
    let mut conn = open::in_memory().unwrap();
    let schema: Schema = shipped_schema().unwrap();
    schema.apply(&mut conn, |_| Ok(())).unwrap();
    conn
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn a_walk_by_cursor_sees_every_note_once_in_order_whatever_the_page(
        ids in proptest::collection::btree_set("[a-c]{16}", 0..40),
        limit in 1..12usize,
        newest_first: bool,
        sizes in vec(prop_oneof![9 => 0..50usize, 1 => Just(5 << 20)], 40),
    ) {
        let mut conn = memory();
        let tx = conn.transaction().unwrap();
        for (id, size) in ids.iter().zip(sizes) {
            let insert = "INSERT INTO notes (id, text, created, updated) VALUES (?1, ?2, 0, 0)";
            tx.execute(insert, [format!("note_{id}"), "x".repeat(size)]).unwrap();
        }
        tx.commit().unwrap();
        let mut expected: Vec<String> = ids.iter().map(|id| format!("note_{id}")).collect();
        if newest_first {
            expected.reverse();
        }
        let mut page = Page { limit, cursor: None, newest_first };
        let mut seen = Vec::new();
        for _ in 0..=expected.len() {
            let json: serde_json::Value = serde_json::from_slice(&queries::list(&conn, &page).unwrap()).unwrap();
            let notes = json["notes"].as_array().unwrap();
            prop_assert!(notes.len() <= limit);
            seen.extend(notes.iter().map(|note| note["id"].as_str().unwrap().to_owned()));
            match json.get("next_cursor") {
                None => break,
                Some(cursor) => {
                    prop_assert!(!notes.is_empty(), "a page that has a next one is not empty");
                    page.cursor = Some(NoteId::parse(cursor.as_str().unwrap()).unwrap());
                }
            }
        }
        prop_assert_eq!(seen, expected);
    }
}

/// What a write in a batch does.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Does {
    Succeed,
    FailAfterWriting,
    FailOnAConstraint,
    Panic,
    Read,
}

proptest! {
    #![proptest_config(cases(100))]

    #[test]
    fn of_a_batch_exactly_the_writes_that_were_acknowledged_are_stored(
        jobs in vec(
            prop_oneof![
                4 => Just(Does::Succeed),
                1 => Just(Does::FailAfterWriting),
                1 => Just(Does::FailOnAConstraint),
                1 => Just(Does::Panic),
                1 => Just(Does::Read),
            ],
            1..40,
        ),
        batch in 1..20usize,
    ) {
        let (results, stored) = run_batch(&jobs, batch);
        let expected: BTreeSet<i64> = indices(&jobs, Does::Succeed);
        prop_assert_eq!(&stored, &expected);
        for (index, kind) in results {
            let does = jobs[usize::try_from(index).unwrap()];
            let expected = match does {
                Does::Succeed | Does::Read => None,
                Does::FailAfterWriting => Some(ErrorKind::Conflict),
                Does::FailOnAConstraint | Does::Panic => Some(ErrorKind::Internal),
            };
            prop_assert_eq!(kind, expected, "job {}, {:?}", index, does);
        }
    }
}

fn indices(jobs: &[Does], which: Does) -> BTreeSet<i64> {
    (0..).zip(jobs).filter(|(_, does)| **does == which).map(|(index, _)| index).collect()
}

/// Queues all jobs behind one that holds the connection, lets it go, and gives every answer and
/// what is in the table after.
fn run_batch(jobs: &[Does], batch: usize) -> (BTreeMap<i64, Option<ErrorKind>>, BTreeSet<i64>) {
    // Panics on purpose need not be printed.
    static QUIET: std::sync::Once = std::sync::Once::new();
    QUIET.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if info.payload_as_str() != Some("on purpose") {
                usual(info);
            }
        }));
    });
    let conn = memory();
    conn.execute_batch("CREATE TABLE numbers (n INTEGER PRIMARY KEY, CHECK (n >= 0))").unwrap();
    let combiner = Arc::new(Combiner::over(
        Some(conn),
        Deadline::none(),
        Limits { batch, statement: Duration::from_secs(60), ..Limits::default() },
        Box::new(|run| drop(std::thread::spawn(run))),
        Box::new(|_, _| Err(Error::internal("the connection was given up"))),
    ));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (release, held) = mpsc::channel::<()>();
    let (begun, begins) = mpsc::channel::<()>();
    let results = Arc::new(Mutex::new(BTreeMap::new()));
    runtime.block_on(async {
        let local = tokio::task::LocalSet::new();
        let first = combiner.clone();
        local.spawn_local(async move {
            first
                .write(
                    || (),
                    move |_| {
                        begun.send(()).unwrap();
                        held.recv().unwrap();
                        Ok(())
                    },
                )
                .await
                .unwrap();
        });
        for (index, does) in (0i64..).zip(jobs.iter().copied()) {
            let (combiner, results) = (combiner.clone(), results.clone());
            local.spawn_local(async move {
                let answer = match does {
                    Does::Read => combiner.read_queued(|| (), |conn| Ok(conn.execute_batch("SELECT 1")?)).await,
                    _ => combiner.write(|| (), move |tx| job(tx, index, does)).await,
                };
                results.lock().unwrap().insert(index, answer.err().map(|error| error.kind()));
            });
        }
        // Lets every task run up to its wait; then the first may go on.
        local
            .run_until(async move {
                tokio::task::spawn_local(async {}).await.unwrap();
                begins.recv().unwrap();
                release.send(()).unwrap();
            })
            .await;
        local.await;
    });
    let stored = combiner
        .with(|conn| {
            let mut statement = conn.prepare("SELECT n FROM numbers")?;
            Ok(statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
        })
        .unwrap();
    let results = std::mem::take(&mut *results.lock().unwrap());
    assert_eq!(results.len(), jobs.len(), "everyone is answered");
    (results, stored)
}

fn job(tx: &rusqlite::Transaction, index: i64, does: Does) -> cubby::Result<()> {
    tx.execute("INSERT INTO numbers VALUES (?1)", [index])?;
    match does {
        Does::Succeed | Does::Read => Ok(()),
        Does::FailAfterWriting => Err(Error::new(ErrorKind::Conflict, "changed my mind")),
        Does::FailOnAConstraint => Ok(tx.execute("INSERT INTO numbers VALUES (?1)", [-1 - index]).map(drop)?),
        Does::Panic => panic!("on purpose"),
    }
}
