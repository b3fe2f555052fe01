//! Log lines: their format and destination.

use std::{fmt, io::IsTerminal, time::SystemTime};

use serde_json::{Map, Value};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use super::REQUEST;
use crate::{
    config::{LogConfig, LogFormat},
    error::{Error, Result},
};

/// Starts logging to standard error. Standard output is for the results of commands.
pub fn start(config: &LogConfig) -> Result<()> {
    let filter = EnvFilter::try_new(&config.log).map_err(|e| Error::config(format!("--log {:?}: {e}", config.log)))?;
    let terminal = std::io::stderr().is_terminal();
    let json = config.log_format == LogFormat::Json || (config.log_format == LogFormat::Auto && !terminal);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(terminal && !json)
        .event_format(Line { json });
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()
        .map_err(|e| Error::config("logging was started before").with_source(e))
}

/// One event, one line: time, level, message, fields, request id.
struct Line {
    json: bool,
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        if let Ok(id) = REQUEST.try_with(ToString::to_string) {
            fields.others.push(("request_id", Value::String(id)));
        }
        let level = *event.metadata().level();
        match self.json {
            true => as_json(writer, level, fields),
            false => as_text(writer, level, &fields),
        }
    }
}

fn as_json(mut writer: Writer<'_>, level: Level, fields: Fields) -> fmt::Result {
    let mut line = Map::new();
    line.insert("timestamp".into(), humantime::format_rfc3339_micros(SystemTime::now()).to_string().into());
    line.insert("level".into(), level.as_str().into());
    line.insert("message".into(), fields.message.into());
    line.extend(fields.others.into_iter().map(|(name, value)| (name.to_owned(), value)));
    writeln!(writer, "{}", Value::Object(line))
}

fn as_text(mut writer: Writer<'_>, level: Level, fields: &Fields) -> fmt::Result {
    let now = humantime::format_rfc3339_millis(SystemTime::now());
    let color = match level {
        Level::ERROR => "31",
        Level::WARN => "33",
        Level::INFO => "32",
        _ => "2",
    };
    match writer.has_ansi_escapes() {
        true => write!(writer, "\x1b[2m{now}\x1b[0m \x1b[{color}m{level:>5}\x1b[0m ")?,
        false => write!(writer, "{now} {level:>5} ")?,
    }
    escaped(&mut writer, &fields.message)?;
    for (name, value) in &fields.others {
        write!(writer, " {name}=")?;
        match value {
            Value::String(text) => escaped(&mut writer, text)?,
            other => write!(writer, "{other}")?,
        }
    }
    writeln!(writer)
}

/// Escapes control characters: a client's text must not end a line or send commands to a terminal.
fn escaped(writer: &mut Writer<'_>, text: &str) -> fmt::Result {
    for c in text.chars() {
        match c.is_control() {
            true => write!(writer, "{}", c.escape_default())?,
            false => writer.write_char(c)?,
        }
    }
    Ok(())
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, Value)>,
}

impl Fields {
    fn add(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            (name, value) => self.others.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let mut text = String::new();
        escaped(&mut Writer::new(&mut text), "a\r\nb\x1b[31m").unwrap();
        assert_eq!(text, "a\\r\\nb\\u{1b}[31m");
    }
}
