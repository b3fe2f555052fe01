//! A place for copies over S3's protocol: what is stored comes back, conditions are honoured or the store is refused,
//! and errors say what to do.

use std::{
    fs::File,
    io::{Read, Seek, Write},
};

use bytes::Bytes;
use cubby::{ErrorKind, replica::remote::Remote};

use crate::{
    harness::eventually,
    s3::{Failure, Ignores, Server},
};

fn remote(s3: &Server) -> Remote {
    Remote::open(&s3.url("some/prefix"), &s3.environment()).unwrap()
}

/// Bytes that do not repeat in parts.
fn content(length: usize) -> Vec<u8> {
    let mut state = 7_u64;
    let mut content = Vec::with_capacity(length + 8);
    while content.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        content.extend_from_slice(&state.to_le_bytes());
    }
    content.truncate(length);
    content
}

fn file(content: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file
}

async fn read_back(remote: &Remote, path: &str) -> Option<Vec<u8>> {
    let mut into = file(b"");
    remote.get_file(path, &into).await.unwrap()?;
    let mut content = Vec::new();
    into.rewind().unwrap();
    into.read_to_end(&mut content).unwrap();
    Some(content)
}

#[tokio::test]
async fn what_is_stored_comes_back_and_is_listed_page_by_page() {
    let s3 = Server::start();
    s3.page(3);
    let remote = remote(&s3);
    remote.probe().await.unwrap();
    assert!(s3.keys("").is_empty(), "the probe leaves nothing: {:?}", s3.keys(""));
    // What ids may have, and what sorts before a slash.
    let paths =
        ["base/a-b/1", "base/a/1", "base/a/2", "base/a.b/1", "base/x@|+:y/1", "base/x@|+:y/2", "meta/format.json"];
    for path in paths {
        remote.put(path, Bytes::from(path)).await.unwrap();
    }
    assert_eq!(s3.keys("some/prefix/").len(), paths.len());
    for path in paths {
        assert_eq!(remote.get(path).await.unwrap().unwrap(), path);
        assert_eq!(remote.length(path).await.unwrap(), Some(path.len() as u64));
    }
    let mut listed: Vec<String> = remote.list("base").await.unwrap().into_iter().map(|object| object.path).collect();
    listed.sort();
    let mut expected: Vec<_> = paths[..6].to_vec();
    expected.sort_unstable();
    assert_eq!(listed, expected);
    let mut folders = remote.folders("base").await.unwrap();
    folders.sort();
    assert_eq!(folders, ["base/a", "base/a-b", "base/a.b", "base/x@|+:y"]);
    remote.delete_all(&paths.map(str::to_owned)).await.unwrap();
    remote.delete("none").await.unwrap();
    assert!(s3.keys("").is_empty());
    assert_eq!(remote.get("base/a/1").await.unwrap(), None);
}

#[tokio::test]
async fn an_object_is_created_once() {
    let s3 = Server::start();
    let (one, other) = (remote(&s3), remote(&s3));
    assert!(one.put_new("meta/format.json", "one".into()).await.unwrap());
    assert!(!other.put_new("meta/format.json", "other".into()).await.unwrap());
    // A create that is repeated since its answer was lost.
    assert!(one.put_new("meta/format.json", "one".into()).await.unwrap());
    assert_eq!(other.get("meta/format.json").await.unwrap().unwrap(), "one");
}

#[tokio::test]
async fn a_store_that_does_not_honour_conditions_is_refused() {
    for (ignores, word) in [
        (Ignores { none_match: true, matches: false }, "If-None-Match"),
        (Ignores { none_match: false, matches: true }, "If-Match"),
    ] {
        let s3 = Server::start();
        s3.ignore(ignores);
        let error = remote(&s3).probe().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        assert!(error.message().contains(word), "{error}");
        assert!(s3.keys("").is_empty(), "the probe leaves nothing");
    }
}

#[tokio::test]
async fn what_does_not_get_better_by_itself_is_a_wrong_setting_and_names_it() {
    let s3 = Server::start();
    for (failure, word) in
        [(Failure::Refused, "policy"), (Failure::Expired, "expired"), (Failure::Region, "AWS_REGION")]
    {
        s3.fail(failure);
        let before = s3.requests("PUT");
        let error = remote(&s3).probe().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{failure:?}: {error}");
        assert!(error.message().contains(word), "{failure:?}: {error}");
        assert_eq!(s3.requests("PUT") - before, 1, "{failure:?}: it is not tried again");
    }
    s3.fail(Failure::None);
    let other = Remote::open("s3://another-bucket/prefix", &s3.environment()).unwrap().probe().await.unwrap_err();
    assert_eq!(other.kind(), ErrorKind::Config);
    assert!(other.message().contains("no such bucket"), "{other}");
    let variables = s3.environment_with("not the secret key");
    let wrong = Remote::open(&s3.url("prefix"), &variables).unwrap().probe().await.unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::Config);
    assert!(wrong.message().contains("AWS_SECRET_ACCESS_KEY"), "{wrong}");
    assert!(!format!("{wrong:?}").contains("not the secret key"), "{wrong:?}");
}

#[tokio::test]
async fn a_store_that_is_overloaded_full_or_away_is_asked_again() {
    let s3 = Server::start();
    for failure in [Failure::Overloaded, Failure::Full, Failure::Away] {
        s3.fail(failure);
        let (remote, before) = (remote(&s3), s3.requests("PUT"));
        let put = tokio::spawn(async move { remote.put("base/x", "content".into()).await });
        eventually("it is asked twice", async || s3.requests("PUT") >= before + 2).await;
        s3.fail(Failure::None);
        put.await.unwrap().unwrap();
        assert!(s3.remove("some/prefix/base/x"), "{failure:?}");
    }
}

#[tokio::test]
async fn a_large_file_goes_and_comes_in_parts() {
    let s3 = Server::start();
    let remote = remote(&s3);
    let content = content(20 << 20);
    remote.put_file("base/large", file(&content)).await.unwrap();
    assert_eq!((s3.requests("POST"), s3.requests("PUT"), s3.uploads()), (2, 3, 0));
    let before = s3.requests("GET");
    assert!(read_back(&remote, "base/large").await.unwrap() == content);
    assert!(s3.requests("GET") - before >= 3, "not in one answer, whose time would have no bound");
    assert_eq!(read_back(&remote, "base/none").await, None);
    // Whoever reads it while it is replaced has one of both, or is told.
    remote.put_file("base/large", file(&content[..9 << 20])).await.unwrap();
    assert!(read_back(&remote, "base/large").await.unwrap() == content[..9 << 20]);
}

#[tokio::test]
async fn answers_that_are_lost_do_no_harm() {
    let (large, mut refused) = (content(9 << 20), 0);
    for seed in 0..12 {
        let s3 = Server::start();
        s3.lose_answers(3, seed);
        let remote = remote(&s3);
        match remote.probe().await {
            Ok(()) => {}
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "seed {seed}: {error}");
                refused += 1;
            }
        }
        for nth in 0..6 {
            let (path, content) = (format!("meta/{nth}"), Bytes::from(format!("{seed} {nth}")));
            match remote.put_new(&path, content.clone()).await {
                Ok(is_ours) => assert!(is_ours, "seed {seed}: who created it is told so"),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Unavailable, "seed {seed}: {error}");
                    refused += 1;
                }
            }
            assert!(!remote.put_new(&path, "another".into()).await.unwrap_or(false), "seed {seed}");
            assert_eq!(remote.get(&path).await.unwrap().unwrap(), content, "seed {seed}");
        }
        if seed < 3 {
            match remote.put_file("base/large", file(&large)).await {
                Ok(()) => assert!(read_back(&remote, "base/large").await.unwrap() == large, "seed {seed}"),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Unavailable, "seed {seed}: {error}");
                    refused += 1;
                }
            }
        }
        assert!(s3.lost() > 0, "seed {seed}");
    }
    assert!(refused < 12, "most are tried again: {refused}");
}
