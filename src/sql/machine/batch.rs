//! The steps of a batch, and their results.

use super::{Fatal, Machine, Outcome, Ran, Stop};
use crate::{
    sql::{answer::Form, model::Condition, program::Step, state::Place},
    sqlite::guest::{Done, Guest, SqlError},
};

impl Machine {
    pub(super) fn batch(&mut self, guest: &Guest<'_>, place: Place, steps: &[Step]) -> Fatal<Option<Stop>> {
        while let Some(step) = steps.get(self.at.outcomes.len()) {
            self.whole = self.answer.mark();
            if !step.condition.as_ref().is_none_or(|condition| self.holds(condition)) {
                self.skip();
                continue;
            }
            let mark = self.answer.mark();
            let number = self.at.outcomes.len();
            self.before_step();
            let ran = match &step.statement {
                Ok(statement) => self.statement(guest, place, statement, number)?,
                Err(error) => Ran::Done(Err(error.clone())),
            };
            match ran {
                Ran::Done(Ok(())) => self.at.outcomes.push(Outcome::Ok),
                Ran::Done(Err(error)) => {
                    self.answer.back_to(mark);
                    self.report_step(Err(error));
                }
                Ran::Stop(stop) => {
                    self.answer.back_to(mark);
                    return Ok(Some(stop));
                }
            }
            if std::mem::take(&mut self.changed_foreign_keys) {
                return Ok(Some(Stop::ForeignKeys));
            }
        }
        self.close_batch();
        Ok(None)
    }

    /// What stands before the result of a step.
    fn before_step(&mut self) {
        if self.answer.form() == Form::Cursor {
            return;
        }
        if self.at.outcomes.is_empty() {
            self.answer.open_result("batch");
            self.answer.put(br#"{"step_results":["#);
        } else {
            self.answer.put(b",");
        }
    }

    pub(super) fn skip(&mut self) {
        self.before_step();
        if self.answer.form() != Form::Cursor {
            self.answer.put(b"null");
        }
        self.at.outcomes.push(Outcome::Skipped);
    }

    /// The result of a step that failed, or was not run here.
    pub(super) fn report_step(&mut self, ran: Result<(), SqlError>) {
        let number = self.at.outcomes.len();
        self.before_step();
        match (ran, self.answer.form()) {
            (Ok(()), _) => {
                let _ = self.answer.result(number).finish(&Done::default());
                self.at.outcomes.push(Outcome::Ok);
            }
            (Err(error), Form::Cursor) => {
                self.answer.fail_step(number, &error);
                self.at.outcomes.push(Outcome::Error);
            }
            (Err(error), _) => {
                self.answer.put(b"null");
                self.at.outcomes.push(Outcome::Error);
                let error = self.answer.count(error);
                self.at.errors.push(error);
            }
        }
        self.whole = self.answer.mark();
    }

    pub(super) fn close_batch(&mut self) {
        if self.answer.form() == Form::Cursor {
            return;
        }
        if self.at.outcomes.is_empty() {
            self.before_step();
        }
        self.answer.put(br#"],"step_errors":["#);
        let mut errors = std::mem::take(&mut self.at.errors).into_iter();
        for (n, outcome) in std::mem::take(&mut self.at.outcomes).into_iter().enumerate() {
            if n > 0 {
                self.answer.put(b",");
            }
            match (outcome == Outcome::Error).then(|| errors.next()).flatten() {
                Some(error) => self.answer.error(&error),
                None => self.answer.put(b"null"),
            }
        }
        self.answer.put(b"]}");
        self.answer.close();
    }

    fn holds(&self, condition: &Condition) -> bool {
        let ended = |step: &usize, outcome| self.at.outcomes.get(*step) == Some(&outcome);
        match condition {
            Condition::Ok(step) => ended(step, Outcome::Ok),
            Condition::Error(step) => ended(step, Outcome::Error),
            Condition::Not(other) => !self.holds(other),
            Condition::And(all) => all.iter().all(|other| self.holds(other)),
            Condition::Or(any) => any.iter().any(|other| self.holds(other)),
            Condition::IsAutocommit => self.state.transaction.is_none(),
        }
    }
}
