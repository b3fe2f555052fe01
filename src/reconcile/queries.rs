//! SQL of the provider's list.

use rusqlite::{Connection, Row as SqlRow, named_params, params, types::Type};

use crate::{catalog::model::Profile, identity::user::User, tenants::id::TenantId};

type Sql<T> = rusqlite::Result<T>;

pub(super) fn create(conn: &Connection) -> Sql<()> {
    conn.execute_batch(
        "CREATE TABLE users (id TEXT NOT NULL PRIMARY KEY, email TEXT, first TEXT, last TEXT, username TEXT, image \
         TEXT, role TEXT, updated INTEGER, metadata TEXT) STRICT, WITHOUT ROWID; CREATE TABLE unusable (id TEXT NOT \
         NULL PRIMARY KEY) STRICT, WITHOUT ROWID; CREATE TABLE absent (id TEXT NOT NULL PRIMARY KEY) STRICT, WITHOUT \
         ROWID",
    )
}

pub(super) fn add(conn: &Connection, user: &User) -> Sql<()> {
    let profile = &user.profile;
    conn.prepare_cached(
        "INSERT OR REPLACE INTO users VALUES (:id, :email, :first, :last, :username, :image, :role, :updated, \
         :metadata)",
    )?
    .execute(named_params! {
        ":id": user.id.as_str(), ":email": profile.email, ":first": profile.first_name, ":last": profile.last_name,
        ":username": profile.username, ":image": profile.image_url, ":role": profile.role,
        ":updated": profile.provider_updated_at, ":metadata": profile.provider_metadata,
    })?;
    Ok(())
}

pub(super) fn add_unusable(conn: &Connection, id: &String) -> Sql<()> {
    conn.prepare_cached("INSERT OR IGNORE INTO unusable VALUES (?1)")?.execute([id])?;
    Ok(())
}

pub(super) fn holds(conn: &Connection, id: &str) -> Sql<bool> {
    conn.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM users WHERE id = ?1) OR EXISTS (SELECT 1 FROM unusable WHERE id = ?1)",
    )?
    .query_row([id], |row| row.get(0))
}

pub(super) fn unusable(conn: &Connection, mut each: impl FnMut(&str)) -> Sql<()> {
    let mut statement = conn.prepare("SELECT id FROM unusable ORDER BY id")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        each(row.get_ref(0)?.as_str()?);
    }
    Ok(())
}

pub(super) fn users(conn: &Connection, after: &str, limit: u32) -> Sql<Vec<User>> {
    conn.prepare_cached("SELECT * FROM users WHERE id > ?1 ORDER BY id LIMIT ?2")?
        .query_map(params![after, limit], |row| {
            let profile = Profile {
                email: row.get(1)?,
                first_name: row.get(2)?,
                last_name: row.get(3)?,
                username: row.get(4)?,
                image_url: row.get(5)?,
                role: row.get(6)?,
                provider_updated_at: row.get(7)?,
                provider_event_at: None,
                provider_metadata: row.get(8)?,
            };
            Ok(User { id: id(row)?, profile })
        })?
        .collect()
}

pub(super) fn set_absent(conn: &Connection, id: &TenantId) -> Sql<()> {
    conn.prepare_cached("INSERT OR IGNORE INTO absent VALUES (?1)")?.execute([id.as_str()])?;
    Ok(())
}

pub(super) fn unset_absent(conn: &Connection, id: &TenantId) -> Sql<()> {
    conn.prepare_cached("DELETE FROM absent WHERE id = ?1")?.execute([id.as_str()])?;
    Ok(())
}

pub(super) fn absent(conn: &Connection, after: &str, limit: u32) -> Sql<Vec<TenantId>> {
    conn.prepare_cached("SELECT id FROM absent WHERE id > ?1 ORDER BY id LIMIT ?2")?
        .query_map(params![after, limit], id)?
        .collect()
}

fn id(row: &SqlRow) -> Sql<TenantId> {
    let text: String = row.get(0)?;
    text.parse().map_err(|e| rusqlite::Error::FromSqlConversionFailure(0, Type::Text, Box::new(e)))
}
