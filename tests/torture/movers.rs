//! People whose files are moved, replaced and erased by an operator, while others write.

use std::{net::SocketAddr, path::Path, time::Duration};

use cubby::{Store, StoreOptions};

use crate::{
    http::{Http, Reply},
    people::{Look, World, Wrong},
    rng::Rng,
    step::{Act, Step},
};

/// What is done to one of three people; adoptions are of what the third number has.
type Scene = (Act, usize, usize);

/// After these a redo of what the log has from before would bring back, or destroy, what it must not. In each the last
/// may be left out by the power cut, and a note may follow.
const STORIES: [&[Scene]; 7] = [
    &[(Act::Write, 0, 0), (Act::Write, 0, 0), (Act::Write, 1, 0), (Act::Delete, 1, 0), (Act::Replace, 0, 1)],
    &[(Act::Write, 0, 0), (Act::Write, 1, 0), (Act::Delete, 1, 0), (Act::Replace, 0, 1), (Act::Write, 0, 0)],
    &[(Act::Create, 2, 0), (Act::Write, 1, 0), (Act::Delete, 1, 0), (Act::Adopt, 2, 1)],
    &[(Act::Write, 0, 0), (Act::Delete, 0, 0), (Act::Restore, 0, 0), (Act::Write, 0, 0), (Act::Delete, 0, 0)],
    &[(Act::Write, 0, 0), (Act::Purge, 0, 0), (Act::Revive, 0, 0), (Act::Write, 0, 0)],
    &[(Act::Write, 0, 0), (Act::Delete, 0, 0), (Act::Purge, 0, 0)],
    &[(Act::Write, 0, 0), (Act::Suspend, 0, 0), (Act::Resume, 0, 0), (Act::Write, 0, 0)],
];

/// Whose people are created before, up to this story: a round rarely has as many.
const PREPARED: u32 = 12;

pub struct Mover {
    world: World,
    rng: Rng,
    name: String,
    stories: u32,
    pub done: u64,
    wrong: Vec<String>,
}

impl Mover {
    /// The `number`-th of several. `round` is in the ids of its people, too.
    pub fn new(round: u32, number: u32, seed: u64) -> Self {
        let rng = Rng::new(seed, 2000 + u64::from(number) + 100 * u64::from(round));
        let world = World::after((100 * round + number) * 10_000);
        Self { world, rng, name: format!("{round}_{number}"), stories: 0, done: 0, wrong: Vec::new() }
    }

    /// Creates the people of every second story. Where a file is new, an operation on it flushes all files, and a
    /// barrier has nothing before it; so these are made while another server serves, whose end empties the log.
    pub fn prepare(&mut self, address: SocketAddr) {
        let mut http = Http::new(address);
        for story in (2..=PREPARED).step_by(2) {
            for person in self.people(story) {
                self.step(&mut http, &Step::new(Act::Create, &person));
            }
        }
    }

    fn people(&self, story: u32) -> [String; 3] {
        ["ada", "bob", "cyd"].map(|who| format!("moved_{}_{story}_{who}", self.name))
    }

    /// Tells stories until the server does not answer any more.
    pub fn work(&mut self, address: SocketAddr) {
        let mut http = Http::new(address);
        loop {
            self.stories += 1;
            let people = self.people(self.stories);
            let story = STORIES[self.rng.index(STORIES.len())];
            for &(act, on, from) in story {
                let step = Step::new(act, &people[on]).from(&people[from]);
                match self.step(&mut http, &step) {
                    None => return,
                    Some(true) => self.done += 1,
                    // What follows would be another story.
                    Some(false) => break,
                }
            }
        }
    }

    /// Whether it was done; none without an answer.
    fn step(&mut self, http: &mut Http, step: &Step) -> Option<bool> {
        let before = self.world.clone();
        let (note, text) = self.world.long_draft(&step.on);
        step.begins(&mut self.world);
        let request = step.request(Some(&text)).unwrap();
        let headers: Vec<(&str, &str)> = request.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = match http.send(request.method, &request.path, &headers, request.body.as_ref()) {
            Reply::Answer(answer) => answer,
            Reply::Cut => return None,
            Reply::Refused => {
                self.world = before;
                return None;
            }
        };
        match answer.status {
            200..300 => {
                step.ended(&mut self.world);
                if step.act == Act::Write {
                    self.world.wrote(&step.on, note);
                }
            }
            // Its outcome is unknown.
            503 | 507 => {}
            status => self.wrong.push(format!("STATUS: {status} for {step}: {}", answer.text())),
        }
        Some((200..300).contains(&answer.status))
    }
}

/// Compares with what is there, and brings everybody back. Nobody has the folder.
pub fn compare(data: &Path, movers: &mut [Mover]) -> Vec<String> {
    let mut wrong = Wrong::new();
    let look = match Look::at(data) {
        Ok(look) => look,
        Err(why) => return vec![why],
    };
    let mut found = Vec::new();
    movers.iter_mut().for_each(|mover| mover.world.compare_rows(&look, &mut wrong));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = match Store::open(StoreOptions::new(data)) {
            Ok(store) => store,
            Err(error) => return wrong.push(("ERROR", format!("the folder cannot be opened: {error}"))),
        };
        for mover in movers.iter_mut() {
            let ids = mover.world.ids();
            found.push(mover.world.recover(&store, &ids, &mut wrong).await);
        }
        store.close(tokio::time::Instant::now() + Duration::from_secs(10)).await;
    });
    for (mover, found) in movers.iter().zip(&found) {
        mover.world.compare_notes(&mover.world.ids(), found, &mut wrong);
        mover.world.compare_bytes(data, &mut wrong);
    }
    let told = movers.iter_mut().flat_map(|mover| std::mem::take(&mut mover.wrong));
    told.chain(wrong.into_iter().map(|(kind, what)| format!("{kind}: {what}"))).collect()
}
