//! Answers as they are written while statements run: straight into JSON, and no longer than is allowed.

use bytes::Bytes;
use tokio::sync::mpsc;

use super::value;
use crate::sqlite::guest::{Column, Description, Done, Sink, SqlError, ValueRef};

/// The code of an answer that is too large.
pub const TOO_LARGE: &str = "RESPONSE_TOO_LARGE";

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Results of a pipeline, separated by commas.
    Pipeline,
    /// Entries of a cursor, one a line.
    Cursor,
    /// The one result, by itself (version 1).
    Bare,
}

/// The length of the pieces that a streamed answer is sent in, in bytes.
const PIECE: usize = 64 << 10;

/// An answer so far.
#[derive(Debug)]
pub struct Answer {
    form: Form,
    written: Vec<u8>,
    /// What was sent off already, in bytes.
    sent: usize,
    /// The most that may be written of results; errors always are.
    most: usize,
    /// The bytes of the errors' messages so far.
    messages: usize,
    /// A request failed, as a whole.
    failed: bool,
    /// Takes pieces as they are done, so that the whole is never in memory.
    stream: Option<mpsc::Sender<Bytes>>,
}

/// Something was written and may be taken back.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    at: usize,
    messages: usize,
}

/// The most bytes of errors' messages in one answer: thousands of statements may fail with a long one each.
const MOST_MESSAGES: usize = 1 << 20;

impl Answer {
    /// An empty one.
    pub fn new(form: Form, most: usize) -> Self {
        Self { form, written: Vec::new(), sent: 0, most, messages: 0, failed: false, stream: None }
    }

    /// How it is written.
    pub fn form(&self) -> Form {
        self.form
    }

    /// Whether a request failed, as a whole.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// Allows so much from now on.
    pub fn allow(&mut self, most: usize) {
        self.most = most;
    }

    /// Sends pieces from now on: what was written so far cannot be taken back any more.
    pub fn stream_to(&mut self, stream: mpsc::Sender<Bytes>) {
        self.stream = Some(stream);
    }

    /// What is written and not sent; it stays no longer.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.written)
    }

    /// Where it is now.
    pub fn mark(&self) -> Mark {
        Mark { at: self.sent + self.written.len(), messages: self.messages }
    }

    /// Takes back what was written since, as far as it was not sent.
    pub fn back_to(&mut self, mark: Mark) {
        self.written.truncate(mark.at.saturating_sub(self.sent));
        self.messages = mark.messages;
        self.failed = false;
    }

    /// Begins the answer to one more request of a pipeline.
    pub fn separate(&mut self) {
        if self.form == Form::Pipeline && !self.written.is_empty() {
            self.written.push(b',');
        }
    }

    /// `{"type":"ok","response":{"type":…` in a pipeline.
    pub fn open(&mut self, kind: &str) {
        if self.form == Form::Pipeline {
            self.put(br#"{"type":"ok","response":{"type":""#);
            self.put(kind.as_bytes());
            self.put(b"\"");
        }
    }

    /// What comes before a result.
    pub fn open_result(&mut self, kind: &str) {
        self.open(kind);
        if self.form == Form::Pipeline {
            self.put(br#","result":"#);
        }
    }

    /// The end of what [`open`](Self::open) began.
    pub fn close(&mut self) {
        if self.form == Form::Pipeline {
            self.put(b"}}");
        }
    }

    /// The whole answer to a request that has none but its type.
    pub fn say(&mut self, kind: &str) {
        self.open(kind);
        self.close();
    }

    /// The whole answer to `get_autocommit`.
    pub fn autocommit(&mut self, is: bool) {
        self.open("get_autocommit");
        self.put(if is { br#","is_autocommit":true"#.as_slice() } else { br#","is_autocommit":false"# });
        self.close();
    }

    /// The error of a request. In a cursor: of all of it.
    pub fn fail(&mut self, error: &SqlError) {
        self.failed = true;
        if self.form != Form::Bare {
            self.put(br#"{"type":"error","error":"#);
        }
        let error = self.count(error.clone());
        self.error(&error);
        match self.form {
            Form::Pipeline => self.put(b"}"),
            Form::Cursor => self.put(b"}\n"),
            Form::Bare => {}
        }
    }

    /// Counts an error that is to be written; without its message if there are too many.
    pub fn count(&mut self, error: SqlError) -> SqlError {
        self.messages += error.message.len();
        match self.messages > MOST_MESSAGES {
            true => SqlError::new(error.code, "the messages of this answer's errors are too long together"),
            false => error,
        }
    }

    /// An error that is [counted](Self::count), by itself: `{"message":…,"code":…}`.
    pub fn error(&mut self, error: &SqlError) {
        self.put(br#"{"message":"#);
        value::write_json(&mut self.written, &error.message);
        self.put(br#","code":"#);
        value::write_json(&mut self.written, error.code);
        self.put(b"}");
    }

    /// The error of a step in a cursor.
    pub fn fail_step(&mut self, step: usize, error: &SqlError) {
        self.put(format!(r#"{{"type":"step_error","step":{step},"error":"#).as_bytes());
        let error = self.count(error.clone());
        self.error(&error);
        self.put(b"}\n");
    }

    /// The answer to `describe`.
    ///
    /// # Errors
    /// It is too large; a part of it is written.
    pub fn describe(&mut self, description: &Description) -> Result<(), SqlError> {
        self.open_result("describe");
        self.put(br#"{"params":["#);
        for (n, name) in description.parameters.iter().enumerate() {
            self.put(if n == 0 { br#"{"name":"#.as_slice() } else { br#",{"name":"# });
            value::write_json(&mut self.written, name);
            self.put(b"}");
        }
        self.put(br#"],"cols":"#);
        self.columns(&description.columns)?;
        let rest = format!(r#","is_explain":{},"is_readonly":{}}}"#, description.is_explain, description.is_readonly);
        self.put(rest.as_bytes());
        self.close();
        self.room_for(0)
    }

    fn columns(&mut self, columns: &[Column]) -> Result<(), SqlError> {
        self.put(b"[");
        for (n, column) in columns.iter().enumerate() {
            self.room_for(column.name.len())?;
            self.put(if n == 0 { br#"{"name":"#.as_slice() } else { br#",{"name":"# });
            value::write_json(&mut self.written, &column.name);
            self.put(br#","decltype":"#);
            value::write_json(&mut self.written, &column.decltype);
            self.put(b"}");
        }
        self.put(b"]");
        Ok(())
    }

    /// Bytes of the frame, which always fit.
    pub fn put(&mut self, bytes: &[u8]) {
        self.written.extend_from_slice(bytes);
    }

    /// Receives the result of a statement; `step` is that of a batch.
    pub fn result(&mut self, step: usize) -> Rows<'_> {
        Rows { answer: self, step, has_columns: false, has_rows: false }
    }

    /// Whether so many bytes more are allowed.
    fn room_for(&self, bytes: usize) -> Result<(), SqlError> {
        if self.sent + self.written.len() + bytes <= self.most {
            return Ok(());
        }
        let why = format!(
            "the answer is larger than {} bytes; ask for fewer rows at once, with LIMIT, or have CUBBY_SQL_ANSWER raised",
            self.most
        );
        Err(SqlError::new(TOO_LARGE, why))
    }

    /// Sends a piece, if one is done.
    fn send(&mut self) -> Result<(), SqlError> {
        if let Some(stream) = self.stream.as_ref().filter(|_| self.written.len() >= PIECE) {
            let piece = std::mem::take(&mut self.written);
            self.sent += piece.len();
            // Who reads no further does not need the rest.
            let gone = |_| SqlError::new("SQLITE_ABORT", "the client has gone");
            stream.blocking_send(piece.into()).map_err(gone)?;
        }
        Ok(())
    }
}

/// The result of one statement, row by row.
#[expect(clippy::struct_field_names, reason = "columns and rows are the protocol's words")]
pub struct Rows<'a> {
    answer: &'a mut Answer,
    step: usize,
    has_columns: bool,
    has_rows: bool,
}

impl Rows<'_> {
    /// The end of the result. It always fits: what has written by then is not to fail.
    pub fn finish(mut self, done: &Done) -> Result<(), SqlError> {
        if !self.has_columns {
            self.columns(&[])?;
        }
        let out = &mut self.answer.written;
        let cursor = self.answer.form == Form::Cursor;
        out.extend_from_slice(if cursor { br#"{"type":"step_end""#.as_slice() } else { b"]" });
        let Done { affected, last_insert_rowid, rows_read, rows_written, micros } = done;
        let numbers = format!(r#","affected_row_count":{affected},"last_insert_rowid":"{last_insert_rowid}""#);
        out.extend_from_slice(numbers.as_bytes());
        if cursor {
            out.extend_from_slice(b"}\n");
        } else {
            let (millis, rest) = (micros / 1000, micros % 1000);
            let rows = format!(r#","replication_index":null,"rows_read":{rows_read},"rows_written":{rows_written}"#);
            out.extend_from_slice(rows.as_bytes());
            let time = format!(r#","query_duration_ms":{millis}.{rest:03}}}"#);
            out.extend_from_slice(time.as_bytes());
        }
        self.answer.send()
    }
}

impl Sink for Rows<'_> {
    fn columns(&mut self, columns: &[Column]) -> Result<(), SqlError> {
        self.has_columns = true;
        if self.answer.form == Form::Cursor {
            self.answer.put(format!(r#"{{"type":"step_begin","step":{},"cols":"#, self.step).as_bytes());
            self.answer.columns(columns)?;
            self.answer.put(b"}\n");
        } else {
            self.answer.put(br#"{"cols":"#);
            self.answer.columns(columns)?;
            self.answer.put(br#","rows":["#);
        }
        self.answer.send()
    }

    fn row(&mut self, values: &[ValueRef<'_>]) -> Result<(), SqlError> {
        match self.answer.form {
            Form::Cursor => self.answer.put(br#"{"type":"row","row":["#),
            _ if self.has_rows => self.answer.put(b",["),
            _ => self.answer.put(b"["),
        }
        self.has_rows = true;
        for (n, value) in values.iter().enumerate() {
            if n > 0 {
                self.answer.put(b",");
            }
            // Before it is written: a row may have thousands of the largest values.
            self.answer.room_for(value::length(*value))?;
            value::write(&mut self.answer.written, *value)?;
        }
        self.answer.put(if self.answer.form == Form::Cursor { b"]}\n".as_slice() } else { b"]" });
        self.answer.room_for(0)?;
        self.answer.send()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_not_written() {
        let mut answer = Answer::new(Form::Pipeline, 1000);
        let large = vec![0; 1 << 20];
        let mut rows = answer.result(0);
        rows.columns(&[]).unwrap();
        assert_eq!(rows.row(&[ValueRef::Blob(&large); 100]).unwrap_err().code, TOO_LARGE);
        let column = Column { name: "x".repeat(1 << 20), decltype: None };
        assert_eq!(rows.columns(&vec![column; 100]).unwrap_err().code, TOO_LARGE);
        assert!(answer.take().capacity() < 10_000);
    }

    #[test]
    fn messages_are_counted_and_what_is_taken_back_is_not() {
        let mut answer = Answer::new(Form::Pipeline, 1000);
        let error = SqlError::new("SQLITE_ERROR", "x".repeat(1000));
        for _ in 0..5000 {
            let mark = answer.mark();
            answer.fail(&error);
            answer.back_to(mark);
        }
        answer.fail(&error);
        assert!(answer.take().len() > 1000);
        (0..5000).for_each(|_| answer.fail(&error));
        assert!(answer.take().len() < 2 * MOST_MESSAGES);
    }
}
