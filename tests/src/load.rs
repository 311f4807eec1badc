//! Clients that start transactions and remember what was acknowledged.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use multiagents_client::{Client, Start};
use tokio::task::JoinSet;

/// A load that goes on until it is stopped.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    clients: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    next_key: AtomicU64,
    acknowledged: Mutex<BTreeMap<String, String>>,
    last: Mutex<Option<Instant>>,
}

impl Load {
    /// `clients` at once, each starting `workflow` again and again. A start that failed is repeated
    /// with the same key until it is acknowledged: a crash may have swallowed the answer alone.
    pub fn start(client: &Client, clients: usize, workflow: &str) -> Self {
        Self::padded(client, clients, workflow, 0)
    }

    /// The same, with so many bytes beside the key in every other input.
    pub fn padded(client: &Client, clients: usize, workflow: &str, padding: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let mut tasks = JoinSet::new();
        for _ in 0..clients {
            let (client, shared) = (client.clone(), shared.clone());
            let workflow = workflow.to_owned();
            tasks.spawn(async move {
                while !shared.stop.load(Ordering::Relaxed) {
                    let number = shared.next_key.fetch_add(1, Ordering::Relaxed);
                    let padding = [0, padding][usize::from(number % 2 == 1)];
                    let key = format!("key-{number}");
                    shared.acknowledge(&client, &workflow, key, padding).await;
                }
            });
        }
        Self {
            shared,
            clients: tasks,
        }
    }

    /// How many starts were acknowledged.
    pub fn count(&self) -> usize {
        self.shared.acknowledged.lock().expect("no panic").len()
    }

    /// When the last start was acknowledged.
    pub fn last_acknowledged_at(&self) -> Option<Instant> {
        *self.shared.last.lock().expect("no panic")
    }

    /// Each key with its transaction, as acknowledged so far.
    pub fn acknowledged(&self) -> BTreeMap<String, String> {
        self.shared.acknowledged.lock().expect("no panic").clone()
    }

    /// Ends it, and gives each key with the transaction that was acknowledged for it.
    pub async fn stop(mut self) -> BTreeMap<String, String> {
        self.shared.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("a client's task ends well");
        }
        self.shared.acknowledged.lock().expect("no panic").clone()
    }
}

impl Shared {
    async fn acknowledge(&self, client: &Client, workflow: &str, key: String, padding: usize) {
        let input = serde_json::json!({ "data": key, "padding": key.repeat(padding / key.len()) });
        loop {
            let start = Start::new(workflow).input(&input).expect("an object");
            match client.begin(start.key(key.clone())).await {
                Ok(started) => {
                    *self.last.lock().expect("no panic") = Some(Instant::now());
                    let mut acknowledged = self.acknowledged.lock().expect("no panic");
                    acknowledged.insert(key, started.transaction_id);
                    return;
                }
                Err(error) if error.is_retryable() || error.is_unreachable() => {
                    crate::wait::a_moment().await;
                }
                Err(error) => panic!("{key} was refused: {error}"),
            }
        }
    }
}
