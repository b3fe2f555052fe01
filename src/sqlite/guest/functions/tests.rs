//! The results are those of SQLite itself, and none takes long.

use std::time::{Duration, Instant};

use rusqlite::types::Value;

use super::*;

fn both() -> (Connection, Connection) {
    let guarded = open::in_memory().unwrap();
    install(&guarded).unwrap();
    install(&guarded).unwrap();
    (open::in_memory().unwrap(), guarded)
}

fn run(conn: &Connection, sql: &str, arguments: &[Value]) -> std::result::Result<Vec<Value>, String> {
    let row = |row: &rusqlite::Row<'_>| -> rusqlite::Result<Vec<Value>> {
        (0..row.as_ref().column_count()).map(|n| row.get(n)).collect()
    };
    conn.query_row(sql, rusqlite::params_from_iter(arguments), row).map_err(|error| error.to_string())
}

#[test]
fn the_results_are_sqlites_own_for_every_input() {
    let (own, guarded) = both();
    let mut values = vec![Value::Null, Value::Integer(-1201), Value::Real(1.5), Value::Real(1e300)];
    for bytes in [
        &b""[..],
        b" ",
        b"a",
        b"aa",
        b"aba",
        b"abcabc",
        "é".as_bytes(),
        "éa é€😀".as_bytes(),
        "😀".as_bytes(),
        b"\xc3",
        b"\xa9",
        b"\x80\x80",
        b"a\xa9\xc3",
        b"\xc3\xa9\xa9",
        b"a\0b",
        b"\0",
        b"12",
        b"{\"a\":1}",
        b"{\"a\":null,\"b\":[1]}",
        b"[1]",
        b"AB 12",
    ] {
        values.push(Value::Blob(bytes.to_vec()));
    }
    let asked = [
        "instr(?1,?2)",
        "replace(?1,?2,?3)",
        "trim(?1,?2)",
        "ltrim(?1,?2)",
        "rtrim(?1,?2)",
        "unhex(?1,?2)",
        "json_patch(?1,?2)",
        "json_array(json_patch(?1,?2))",
        "jsonb_patch(?1,?2)",
    ];
    let mut compared = 0;
    for sql in asked {
        for (x, y) in values.iter().flat_map(|x| values.iter().map(move |y| (x, y))) {
            for z in [Value::Blob(b"zz".to_vec()), Value::Null, Value::Integer(7)] {
                for (cast_x, cast_y) in [(false, false), (true, false), (false, true), (true, true)] {
                    let text = |cast: bool, name: &str| {
                        if cast { format!("CAST({name} AS TEXT)") } else { name.to_owned() }
                    };
                    let sql = sql.replace("?1", &text(cast_x, "?1")).replace("?2", &text(cast_y, "?2"));
                    let sql = format!("SELECT {sql} IS NULL, typeof({sql}), CAST({sql} AS BLOB), ?3");
                    let arguments = [x.clone(), y.clone(), z.clone()];
                    let (wanted, found) = (run(&own, &sql, &arguments), run(&guarded, &sql, &arguments));
                    assert_eq!(found, wanted, "{sql} {arguments:?}");
                    compared += 1;
                }
                if !sql.contains("?3") {
                    break;
                }
            }
        }
    }
    assert!(compared > 10_000);
}

#[test]
fn none_begins_when_the_time_is_over() {
    let (own, guarded) = both();
    for sql in ["instr('a','b')", "replace('a','b','c')", "trim('a','b')", "json_patch('{}','{}')", "unhex('','')"] {
        let sql = format!("SELECT {sql}");
        let late = |conn| deadline::until(Instant::now(), || run(conn, &sql, &[]));
        assert!(late(&guarded).unwrap_err().contains("interrupted"), "{sql}");
        late(&own).unwrap();
        run(&guarded, &sql, &[]).unwrap();
    }
}

/// What this thread has used of a processor: on a busy machine the time of day says more about others.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of this function's own.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) }, 0);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
}

#[test]
fn none_takes_long_and_what_would_is_refused() {
    let (_, guarded) = both();
    guarded
        .execute_batch("CREATE TABLE t (a, b, c, d, e); CREATE INDEX i ON t (trim(a, 'x'), replace(a, 'b', 'c'))")
        .unwrap();
    let insert = "INSERT INTO t VALUES (replace(hex(zeroblob(2000000)), '0', 'a'), \
                  replace(hex(zeroblob(1000000)), '0', 'a') || 'b', CAST(zeroblob(1000000) AS TEXT), \
                  '{' || replace(hex(zeroblob(200000)), '0', '\"a\":1,') || '\"b\":1}', \
                  CAST(replace(hex(zeroblob(1000000)), '0', x'80') AS TEXT))";
    guarded.execute_batch(insert).unwrap();
    for (sql, refused) in [
        ("instr(a, b)", false),
        ("instr(a || e, e || 'a')", false),
        ("instr(CAST(a AS BLOB), CAST(b AS BLOB))", false),
        ("replace(a, b, 'x')", false),
        ("replace(a, 'a', 'bb')", false),
        ("trim(a, b)", false),
        ("trim(b, a)", false),
        ("trim(e || e, e || 'a')", true),
        ("unhex(a, b)", true),
        ("json_patch(d, d)", true),
    ] {
        let began = processor_time();
        let result = run(&guarded, &format!("SELECT length({sql}) FROM t"), &[]);
        let took = processor_time().saturating_sub(began);
        assert_eq!(result.is_err(), refused, "{sql}: {result:?}");
        assert!(took < Duration::from_secs(5), "{sql}: {took:?}");
    }
    assert_eq!(run(&guarded, "PRAGMA integrity_check", &[]).unwrap(), [Value::Text("ok".into())]);
}
