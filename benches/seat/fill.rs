//! A catalog of many tenants with names and addresses, and no files: lists and searches do not look at those.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use cubby::{
    Store, StoreOptions,
    catalog::model::Millis,
    rusqlite::{self, Connection, Transaction, params},
    tenants::id::TenantId,
};

/// When the first was created; each further one is a little younger.
const FIRST: Millis = 1_700_000_000_000;
const BETWEEN: Millis = 60_000;

/// Longer than any retention: the server is not to purge them.
const FAR: Millis = 10_000_000_000_000;

const FIRST_NAMES: [&str; 40] = [
    "Adele",
    "Alexander",
    "Amir",
    "Andrea",
    "Beatrice",
    "Benjamin",
    "Camille",
    "Charlotte",
    "Daniel",
    "Diana",
    "Elena",
    "Emil",
    "Fatima",
    "Florian",
    "Gabriel",
    "Hannah",
    "Ibrahim",
    "Ingrid",
    "Jonathan",
    "Julia",
    "Karim",
    "Katharina",
    "Lars",
    "Leonardo",
    "Magdalena",
    "Marcus",
    "Natalia",
    "Oliver",
    "Patricia",
    "Quentin",
    "Rebecca",
    "Samuel",
    "Sofia",
    "Theodor",
    "Ursula",
    "Valentina",
    "Wilhelm",
    "Xavier",
    "Yasmin",
    "Zoe",
];

const LAST_NAMES: [&str; 40] = [
    "Abernathy",
    "Andersen",
    "Baker",
    "Bianchi",
    "Carlson",
    "Castillo",
    "Dubois",
    "Eriksson",
    "Fernandez",
    "Fischer",
    "Garcia",
    "Gonzalez",
    "Haddad",
    "Hoffmann",
    "Ivanov",
    "Jackson",
    "Johansson",
    "Kowalski",
    "Kumar",
    "Larsen",
    "Lindqvist",
    "Martinez",
    "Moreau",
    "Nakamura",
    "Nowak",
    "Okafor",
    "Olsen",
    "Petrov",
    "Quinn",
    "Richardson",
    "Rossi",
    "Schneider",
    "Silva",
    "Tanaka",
    "Thompson",
    "Ulrich",
    "Vasquez",
    "Weber",
    "Yilmaz",
    "Zimmermann",
];

const DOMAINS: [&str; 6] =
    ["example.com", "mail.example.org", "example.net", "company.example", "post.example.de", "students.example.edu"];

/// Nobody has both of these.
pub const STRANGERS: &str = "Leonardo Fernandez";

/// The name of few.
pub const RARE: &str = "Quillfeather";

/// One in so many has it.
const RARE_OF: u32 = 5_000;

/// What the `n`th tenant is.
pub struct Person {
    pub id: TenantId,
    pub first_name: &'static str,
    pub last_name: &'static str,
    pub email: String,
    pub state: &'static str,
    pub created: Millis,
    pub seen: Option<Millis>,
    pub bytes: Option<i64>,
}

/// A number that is as good as random.
pub fn mixed(n: u64) -> u64 {
    let mut z = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// An id as a provider makes them: it begins with a time, and goes on at random.
fn id(n: u32) -> TenantId {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut text = "user_2".to_owned();
    let time = (0..5).rev().map(|place| u64::from(n) * 64 / 62_u64.pow(place) % 62);
    let random = (0..21).map(|place| mixed(u64::from(n) << 8 | place) % 62);
    text.extend(time.chain(random).map(|digit| char::from(DIGITS[digit as usize])));
    text.parse().unwrap()
}

pub fn person(n: u32) -> Person {
    let random = mixed(u64::from(n) + (1 << 40));
    let of = |shift: u32, number: u64| (random >> shift) % number;
    let first_name = FIRST_NAMES[of(0, 40) as usize];
    let mut last_name = LAST_NAMES[of(8, 40) as usize];
    if format!("{first_name} {last_name}") == STRANGERS {
        last_name = "Fischer";
    }
    if n % RARE_OF == RARE_OF / 2 {
        last_name = RARE;
    }
    let domain = DOMAINS[of(16, 6) as usize];
    let email = format!("{first_name}.{last_name}{n}@{domain}").to_lowercase();
    let state = match of(24, 1000) {
        0..10 => "suspended",
        10..20 => "deleted",
        20 => "quarantined",
        _ => "active",
    };
    let created = FIRST + i64::from(n) * BETWEEN;
    Person {
        id: id(n),
        first_name,
        last_name,
        email,
        state,
        created,
        seen: (of(34, 5) > 0).then(|| created + of(40, 10_000_000_000) as i64),
        // Many have the same size.
        bytes: (of(37, 10) > 0).then(|| 28_672 + 4096 * (of(44, 1 << 20) as f64).sqrt() as i64),
    }
}

/// Makes a folder with so many in its catalog: straight into its tables, by a connection that flushes nothing.
pub async fn run(data: &Path, count: u32) {
    let began = Instant::now();
    let store = Store::open(StoreOptions::new(data)).unwrap();
    let (version, catalog) = (store.schema().version(), store.layout().catalog());
    store.close(tokio::time::Instant::now() + Duration::from_secs(60)).await;
    drop(store);
    let mut conn = Connection::open(catalog).unwrap();
    // The store's last threads may have yet to let go of it.
    conn.busy_timeout(Duration::from_secs(10)).unwrap();
    let unsafely = "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -1000000";
    while let Err(error) = conn.execute_batch(unsafely) {
        assert!(began.elapsed() < Duration::from_secs(30), "{error}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let tx = conn.transaction().unwrap();
    insert(&tx, count, version).unwrap();
    tx.commit().unwrap();
    conn.execute_batch("PRAGMA journal_mode = WAL").unwrap();
    println!("a catalog of {count}, made in {:.0?}", began.elapsed());
}

fn insert(tx: &Transaction, count: u32, version: i32) -> rusqlite::Result<()> {
    let mut insert = tx.prepare(
        "INSERT INTO tenants (id, state, reason, created, deleted, purge_after, schema_version, schema_digest, bytes, \
         last_seen, email, first_name, last_name) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, (SELECT digest FROM \
         current_schema), ?8, ?9, ?10, ?11, ?12)",
    )?;
    for n in 0..count {
        let one = person(n);
        let reason = (one.state != "active" && one.state != "deleted").then_some("for the benchmark");
        let deleted = (one.state == "deleted").then_some(one.created);
        let values = params![
            one.id.as_str(),
            one.state,
            reason,
            one.created,
            deleted,
            deleted.map(|_| FAR),
            version,
            one.bytes,
            one.seen,
            one.email,
            one.first_name,
            one.last_name
        ];
        insert.execute(values)?;
    }
    Ok(())
}
