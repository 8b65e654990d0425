//! A store in memory whose puts wait for the test to release them.

use std::sync::Arc;

use audit_core::async_trait;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    Error, GetOptions, GetResult, ListResult, ObjectMeta, ObjectStore, PutOptions, PutPayload,
    PutResult, Result,
};
use tokio::sync::watch;

use super::store_double::StoreDouble;

#[derive(Debug)]
pub struct GatedStore {
    inner: Arc<InMemory>,
    gate: watch::Sender<Gate>,
    puts: watch::Sender<usize>,
    /// Whether a put is executed even if its caller is gone.
    detached: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    Open,
    Closed,
    Panics,
}

impl GatedStore {
    pub fn new() -> Arc<GatedStore> {
        Arc::new(GatedStore {
            inner: Arc::default(),
            gate: watch::Sender::new(Gate::Open),
            puts: watch::Sender::new(0),
            detached: false,
        })
    }

    /// Like a server that received the whole request, which executes it even if nobody waits.
    pub fn detached() -> Arc<GatedStore> {
        let GatedStore { inner, gate, puts, detached: _ } =
            Arc::into_inner(GatedStore::new()).unwrap();
        Arc::new(GatedStore { inner, gate, puts, detached: true })
    }

    pub fn set(&self, gate: Gate) {
        self.gate.send_replace(gate);
    }

    /// Waits until this many puts have arrived in all, including the probe's two.
    pub async fn arrived(&self, puts: usize) {
        self.puts.subscribe().wait_for(|arrived| *arrived >= puts).await.unwrap();
    }

    pub fn puts(&self) -> usize {
        *self.puts.borrow()
    }

    pub fn inner(&self) -> &Arc<InMemory> {
        &self.inner
    }
}

async fn put(
    inner: Arc<InMemory>,
    mut gate: watch::Receiver<Gate>,
    location: Path,
    payload: PutPayload,
    options: PutOptions,
) -> Result<PutResult> {
    let gate = *gate.wait_for(|gate| *gate != Gate::Closed).await.unwrap();
    assert!(gate != Gate::Panics, "told to panic");
    inner.put_opts(&location, payload, options).await
}

#[async_trait]
impl StoreDouble for GatedStore {
    async fn put(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.puts.send_modify(|puts| *puts += 1);
        let put =
            put(Arc::clone(&self.inner), self.gate.subscribe(), location.clone(), payload, options);
        if self.detached { tokio::spawn(put).await.map_err(Error::from)? } else { put.await }
    }

    async fn get(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_level(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }
}
