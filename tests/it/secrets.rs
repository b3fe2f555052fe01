//! Secrets that Cubby itself sends: to whom, by which way, and to nobody else.

use std::{
    path::Path,
    process::{Command, Output},
};

use tempfile::TempDir;

use crate::harness::{Server, clerk, cubby, trap::Trap};

const ADMIN: &str = "an operator's key of some length";

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A command with the operator's key, on a machine where everything is to go through a proxy.
fn through(proxy: &Trap) -> Command {
    let mut command = cubby();
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
        command.env(name, proxy.url());
    }
    command.env_remove("no_proxy").env_remove("NO_PROXY").env("ADMIN_API_KEY", ADMIN);
    command
}

/// Another machine's names, in forms that look like this one's at their beginning.
const ELSEWHERE: [&str; 9] = [
    "http://192.0.2.1:8080",
    "http://issuer.example",
    "http://localhost.evil.example",
    "http://localhost.",
    "http://127.0.0.1.evil.example",
    "http://127.0.0.1@evil.example",
    "http://127.0.0.1:80@evil.example",
    "http://[::2]:8080",
    "ftp://127.0.0.1",
];

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_key_goes_to_the_server_and_through_no_proxy() {
    let proxy = Trap::start();
    let server = Server::with(&["--admin-api-key", ADMIN]).await;
    let address = server.address;
    for url in [
        format!("http://{address}"),
        format!("http://localhost:{}/", address.port()),
        format!("http://127.1:{}", address.port()),
    ] {
        let mut command = through(&proxy);
        command.args(["tenants", "create", "ada", "--url", &url, "--data"]).arg(server.data());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        assert!(output.status.success(), "{url}: {}", stderr(&output));
    }
    assert_eq!(proxy.heard(), [""; 0]);
    server.stop().await;
}

#[test]
fn over_https_a_proxy_is_asked_for_a_way_and_not_shown_the_key() {
    let proxy = Trap::start();
    let folder = TempDir::new().unwrap();
    let mut command = through(&proxy);
    command.args(["tenants", "list", "--url", "https://cubby.example", "--data"]);
    let output = command.arg(folder.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let heard = proxy.heard();
    assert!(heard.len() == 1 && heard[0].starts_with("CONNECT cubby.example:443 "), "{heard:?}");
    assert!(!heard[0].contains(ADMIN), "{heard:?}");
}

#[test]
fn the_operators_key_is_not_sent_in_the_clear_to_another_machine() {
    let proxy = Trap::start();
    let folder = TempDir::new().unwrap();
    for url in ELSEWHERE {
        let mut command = through(&proxy);
        let output = command.args(["tenants", "list", "--url", url, "--data"]).arg(folder.path()).output().unwrap();
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{url}: {text}");
        assert!(text.contains("CUBBY_URL") && text.contains("https"), "{url}: {text}");
    }
    assert_eq!(proxy.heard(), [""; 0]);
}

#[test]
fn a_name_and_a_password_in_an_address_are_refused_and_not_shown() {
    let folder = TempDir::new().unwrap();
    for (name, command) in [
        ("CUBBY_URL", &["tenants", "list"][..]),
        ("CLERK_API_URL", &["sync"]),
        ("CUBBY_JWKS_URL", &["serve", "--auth", "jwt", "--issuer", "https://issuer.example"]),
        ("CUBBY_ISSUER", &["serve", "--auth", "jwt", "--jwks-url", "https://issuer.example/jwks"]),
    ] {
        for url in ["https://root:hunter2@issuer.example", "https://hunter2@issuer.example"] {
            let mut cubby = cubby();
            cubby.env(name, url).env("ADMIN_API_KEY", ADMIN).env("CLERK_SECRET_KEY", clerk::KEY);
            let output = cubby.args(command).arg("--data").arg(folder.path()).output().unwrap();
            let text = stderr(&output);
            assert_eq!(output.status.code(), Some(2), "{name}={url}: {text}");
            assert!(text.contains(name) && !text.contains("hunter2"), "{name}={url}: {text}");
        }
    }
}

#[test]
fn a_redirect_does_not_carry_the_operators_key_away() {
    let folder = TempDir::new().unwrap();
    let stranger = Trap::start();
    for status in ["301 Moved Permanently", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let server = Trap::answering(&format!("{status}\r\nlocation: {}/\r\ncontent-length: 0", stranger.url()));
        let mut command = cubby();
        command.env("ADMIN_API_KEY", ADMIN).args(["tenants", "list", "--url", &server.url(), "--data"]);
        let output = command.arg(folder.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert_eq!(server.heard().len(), 1, "{status}");
        assert!(server.heard()[0].contains(ADMIN), "{status}");
    }
    assert_eq!(stranger.heard(), [""; 0]);
}

#[test]
fn only_the_current_folders_env_file_is_read() {
    let stranger = Trap::start();
    let above = TempDir::new().unwrap();
    let here = above.path().join("a/b");
    std::fs::create_dir_all(&here).unwrap();
    let file = format!("CUBBY_URL={}\n", stranger.url());
    let list = |folder: &Path| {
        let mut command = cubby();
        command.env("ADMIN_API_KEY", ADMIN).current_dir(folder).args(["tenants", "list"]).output().unwrap()
    };
    for above in [above.path(), &above.path().join("a")] {
        std::fs::write(above.join(".env"), &file).unwrap();
        let output = list(&here);
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(stderr(&output).contains("no data folder"), "{}", stderr(&output));
    }
    // Some tools keep a folder of this name.
    std::fs::create_dir(here.join(".env")).unwrap();
    assert!(stderr(&list(&here)).contains("no data folder"));
    assert_eq!(stranger.heard(), [""; 0]);
    std::fs::remove_dir(here.join(".env")).unwrap();
    std::fs::write(here.join(".env"), &file).unwrap();
    list(&here);
    assert_eq!(stranger.heard().len(), 1, "the current folder's is");
}

#[test]
fn clerks_key_is_not_sent_in_the_clear_to_another_machine() {
    let proxy = Trap::start();
    let folder = TempDir::new().unwrap();
    for url in ELSEWHERE {
        for command in [&["sync"][..], &["doctor", "--provider"], &["serve", "--provisioning", "on-demand"]] {
            let mut cubby = through(&proxy);
            cubby.args(command).args(["--clerk-secret-key", clerk::KEY, "--clerk-api-url", url, "--data"]);
            let output = cubby.arg(folder.path()).output().unwrap();
            let text = stderr(&output);
            assert_eq!(output.status.code(), Some(2), "{command:?} {url}: {text}");
            assert!(text.contains("CLERK_API_URL") && text.contains("https"), "{command:?} {url}: {text}");
        }
    }
    assert_eq!(proxy.heard(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn clerks_key_goes_to_this_machine_through_no_proxy() {
    let proxy = Trap::start();
    let clerk = clerk::Clerk::start().await;
    let folder = TempDir::new().unwrap();
    let mut command = through(&proxy);
    command.arg("sync").args(clerk.flags()).arg("--data").arg(folder.path());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(clerk.asked("/users") > 0);
    assert_eq!(proxy.heard(), [""; 0]);
}

#[test]
fn keys_that_come_in_the_clear_are_taken_from_this_machine_alone() {
    let folder = TempDir::new().unwrap();
    for url in ELSEWHERE {
        let mut command = cubby();
        command.args(["serve", "--auth", "jwt", "--issuer", "https://issuer.example", "--jwks-url", url, "--data"]);
        let output = command.arg(folder.path()).output().unwrap();
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{url}: {text}");
        assert!(text.contains("CUBBY_JWKS_URL") && text.contains("https"), "{url}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_command_writes_a_key_at_any_level() {
    let server = Server::with(&["--admin-api-key", ADMIN]).await;
    let clerk = clerk::Clerk::start().await;
    let folder = TempDir::new().unwrap();
    let run = async |mut command: Command| {
        command.env("CUBBY_LOG", "trace").env("ADMIN_API_KEY", ADMIN).env("CLERK_SECRET_KEY", clerk::KEY);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &stderr(&output);
        assert!(!text.contains(ADMIN) && !text.contains(clerk::KEY), "{text}");
        (output.status.code(), text)
    };
    let mut asks = cubby();
    asks.args(["tenants", "list", "--url", &format!("http://{}", server.address), "--data"]).arg(server.data());
    let (code, text) = run(asks).await;
    assert!(code == Some(0) && text.contains("TRACE"), "{text}");
    let mut syncs = cubby();
    syncs.args(["sync", "--clerk-api-url", &clerk.url(), "--data"]).arg(folder.path());
    assert_eq!(run(syncs).await.0, Some(0));
    // A key that cannot be sent, and the settings themselves.
    let mut broken = cubby();
    broken.args(["sync", "--clerk-api-url", &clerk.url(), "--provider-retries", "0", "--data"]).arg(folder.path());
    broken.args(["--clerk-secret-key", &format!("{}\n{}", clerk::KEY, clerk::KEY)]);
    assert_eq!(run(broken).await.0, Some(1));
    let mut helps = cubby();
    helps.args(["serve", "--help"]);
    assert_eq!(run(helps).await.0, Some(0));
    server.stop().await;
}
