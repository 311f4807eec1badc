//! What readers see: all folds at one position, immutable, published by the recorder.
//!
//! A reader holds a reference for as long as it likes; nobody waits for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use crate::fold::Folds;
use crate::recorder::Input;

/// How long a reader waits for a newer view before it takes what is there.
const FRESH_WAIT: Duration = Duration::from_millis(500);

/// The published view.
#[derive(Debug)]
pub struct Views {
    current: RwLock<Arc<Folds>>,
    /// Where the log ends: the view may be a little behind.
    recorded: AtomicU64,
    published: watch::Sender<u64>,
}

impl Views {
    /// Begins with this view.
    pub fn new(folds: Folds) -> Self {
        let position = folds.position;
        Self {
            current: RwLock::new(Arc::new(folds)),
            recorded: AtomicU64::new(position),
            published: watch::channel(position).0,
        }
    }

    /// The view as it was last published.
    pub fn current(&self) -> Arc<Folds> {
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The positions of the views as they are published.
    pub fn positions(&self) -> watch::Receiver<u64> {
        self.published.subscribe()
    }

    /// Puts the next view in place.
    pub fn publish(&self, folds: Folds) {
        let position = folds.position;
        let folds = Arc::new(folds);
        let old = std::mem::replace(
            &mut *self.current.write().unwrap_or_else(PoisonError::into_inner),
            folds,
        );
        // Outside of the lock: the last reference frees a good deal.
        drop(old);
        self.published.send_replace(position);
    }

    /// Tells where the log ends now.
    pub fn recorded(&self, position: u64) {
        self.recorded.store(position, Ordering::Release);
    }

    /// Whether the view has all that the log has.
    pub fn is_current(&self) -> bool {
        *self.published.borrow() >= self.recorded.load(Ordering::Acquire)
    }
}

/// Gives readers a view that has all that was taken in before they asked.
#[derive(Clone, Debug)]
pub struct Fresh {
    views: Arc<Views>,
    inbox: mpsc::Sender<Input>,
}

impl Fresh {
    /// Readers of `views`, which asks the recorder behind `inbox`.
    pub fn new(views: Arc<Views>, inbox: mpsc::Sender<Input>) -> Self {
        Self { views, inbox }
    }

    /// The published views.
    pub fn views(&self) -> &Arc<Views> {
        &self.views
    }

    /// The newest view there can be; after a moment's wait for a busy recorder, the last one.
    pub async fn view(&self) -> Arc<Folds> {
        if !self.views.is_current() {
            let (done, published) = oneshot::channel();
            let ask = async {
                if self.inbox.send(Input::Publish(Some(done))).await.is_ok() {
                    let _ = published.await;
                }
            };
            // Late or gone: the last view is an honest answer as well, it says its position.
            let _ = tokio::time::timeout(FRESH_WAIT, ask).await;
        }
        self.views.current()
    }
}
