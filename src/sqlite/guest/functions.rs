//! SQLite's functions that take a time of the product of their arguments' lengths, so that one call could take minutes,
//! and no clock is looked at meanwhile. Here they are again, with the same results, in a time of their sum; those that
//! are too rare for that ask SQLite itself and refuse what would take long.
//!
//! They stay on a connection and are this program's own, too. An index or a check may call them, so the results are the
//! same for every input.

#[cfg(test)]
mod tests;

use std::{
    cell::OnceCell,
    collections::HashSet,
    ffi::{CStr, c_char, c_int, c_void},
};

use memchr::memmem;
use rusqlite::{Connection, ffi};

use crate::{
    error::Result,
    sqlite::{authorizer, deadline, memory, open},
};

// Not in the bindings; in SQLite since 3.44.
unsafe extern "C" {
    fn sqlite3_get_clientdata(db: *mut ffi::sqlite3, name: *const c_char) -> *mut c_void;
    fn sqlite3_set_clientdata(
        db: *mut ffi::sqlite3,
        name: *const c_char,
        data: *mut c_void,
        destructor: Option<unsafe extern "C" fn(*mut c_void)>,
    ) -> c_int;
}

/// The flag of a function whose result has a subtype.
const RESULT_SUBTYPE: c_int = 0x0100_0000;

/// Says that a connection has them.
const MARK: &CStr = c"cubby functions";

type Function = unsafe extern "C" fn(*mut ffi::sqlite3_context, c_int, *mut *mut ffi::sqlite3_value);

/// Which ends `trim` and its like cut off.
static ENDS: [(bool, bool); 3] = [(true, true), (true, false), (false, true)];

/// A function that SQLite itself is asked for.
struct Asked {
    name: &'static CStr,
    sql: &'static CStr,
    /// The largest product of its arguments' lengths: what takes half a second.
    most: u64,
    is_json: bool,
}

static ASKED: [Asked; 3] = [
    Asked { name: c"json_patch", sql: c"SELECT json_patch(?1, ?2)", most: 1 << 30, is_json: true },
    Asked { name: c"jsonb_patch", sql: c"SELECT jsonb_patch(?1, ?2)", most: 1 << 30, is_json: false },
    Asked { name: c"unhex", sql: c"SELECT unhex(?1, ?2)", most: 1 << 29, is_json: false },
];

/// Puts them on a connection that has no statement running, and the authorizer, once.
pub(super) fn install(conn: &Connection) -> Result<()> {
    // SAFETY: the handle is live for the length of the calls; the mark is a static text and never freed.
    unsafe {
        let db = conn.handle();
        if !sqlite3_get_clientdata(db, MARK.as_ptr()).is_null() {
            return Ok(());
        }
        authorizer::install(conn)?;
        let none = std::ptr::null();
        create(db, (c"instr", 2), 0, instr, none)?;
        create(db, (c"replace", 3), 0, replace, none)?;
        for (name, ends) in [c"trim", c"ltrim", c"rtrim"].into_iter().zip(&ENDS) {
            create(db, (name, 2), 0, trim, std::ptr::from_ref(ends).cast())?;
        }
        for asked in &ASKED {
            let flags = if asked.is_json { RESULT_SUBTYPE } else { 0 };
            create(db, (asked.name, 2), flags, ask, std::ptr::from_ref(asked).cast())?;
        }
        check(sqlite3_set_clientdata(db, MARK.as_ptr(), MARK.as_ptr().cast_mut().cast(), None))
    }
}

unsafe fn create(
    db: *mut ffi::sqlite3,
    (name, arguments): (&CStr, c_int),
    flags: c_int,
    function: Function,
    data: *const c_void,
) -> Result<()> {
    // As SQLite's own: usable in indexes and in a schema that is not trusted.
    let flags = flags | ffi::SQLITE_UTF8 | ffi::SQLITE_DETERMINISTIC | ffi::SQLITE_INNOCUOUS;
    // SAFETY: `db` is live; `data` is static.
    check(unsafe {
        let data = data.cast_mut();
        ffi::sqlite3_create_function_v2(db, name.as_ptr(), arguments, flags, data, Some(function), None, None, None)
    })
}

fn check(code: c_int) -> Result<()> {
    match code {
        ffi::SQLITE_OK => Ok(()),
        code => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None).into()),
    }
}

/// An argument as text; none for NULL.
unsafe fn text<'a>(value: *mut ffi::sqlite3_value) -> Option<&'a [u8]> {
    // SAFETY: the value is a function's argument, and stays as it is until the function returns.
    unsafe {
        let start = ffi::sqlite3_value_text(value);
        let length = usize::try_from(ffi::sqlite3_value_bytes(value)).unwrap_or(0);
        (!start.is_null()).then(|| std::slice::from_raw_parts(start, length))
    }
}

/// An argument's bytes, whatever it is.
unsafe fn blob<'a>(value: *mut ffi::sqlite3_value) -> &'a [u8] {
    // SAFETY: as `text`.
    unsafe {
        let start: *const u8 = ffi::sqlite3_value_blob(value).cast();
        let length = usize::try_from(ffi::sqlite3_value_bytes(value)).unwrap_or(0);
        if start.is_null() { &[] } else { std::slice::from_raw_parts(start, length) }
    }
}

unsafe fn answer_text(context: *mut ffi::sqlite3_context, text: &[u8]) {
    // SAFETY: SQLite copies the text, and refuses one that is too long.
    unsafe {
        match c_int::try_from(text.len()) {
            Ok(length) => {
                ffi::sqlite3_result_text(context, text.as_ptr().cast(), length, ffi::SQLITE_TRANSIENT());
            }
            Err(_) => ffi::sqlite3_result_error_toobig(context),
        }
    }
}

/// Whether there is time for a call. Else the statement is interrupted: SQLite looks at no clock between two functions.
unsafe fn is_in_time(context: *mut ffi::sqlite3_context) -> bool {
    let is_over = deadline::is_over();
    if is_over {
        // SAFETY: it is the context of the call.
        unsafe { ffi::sqlite3_result_error_code(context, ffi::SQLITE_INTERRUPT) }
    }
    !is_over
}

/// `instr(X,Y)`: where Y first is in X, in characters, or in bytes if both are blobs.
unsafe extern "C" fn instr(context: *mut ffi::sqlite3_context, _: c_int, arguments: *mut *mut ffi::sqlite3_value) {
    // SAFETY: SQLite calls it with two arguments; copies are freed.
    unsafe {
        if !is_in_time(context) {
            return;
        }
        let (x, y) = (*arguments, *arguments.add(1));
        let is = |value, kind| ffi::sqlite3_value_type(value) == kind;
        if is(x, ffi::SQLITE_NULL) || is(y, ffi::SQLITE_NULL) {
            return;
        }
        let found = match (is(x, ffi::SQLITE_BLOB), is(y, ffi::SQLITE_BLOB)) {
            (true, true) => Some(memmem::find(blob(x), blob(y)).map_or(0, |at| at + 1)),
            (false, false) => place(text(x), text(y)),
            // Read as text, a blob would become one for whoever else has it.
            _ => {
                let copies = (ffi::sqlite3_value_dup(x), ffi::sqlite3_value_dup(y));
                let found =
                    if copies.0.is_null() || copies.1.is_null() { None } else { place(text(copies.0), text(copies.1)) };
                ffi::sqlite3_value_free(copies.0);
                ffi::sqlite3_value_free(copies.1);
                found
            }
        };
        match found {
            Some(found) => ffi::sqlite3_result_int64(context, i64::try_from(found).unwrap_or(0)),
            None => ffi::sqlite3_result_error_nomem(context),
        }
    }
}

/// The place of a character where `needle` is, from 1 on; 0 if it is nowhere.
fn place(haystack: Option<&[u8]>, needle: Option<&[u8]>) -> Option<usize> {
    let (haystack, needle) = (haystack?, needle?);
    let continues = |byte: &u8| byte & 0xc0 == 0x80;
    Some(match memmem::find(haystack, needle) {
        // A character begins at the start, and at each byte that continues none.
        Some(0) => 1,
        Some(at) if !needle.first().is_some_and(continues) => {
            1 + haystack.iter().take(at + 1).skip(1).filter(|byte| !continues(byte)).count()
        }
        _ => 0,
    })
}

/// `replace(X,Y,Z)`: X with Z for each Y.
unsafe extern "C" fn replace(context: *mut ffi::sqlite3_context, _: c_int, arguments: *mut *mut ffi::sqlite3_value) {
    // SAFETY: SQLite calls it with three arguments.
    unsafe {
        if !is_in_time(context) {
            return;
        }
        let Some(x) = text(*arguments) else { return };
        let Some(y) = text(*arguments.add(1)) else { return };
        if y.first().is_none_or(|byte| *byte == 0) {
            return answer_text(context, x);
        }
        let Some(z) = text(*arguments.add(2)) else { return };
        let db = ffi::sqlite3_context_db_handle(context);
        let most = usize::try_from(ffi::sqlite3_limit(db, ffi::SQLITE_LIMIT_LENGTH, -1)).unwrap_or(0);
        let (mut out, mut rest) = (Vec::with_capacity(x.len()), 0);
        for at in memmem::find_iter(x, y) {
            out.extend_from_slice(x.get(rest..at).unwrap_or_default());
            out.extend_from_slice(z);
            rest = at + y.len();
            if out.len() > most {
                return ffi::sqlite3_result_error_toobig(context);
            }
        }
        out.extend_from_slice(x.get(rest..).unwrap_or_default());
        answer_text(context, &out);
    }
}

/// `trim(X,Y)`, `ltrim(X,Y)` and `rtrim(X,Y)`: X without the characters of Y at its ends.
unsafe extern "C" fn trim(context: *mut ffi::sqlite3_context, _: c_int, arguments: *mut *mut ffi::sqlite3_value) {
    // SAFETY: SQLite calls it with two arguments, and with what `install` gave it.
    unsafe {
        if !is_in_time(context) {
            return;
        }
        let (Some(x), Some(y)) = (text(*arguments), text(*arguments.add(1))) else { return };
        let (start, end) = *ffi::sqlite3_user_data(context).cast::<(bool, bool)>();
        match trimmed(x, y, start, end) {
            Some(left) => answer_text(context, left),
            None => refuse(context, c"trim: the texts are no UTF-8, and too long together"),
        }
    }
}

/// None if it would take too long: more than some milliseconds.
fn trimmed<'x>(x: &'x [u8], y: &[u8], start: bool, end: bool) -> Option<&'x [u8]> {
    const MOST: usize = 1 << 20;
    let y = y.split(|byte| *byte == 0).next().unwrap_or_default();
    if let (Ok(x), Ok(y)) = (std::str::from_utf8(x), std::str::from_utf8(y)) {
        // One or two are the usual case.
        let few: Option<Vec<char>> = (y.len() <= 16).then(|| y.chars().collect());
        let many: HashSet<char> = if few.is_none() { y.chars().collect() } else { HashSet::new() };
        let is_one = |c: char| few.as_ref().map_or_else(|| many.contains(&c), |few| few.contains(&c));
        let x = if start { x.trim_start_matches(is_one) } else { x };
        let x = if end { x.trim_end_matches(is_one) } else { x };
        return Some(x.as_bytes());
    }
    // What SQLite takes for characters may be the beginning or the end of others here, and the first one counts.
    let characters = characters(y);
    if x.len().saturating_mul(y.len()) > MOST {
        return None;
    }
    let mut x = x;
    while let Some(rest) = characters.iter().find_map(|c| x.strip_prefix(*c)).filter(|_| start && !x.is_empty()) {
        x = rest;
    }
    while let Some(rest) = characters.iter().find_map(|c| x.strip_suffix(*c)).filter(|_| end && !x.is_empty()) {
        x = rest;
    }
    Some(x)
}

/// The characters of a text that may be no UTF-8, as SQLite tells them apart.
fn characters(mut text: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while let [first, rest @ ..] = text {
        let more = if *first < 0xc0 { 0 } else { rest.iter().take_while(|byte| **byte & 0xc0 == 0x80).count() };
        let (character, after) = text.split_at(1 + more);
        found.push(character);
        text = after;
    }
    found
}

unsafe fn refuse(context: *mut ffi::sqlite3_context, why: &CStr) {
    // SAFETY: SQLite copies the text.
    unsafe { ffi::sqlite3_result_error(context, why.as_ptr(), -1) }
}

thread_local! {
    /// A connection that has SQLite's own functions.
    static OWN: OnceCell<Connection> = const { OnceCell::new() };
}

/// Asks SQLite itself, if that does not take too long.
unsafe extern "C" fn ask(context: *mut ffi::sqlite3_context, _: c_int, arguments: *mut *mut ffi::sqlite3_value) {
    // SAFETY: SQLite calls it with two arguments, and with what `install` gave it. The statement is finalized.
    unsafe {
        if !is_in_time(context) {
            return;
        }
        let asked = &*ffi::sqlite3_user_data(context).cast::<Asked>();
        let length = |n| u64::try_from(ffi::sqlite3_value_bytes(*arguments.add(n))).unwrap_or(0);
        if length(0).saturating_mul(length(1)) > asked.most {
            return refuse(context, c"the arguments are too long together; use shorter ones");
        }
        let answered = OWN.try_with(|own| {
            if own.get().is_none() {
                // Not at the caller's expense: it is there for all who come later on this thread.
                let Ok(opened) = memory::unlimited(open::in_memory) else { return false };
                let _ = own.set(opened);
            }
            let Some(own) = own.get() else { return false };
            let (db, mut statement) = (own.handle(), std::ptr::null_mut());
            let mut code =
                ffi::sqlite3_prepare_v2(db, asked.sql.as_ptr(), -1, &raw mut statement, std::ptr::null_mut());
            for n in 0..2 {
                if code == ffi::SQLITE_OK {
                    code = ffi::sqlite3_bind_value(statement, n + 1, *arguments.add(usize::try_from(n).unwrap_or(0)));
                }
            }
            if code == ffi::SQLITE_OK && ffi::sqlite3_step(statement) == ffi::SQLITE_ROW {
                ffi::sqlite3_result_value(context, ffi::sqlite3_column_value(statement, 0));
                if asked.is_json {
                    ffi::sqlite3_result_subtype(context, u32::from(b'J'));
                }
            } else if ffi::sqlite3_errcode(db) & 0xff == ffi::SQLITE_NOMEM {
                ffi::sqlite3_result_error_nomem(context);
            } else {
                ffi::sqlite3_result_error(context, ffi::sqlite3_errmsg(db), -1);
            }
            ffi::sqlite3_finalize(statement);
            true
        });
        if !answered.unwrap_or(false) {
            ffi::sqlite3_result_error_nomem(context);
        }
    }
}
