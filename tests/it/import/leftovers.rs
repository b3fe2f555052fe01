//! What a crash in the midst of an import leaves, and who finds it.

use std::{
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::json;
use sha2::{Digest, Sha256};

use super::{ADMIN, Import};
use crate::harness::shell;

/// The folder of what imports for a user replaced.
fn folder(import: &Import, id: &str) -> PathBuf {
    import.server.app.store().layout().paths(&id.parse().unwrap()).replaced
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn text(file: &Path) -> String {
    shell(file).query_row("SELECT text FROM notes", [], |row| row.get(0)).unwrap()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    BeforeTheExchange,
    AfterIt,
}

/// Makes what a crash leaves of an import a minute ago, and gives the name under which that would have been kept.
fn leave(import: &Import, id: &str, content: &[u8], cut: Cut) -> PathBuf {
    let folder = folder(import, id);
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("file");
    std::fs::write(&file, content).unwrap();
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() - 60_000;
    // The name has the digest of the new file, which after the exchange is another one.
    let mut sha256: [u8; 32] = Sha256::digest(content).into();
    sha256[0] ^= u8::from(cut == Cut::AfterIt);
    std::fs::rename(&file, folder.join(format!("{at}-{}.new", hex::encode(sha256)))).unwrap();
    folder.join(format!("{at}.db"))
}

#[tokio::test]
async fn a_copy_of_a_new_file_does_not_take_the_place_of_what_there_was_first() {
    let import = Import::start().await;
    import.server.client.note("ada", "from ada").await;
    import.server.client.note("ben", "the original").await;
    let file = import.export("ada", "").await;
    let kept = leave(&import, "ben", &file, Cut::BeforeTheExchange);
    let mut replaced = Vec::new();
    for _ in 0..12 {
        let report = import.put("ben/import?replace=true", file.clone()).await.expect(200).json();
        replaced.push(report["replaced"].as_str().unwrap().to_owned());
    }
    assert_eq!(text(Path::new(&replaced[0])), "the original");
    let there = names(&folder(&import, "ben"));
    assert!(there.len() == 8 && there.iter().all(|name| name.ends_with(".db")), "{there:?}");
    assert!(!kept.exists());
    import.stop().await;
}

#[tokio::test]
async fn what_an_import_replaced_that_was_cut_short_is_kept_by_the_next_one_or_the_sweep() {
    let import = Import::start().await;
    import.server.client.note("ada", "from ada").await;
    let file = import.export("ada", "").await;
    for user in ["next", "sweep"] {
        import.server.client.note(user, "the original").await;
        let mut original = import.export(user, "").await;
        // In WAL mode (https://sqlite.org/fileformat2.html#file_format_version_numbers), as it was in use.
        original[18..20].fill(2);
        import.put(&format!("{user}/import?replace=true"), file.clone()).await.expect(200);
        std::fs::remove_dir_all(folder(&import, user)).unwrap();
        let kept = leave(&import, user, &original, Cut::AfterIt);
        let files = match user {
            "next" => {
                import.put(&format!("{user}/import?replace=true"), file.clone()).await.expect(200);
                2
            }
            _ => {
                assert_eq!(import.server.app.store().remove_replaced().unwrap(), 0, "its retention has not ended");
                1
            }
        };
        let there = names(&folder(&import, user));
        assert!(there.len() == files && there.iter().all(|name| name.ends_with(".db")), "{user}: {there:?}");
        // So it can be imported again.
        let content = std::fs::read(&kept).unwrap();
        assert_eq!(content[18..20], [1, 1], "{user}");
        import.put(&format!("{user}/import?replace=true"), content).await.expect(200);
        assert_eq!(import.server.client.texts(user).await, ["the original"]);
    }
    import.stop().await;
}

#[tokio::test]
async fn a_purge_removes_what_a_crash_left_of_an_import() {
    let import = Import::start().await;
    let operator = import.server.client.bearing(ADMIN);
    for (user, cut) in [("ben", Cut::BeforeTheExchange), ("eve", Cut::AfterIt)] {
        import.server.client.note(user, "theirs").await;
        let content = import.export(user, "").await;
        leave(&import, user, &content, cut);
        operator.delete(&format!("/api/admin/tenants/{user}")).await.expect(200);
        operator.post(&format!("/api/admin/tenants/{user}/purge"), json!({"yes": true})).await.expect(200);
        assert!(!folder(&import, user).exists(), "{cut:?}");
    }
    import.stop().await;
}
