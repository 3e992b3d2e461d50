//! A value that is replaced as a whole and read by packet threads without waiting.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The writer's side.
#[derive(Debug)]
pub struct Shared<T> {
    version: AtomicU64,
    value: Mutex<Arc<T>>,
}

impl<T> Shared<T> {
    /// A shared value.
    pub fn new(value: T) -> Arc<Self> {
        Arc::new(Self { version: AtomicU64::new(0), value: Mutex::new(Arc::new(value)) })
    }

    /// Replaces the value; readers see it at their next [`Reader::get`].
    pub fn replace(&self, value: T) {
        *self.value.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
        self.version.fetch_add(1, Ordering::Release);
    }

    /// A reader for one thread.
    pub fn reader(self: &Arc<Self>) -> Reader<T> {
        let cached = self.load();
        // Version `u64::MAX` is never reached, so the first `get` looks again.
        Reader { shared: Arc::clone(self), seen: u64::MAX, cached }
    }

    /// The current value, for who does not look at it all the time.
    pub fn current(&self) -> Arc<T> {
        self.load()
    }

    fn load(&self) -> Arc<T> {
        Arc::clone(&self.value.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A reader's side: a cached copy and the version it belongs to. One atomic load per packet when nothing has changed.
#[derive(Debug)]
pub struct Reader<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
    cached: Arc<T>,
}

impl<T> Reader<T> {
    /// The current value.
    pub fn get(&mut self) -> &T {
        let version = self.shared.version.load(Ordering::Acquire);
        if version != self.seen {
            // Loaded after the version was read: at worst the value is newer than `seen` says and is loaded once more.
            self.cached = self.shared.load();
            self.seen = version;
        }
        &self.cached
    }

    /// The value that was got last.
    pub fn seen(&self) -> &T {
        &self.cached
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_see_the_newest_value() {
        let shared = Shared::new(1);
        let mut reader = shared.reader();
        assert_eq!(*reader.get(), 1);
        shared.replace(2);
        assert_eq!(*reader.get(), 2);
        let mut late = shared.reader();
        shared.replace(3);
        assert_eq!((*reader.get(), *late.get()), (3, 3));
    }
}
