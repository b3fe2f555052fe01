//! What watches the server: the Grafana dashboard and the alerts ask for metrics that there are.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use cubby::telemetry::metrics;
use serde_json::{Value, json};

use crate::harness::{Server, sender};

/// Whether this program can copy elsewhere.
const COPIES: bool = cfg!(feature = "replicate");

fn file(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The labels of each series name on a page of metrics, with their values.
type Series = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

fn series(page: &str) -> Series {
    let mut found = Series::new();
    for line in page.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let end = line.find(['{', ' ']).unwrap();
        let labels = found.entry(line[..end].to_owned()).or_default();
        for (label, value) in matchers(&line[end..]) {
            labels.entry(label).or_default().insert(value);
        }
    }
    found
}

/// The `label="value"` pairs between the first braces of a text; a pattern's `=~` counts as `=`.
fn matchers(text: &str) -> Vec<(String, String)> {
    let Some(mut rest) = text.strip_prefix('{') else { return Vec::new() };
    let mut found = Vec::new();
    while let Some((label, after)) = rest.split_once('"') {
        if label.contains('}') {
            break;
        }
        let (value, after) = after.split_once('"').expect("a value ends");
        let label = label.trim_start_matches([',', ' ']).trim_end_matches(['=', '~', '!']);
        found.push((label.to_owned(), value.to_owned()));
        rest = after;
    }
    found
}

/// What of a query is not on the page: names, labels, and values of labels.
fn missing(query: &str, there: &Series) -> Vec<String> {
    let mut found = Vec::new();
    let mut grouped = BTreeSet::new();
    for (at, mark) in query.match_indices("by (") {
        let names = query[at + mark.len()..].split(')').next().unwrap();
        grouped.extend(names.split(',').map(|name| name.trim().to_owned()));
    }
    let mut known = BTreeSet::from(["instance".to_owned()]);
    let mut rest = query;
    let mut named = 0;
    while let Some(at) = rest.find("cubby_") {
        let name: String = rest[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        rest = &rest[at + name.len()..];
        named += 1;
        let Some(labels) = there.get(&name) else {
            found.push(format!("there is no {name}: {query}"));
            continue;
        };
        known.extend(labels.keys().cloned());
        for (label, value) in matchers(rest).into_iter().filter(|(label, _)| label != "instance") {
            let values = labels.get(&label);
            if !value.split('|').all(|value| values.is_some_and(|values| values.contains(value))) {
                found.push(format!("{name} has no {label}={value}: {query}"));
            }
        }
    }
    if named == 0 {
        found.push(format!("no metric of this server: {query}"));
    }
    found.extend(grouped.difference(&known).map(|label| format!("nothing has the label {label}: {query}")));
    found
}

fn queries(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("expr").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|value| queries(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| queries(item, found)),
        _ => {}
    }
}

/// The metrics of a server to which everything has happened once.
async fn page() -> Series {
    let mut flags = vec!["--clerk-webhook-secret", sender::SECRET];
    if COPIES {
        flags.extend(["--replicate", "memory:///dashboards"]);
    }
    let server = Server::with(&flags).await;
    server.client.note("ada", "x").await;
    server.client.get("/ada/nothing").await.expect(404);
    let event = json!({"type": "user.created", "data": {"id": "eve"}});
    sender::deliver(&server.client, "msg_1", &event).await;
    metrics::sync_run("done", Duration::from_secs(1));
    metrics::discrepancy(0);
    #[cfg(feature = "replicate")]
    {
        cubby::telemetry::replication::tell_of_backups(false, Some(Duration::from_secs(60)));
        ::metrics::gauge!("cubby_backup_newest_timestamp_seconds").set(0.0);
    }
    let page = server.client.get("/metrics").await.expect(200);
    server.stop().await;
    series(&String::from_utf8(page.body).unwrap())
}

#[tokio::test]
async fn every_query_of_the_dashboard_and_the_alerts_is_about_metrics_that_there_are() {
    let there = page().await;
    let dashboard: Value = serde_json::from_str(&file("deploy/grafana/cubby.json")).unwrap();
    let mut asked = Vec::new();
    queries(&dashboard, &mut asked);
    assert!(asked.len() > 20, "{asked:?}");
    let alerts = file("deploy/prometheus/alerts.yml");
    let rules = alerts.split("expr: ").skip(1).map(|rule| {
        let ends = ["\n        for:", "\n        labels:"].into_iter().filter_map(|end| rule.find(end));
        rule[..ends.min().unwrap()].to_owned()
    });
    asked.extend(rules);
    asked.retain(|query| COPIES || !["cubby_replica_", "cubby_backup"].iter().any(|name| query.contains(name)));
    let wrong: Vec<String> = asked.iter().flat_map(|query| missing(query, &there)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_query_about_what_is_not_there_is_found() {
    let there = series("cubby_a{state=\"x\"} 1\ncubby_b_bucket{le=\"+Inf\",route=\"/{id}\"} 1\ncubby_c 3\n");
    for good in [
        "sum(cubby_a{instance=~\"$instance\",state=\"x\"})",
        "histogram_quantile(0.9, sum by (route, le) (rate(cubby_b_bucket{instance=~\"$instance\"}[5m])))",
        "cubby_c / cubby_a > 1",
    ] {
        assert_eq!(missing(good, &there), [""; 0], "{good}");
    }
    for bad in [
        "cubby_d",
        "cubby_a{state=\"y\"}",
        "cubby_a{state=~\"x|y\"}",
        "cubby_a{kind=\"x\"}",
        "sum by (kind) (cubby_a)",
        "cubby_b",
        "up",
    ] {
        assert!(!missing(bad, &there).is_empty(), "{bad}");
    }
}

/// What Grafana needs of a dashboard to show it.
#[test]
fn the_dashboard_has_the_form_of_one() {
    let dashboard: Value = serde_json::from_str(&file("deploy/grafana/cubby.json")).unwrap();
    assert_eq!((dashboard["uid"].as_str(), dashboard["title"].as_str()), (Some("cubby"), Some("Cubby")));
    assert!(dashboard["schemaVersion"].as_u64().is_some_and(|version| version >= 36));
    let variables: Vec<&str> =
        dashboard["templating"]["list"].as_array().unwrap().iter().map(|v| v["name"].as_str().unwrap()).collect();
    assert_eq!(variables, ["datasource", "instance"]);
    let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "two panels have the id of {title}");
        let place = |name: &str| panel["gridPos"][name].as_u64().unwrap_or_else(|| panic!("{title}: {name}"));
        let (left, top) = (place("x"), place("y"));
        assert!(left + place("w") <= 24, "{title} is beyond the edge");
        for at in (left..left + place("w")).flat_map(|x| (top..top + place("h")).map(move |y| (x, y))) {
            assert!(taken.insert(at), "{title} is over another panel");
        }
        let kind = panel["type"].as_str().unwrap();
        assert!(["row", "stat", "timeseries"].contains(&kind), "{title}: {kind}");
        let targets = panel["targets"].as_array().map_or(&[][..], Vec::as_slice);
        assert_eq!(targets.is_empty(), kind == "row", "{title}");
        let names: BTreeSet<&str> = targets.iter().map(|target| target["refId"].as_str().unwrap()).collect();
        assert_eq!(names.len(), targets.len(), "{title}: two queries of one name");
        assert!(targets.iter().all(|target| target["datasource"]["uid"] == "${datasource}"), "{title}");
    }
}
