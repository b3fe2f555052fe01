//! The data folder against others on the same machine: modes, links.

use std::{
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
};

use tempfile::TempDir;

use crate::harness::{Process, Server, run, stdout, tree};

fn path_of(data: &Path, id: &str) -> std::path::PathBuf {
    stdout(&run(data, &["tenants", "path", id])).trim().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_are_0700_and_files_0600() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("made/by/cubby");
    let server = Process::start(&data, &[]);
    server.client.note("ada", "x").await;
    for (path, ..) in tree(&data) {
        let mode = path.metadata().unwrap().mode() & 0o777;
        let wanted = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode, wanted, "{}: {mode:o}", path.display());
    }
    assert_eq!(data.metadata().unwrap().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn folders_that_others_could_enter_are_closed_at_start() {
    let folder = TempDir::new().unwrap();
    Server::on(folder.path(), &[]).await.stop().await;
    let open = folder.path().join("tenants/00");
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o755)).unwrap();
    Server::on(folder.path(), &[]).await.stop().await;
    assert_eq!(open.metadata().unwrap().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn a_users_file_that_is_a_link_is_refused_and_what_it_leads_to_is_untouched() {
    for hard in [false, true] {
        let folder = TempDir::new().unwrap();
        let data = folder.path();
        let server = Server::on(data, &[]).await;
        server.client.note("ada", "secret").await;
        server.client.note("eve", "mine").await;
        server.stop().await;
        let (ada, eve) = (path_of(data, "ada"), path_of(data, "eve"));
        std::fs::remove_file(&eve).unwrap();
        match hard {
            true => std::fs::hard_link(&ada, &eve).unwrap(),
            false => symlink(&ada, &eve).unwrap(),
        }
        let before = std::fs::read(&ada).unwrap();
        let server = Server::on(data, &[]).await;
        let reply = server.client.get("/eve").await.expect(503);
        assert!(!String::from_utf8_lossy(&reply.body).contains("secret"));
        server.stop().await;
        assert_eq!(std::fs::read(&ada).unwrap(), before, "hard: {hard}");
    }
}

#[test]
fn links_in_the_place_of_folders_and_of_the_lock_are_refused() {
    for name in ["tenants", "trash", "tmp", "cubby.lock"] {
        let (folder, elsewhere) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let target = elsewhere.path().join("target");
        match name {
            "cubby.lock" => std::fs::write(&target, "precious").unwrap(),
            _ => std::fs::create_dir(&target).unwrap(),
        }
        symlink(&target, folder.path().join(name)).unwrap();
        let out = run(folder.path(), &["tenants", "create", "ada"]);
        assert!(!out.status.success(), "{name}");
        match name {
            "cubby.lock" => assert_eq!(std::fs::read(&target).unwrap(), b"precious"),
            _ => assert_eq!(tree(&target), []),
        }
    }
}

/// Puts a link in the place of a file, which moves to `target`; something else is there if there is
/// no file.
fn replace_by_link(place: &Path, target: &Path, hard: bool) {
    match place.exists() {
        true => std::fs::rename(place, target).unwrap(),
        false => std::fs::write(target, "precious").unwrap(),
    }
    match hard {
        true => std::fs::hard_link(target, place).unwrap(),
        false => symlink(target, place).unwrap(),
    }
}

#[tokio::test]
async fn links_in_the_place_of_the_catalog_and_of_write_ahead_logs_are_refused() {
    for (name, hard) in
        ["catalog.db", "catalog.db-wal", "ada.db-wal"].map(|name| [(name, false), (name, true)]).concat()
    {
        let (folder, elsewhere) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let data = folder.path();
        stdout(&run(data, &["tenants", "create", "ada"]));
        let place = match name {
            "ada.db-wal" => path_of(data, "ada").with_extension("db-wal"),
            _ => data.join(name),
        };
        // The very file where there is one, so that its content is no reason to refuse it.
        let target = elsewhere.path().join("target");
        replace_by_link(&place, &target, hard);
        let before = std::fs::read(&target).unwrap();
        if name.starts_with("catalog") {
            let out = run(data, &["tenants", "create", "eve"]);
            let said = String::from_utf8_lossy(&out.stderr).into_owned();
            assert!(!out.status.success() && said.contains("a link or has a second name"), "{name} {hard}: {said}");
        } else {
            let server = Server::on(data, &[]).await;
            server.client.get("/ada").await.expect(503);
            server.client.post("/ada", serde_json::json!({"text": "x"})).await.expect(503);
            server.stop().await;
        }
        assert_eq!(std::fs::read(&target).unwrap(), before, "{name}, hard: {hard}");
    }
}

#[test]
fn a_lock_that_is_another_files_second_name_is_refused_and_nothing_is_written_to_it() {
    let (folder, elsewhere) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let target = elsewhere.path().join("target");
    std::fs::write(&target, "precious").unwrap();
    std::fs::hard_link(&target, folder.path().join("cubby.lock")).unwrap();
    let out = run(folder.path(), &["tenants", "create", "ada"]);
    assert!(!out.status.success() && String::from_utf8_lossy(&out.stderr).contains("second name"), "{out:?}");
    assert_eq!(std::fs::read(&target).unwrap(), b"precious");
}

#[test]
fn the_data_folder_itself_may_be_a_link() {
    let folder = TempDir::new().unwrap();
    std::fs::create_dir(folder.path().join("real")).unwrap();
    symlink(folder.path().join("real"), folder.path().join("link")).unwrap();
    stdout(&run(&folder.path().join("link"), &["tenants", "create", "ada"]));
    assert!(folder.path().join("real/catalog.db").exists());
}
