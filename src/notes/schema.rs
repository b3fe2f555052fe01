//! The shapes of the notes API for its OpenAPI document. What is sent is written straight from the
//! rows, see [`Note::write_json`](super::model::Note::write_json); a test compares the two.

use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::model::NoteId;

/// A note.
#[derive(Debug, ToSchema)]
#[schema(as = Note)]
pub struct NoteShape {
    /// Its id; ids sort by when notes were made.
    #[schema(value_type = String, pattern = "^note_[a-z]{16}$")]
    pub id: NoteId,
    /// Its text, as given.
    pub text: String,
    /// When it was made.
    #[schema(format = DateTime)]
    pub created: String,
    /// When it was last changed.
    #[schema(format = DateTime)]
    pub updated: String,
}

/// One note.
#[derive(Debug, ToSchema)]
pub struct OneNote {
    /// The note.
    #[schema(inline = false)]
    pub note: NoteShape,
}

/// A page of notes.
#[derive(Debug, ToSchema)]
pub struct NotePage {
    /// The notes, in the order asked for.
    pub notes: Vec<NoteShape>,
    /// There only when there is more: the cursor of the next page.
    #[schema(value_type = String, pattern = "^note_[a-z]{16}$", nullable = false, required = false)]
    pub next_cursor: Option<NoteId>,
}

/// `{note_id}` among the parameters of a route's path.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct NotePath {
    /// The note.
    #[param(inline)]
    pub note_id: NoteId,
}
