//! The panics of a run. Those of tasks end in a handle that nobody reads, and what has panicked is soon replaced: they are
//! written down where they happen.

use std::cell::RefCell;
use std::panic::{self, PanicHookInfo};
use std::sync::Once;

/// Of one run so many are kept: the first says the most.
const KEPT_MAX: usize = 8;

thread_local! {
    /// Of the run that is under way on this thread.
    static PANICS: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Does this, and tells what has panicked on this thread meanwhile, each with its place, in their order. `None` in place of a
/// result when it has panicked itself.
pub fn caught<T>(what: impl FnOnce() -> T) -> (Option<T>, Vec<String>) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            note(info);
            before(info);
        }));
    });
    PANICS.set(Some(Vec::new()));
    let result = panic::catch_unwind(panic::AssertUnwindSafe(what));
    (result.ok(), PANICS.take().unwrap_or_default())
}

fn note(info: &PanicHookInfo<'_>) {
    let text = info.payload_as_str().unwrap_or("no text");
    let place = info.location().map_or("somewhere".to_owned(), |at| format!("{}:{}", at.file(), at.line()));
    // A thread that ends has none any more, and one that is no run's keeps none.
    let _ = PANICS.try_with(|panics| {
        if let Ok(mut panics) = panics.try_borrow_mut()
            && let Some(panics) = panics.as_mut().filter(|panics| panics.len() < KEPT_MAX)
        {
            panics.push(format!("{text} ({place})"));
        }
    });
}
