//! The log of record, read as a stranger may read it.

use std::collections::BTreeMap;

use multiagents_client::Client;
use proto::batch::{self, Stored};
use proto::event::{CommandEvent, Event, Kind, TransactionEvent};
use proto::id::TransactionId;
use proto::lifecycle;

/// Reads all of the log, without a hole, each event once.
pub async fn read(client: &Client) -> Vec<Stored> {
    let mut stream = client.read_log("", false).await.expect("the log opens");
    let mut events: Vec<Stored> = Vec::new();
    while let Some(message) = stream.message().await.expect("the log reads on") {
        let Some(bytes) = message.batch else { continue };
        let decoded = batch::decode(&bytes, None).expect("a batch");
        assert!(decoded.unknown.is_empty(), "events of an unknown type");
        for stored in decoded.events {
            let next = events.last().map(|last| last.offset + 1);
            assert!(
                next.is_none_or(|next| next == stored.offset),
                "offset {} after {next:?}",
                stored.offset
            );
            events.push(stored);
        }
    }
    events
}

/// The offset that the next event will get.
pub async fn head(client: &Client) -> u64 {
    let mut stream = client.read_log("", false).await.expect("the log opens");
    let first = stream.message().await.expect("the log reads");
    first.map_or(0, |message| message.head_offset)
}

/// What a log says of one transaction.
#[derive(Clone, Debug, Default)]
pub struct Story {
    /// How often it started.
    pub starts: u32,
    /// How often it ended, and as what, the last time.
    pub ends: Vec<TransactionEvent>,
    /// How often each step completed, and how often it was undone: by (step, undo).
    pub completions: BTreeMap<(String, bool), u32>,
    /// Its command's events in order: (step, undo, attempt, what).
    pub commands: Vec<(String, bool, u32, CommandEvent)>,
}

/// Each transaction's story.
pub fn stories(events: &[Stored]) -> BTreeMap<TransactionId, Story> {
    let mut stories: BTreeMap<TransactionId, Story> = BTreeMap::new();
    for Stored { event, .. } in events {
        let Event { kind, .. } = event;
        match kind {
            Kind::Transaction { id, what, .. } => {
                let story = stories.entry(*id).or_default();
                match what {
                    TransactionEvent::Started(_) => story.starts += 1,
                    _ if lifecycle::state_after(what).is_some_and(lifecycle::is_end) => {
                        story.ends.push(what.clone());
                    }
                    _ => {}
                }
            }
            Kind::Command {
                id, command, what, ..
            } => {
                let story = stories.entry(*id).or_default();
                let step = command.step.to_string();
                if matches!(what, CommandEvent::Completed { .. }) {
                    *story
                        .completions
                        .entry((step.clone(), command.undo))
                        .or_default() += 1;
                }
                story
                    .commands
                    .push((step, command.undo, command.attempt, what.clone()));
            }
            _ => {}
        }
    }
    stories
}

/// What no log may say, whatever happened: nothing starts or ends twice, no step completes twice,
/// and every command goes through its life in order.
pub fn assert_sound(events: &[Stored]) {
    for (id, story) in stories(events) {
        assert_eq!(story.starts, 1, "{id} started {} times", story.starts);
        assert!(story.ends.len() <= 1, "{id} ended as {:?}", story.ends);
        for ((step, undo), count) in &story.completions {
            assert_eq!(
                *count, 1,
                "{id}: {step} (undo: {undo}) completed {count} times"
            );
        }
        let mut stages = BTreeMap::new();
        for (step, undo, attempt, what) in &story.commands {
            let stage = stages
                .entry((step, undo, attempt))
                .or_insert(lifecycle::Stage::Unspecified);
            let next = lifecycle::stage(what);
            assert!(
                lifecycle::may_follow(*stage, next),
                "{id}: {step}#{attempt} (undo: {undo}) went from {stage:?} to {next:?}"
            );
            *stage = next;
        }
    }
    let times = events.iter().map(|stored| stored.event.time);
    assert!(times.is_sorted(), "the engine's time went back");
}
