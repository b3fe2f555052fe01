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

#[test]
fn the_data_folder_itself_may_be_a_link() {
    let folder = TempDir::new().unwrap();
    std::fs::create_dir(folder.path().join("real")).unwrap();
    symlink(folder.path().join("real"), folder.path().join("link")).unwrap();
    stdout(&run(&folder.path().join("link"), &["tenants", "create", "ada"]));
    assert!(folder.path().join("real/catalog.db").exists());
}
