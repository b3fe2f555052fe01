//! Where the console's lines come from.

use std::{
    fs::{OpenOptions, Permissions, create_dir_all},
    io::{self, BufRead, Read},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use rustyline::{Config, Editor, error::ReadlineError, history::FileHistory};
use tokio::sync::mpsc;

use crate::{
    cli::shared::blocking,
    error::{Error, ErrorKind, Result},
};

/// The longest line of a file, in bytes.
const LONGEST: u64 = 16 << 20;

/// Lines that are read ahead.
const AHEAD: usize = 64;

/// Statements that the history keeps.
const REMEMBERED: usize = 1000;

/// What was read.
pub enum Line {
    /// A line, without its end.
    Text(String),
    /// The person at the prompt drops what they have begun.
    Dropped,
    /// There are no more.
    End,
}

/// Gives lines.
pub enum Input {
    /// Of a text.
    Text(std::vec::IntoIter<String>),
    /// Of standard input.
    Stdin(mpsc::Receiver<Result<String>>),
    /// Of a person.
    Prompt(Box<Prompt>),
}

impl Input {
    /// The lines of a text.
    pub fn text(text: &str) -> Self {
        Self::Text(text.lines().map(str::to_owned).collect::<Vec<_>>().into_iter())
    }

    /// The lines of standard input.
    pub fn stdin() -> Self {
        let (sender, receiver) = mpsc::channel(AHEAD);
        // Not of the runtime, which would wait for the end of a read that nobody needs any more.
        std::thread::spawn(move || {
            let mut lines = io::stdin().lock();
            for number in 1_u64.. {
                let line = read_line(&mut lines, number).transpose();
                let Some(line) = line else { return };
                let failed = line.is_err();
                if sender.blocking_send(line).is_err() || failed {
                    return;
                }
            }
        });
        Self::Stdin(receiver)
    }

    /// The lines of a person, whose statements are kept in `history`.
    pub fn prompt(history: Option<PathBuf>) -> Result<Self> {
        Ok(Self::Prompt(Box::new(Prompt::new(history)?)))
    }

    /// Whether a person gives them.
    pub fn is_prompt(&self) -> bool {
        matches!(self, Self::Prompt(_))
    }

    /// The next one.
    pub async fn next(&mut self, prompt: &'static str) -> Result<Line> {
        let line = match self {
            Self::Text(lines) => lines.next(),
            Self::Stdin(lines) => lines.recv().await.transpose()?,
            Self::Prompt(person) => return person.read(prompt).await,
        };
        Ok(line.map_or(Line::End, Line::Text))
    }

    /// Keeps a statement for the next time.
    pub fn remember(&mut self, statement: &str) {
        if let Self::Prompt(person) = self {
            person.remember(statement.trim());
        }
    }
}

fn read_line(lines: &mut impl BufRead, number: u64) -> Result<Option<String>> {
    let mut line = Vec::new();
    let read = lines.take(LONGEST).read_until(b'\n', &mut line);
    let read = read.map_err(|e| Error::io("standard input", e))?;
    let ended = line.pop_if(|last| *last == b'\n').is_some();
    if !ended && read as u64 == LONGEST {
        let why = format!("line {number} of the input is longer than {LONGEST} bytes; break it after a semicolon");
        return Err(Error::new(ErrorKind::TooLarge, why));
    }
    if read == 0 {
        return Ok(None);
    }
    let not_text = |_| Error::new(ErrorKind::Malformed, format!("line {number} of the input is not UTF-8"));
    String::from_utf8(line).map(Some).map_err(not_text)
}

/// A line editor, and its history.
pub struct Prompt {
    /// None while it reads.
    editor: Option<Editor<(), FileHistory>>,
    history: Option<PathBuf>,
}

impl Prompt {
    fn new(history: Option<PathBuf>) -> Result<Self> {
        let config = Config::builder().max_history_size(REMEMBERED).map_err(unusable)?.build();
        let kept = FileHistory::with_config(&config);
        let mut editor = Editor::with_history(config, kept).map_err(unusable)?;
        let history = history.filter(|file| {
            match prepare(file).map_err(ReadlineError::from).and_then(|()| editor.load_history(file)) {
                Ok(()) => true,
                Err(error) => {
                    eprintln!("note: without a history, since {} cannot be used: {error}", file.display());
                    false
                }
            }
        });
        Ok(Self { editor: Some(editor), history })
    }

    async fn read(&mut self, prompt: &'static str) -> Result<Line> {
        let mut editor = self.editor.take().ok_or_else(|| Error::internal("the prompt is in use"))?;
        let read = blocking("the prompt", move || {
            let line = editor.readline(prompt);
            (editor, line)
        });
        let (editor, line) = read.await?;
        self.editor = Some(editor);
        match line {
            Ok(line) => Ok(Line::Text(line)),
            Err(ReadlineError::Interrupted) => Ok(Line::Dropped),
            Err(ReadlineError::Eof) => Ok(Line::End),
            Err(error) => Err(unusable(error)),
        }
    }

    fn remember(&mut self, statement: &str) {
        let Some(editor) = &mut self.editor else { return };
        let added = editor.add_history_entry(statement).unwrap_or(false);
        if let Some(file) = self.history.as_ref().filter(|_| added)
            && let Err(error) = editor.append_history(file)
        {
            eprintln!("note: {} cannot be written: {error}", file.display());
            self.history = None;
        }
    }
}

fn unusable(error: ReadlineError) -> Error {
    Error::new(ErrorKind::Unavailable, "the terminal cannot be used; give the SQL as an argument").with_source(error)
}

/// Makes sure that the history is there, and that nobody else reads it: statements have data in them.
fn prepare(file: &Path) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        create_dir_all(folder)?;
    }
    let history = OpenOptions::new().append(true).create(true).mode(0o600).open(file)?;
    history.set_permissions(Permissions::from_mode(0o600))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_up_to_a_length_and_must_be_text() {
        let read = |bytes: &[u8]| {
            let mut bytes = bytes;
            let first = read_line(&mut bytes, 1);
            first.map_err(|e| e.message().to_owned())
        };
        assert_eq!(read(b""), Ok(None));
        assert_eq!(read(b"\nx"), Ok(Some(String::new())));
        assert_eq!(read(b"x"), Ok(Some("x".to_owned())));
        assert!(read(b"\xff\n").unwrap_err().contains("line 1 of the input is not UTF-8"));
        let long = vec![b'x'; usize::try_from(LONGEST).unwrap()];
        assert!(read(&long).unwrap_err().contains("longer"));
        assert!(read(&[&long[1..], b"\n"].concat()).is_ok());
    }
}
