//! Every input that is kept, to every target.

use std::path::Path;

#[test]
fn what_is_kept_breaks_nothing() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    tern_fuzz::corpus::run(&corpus, &tern_server_fuzz::TARGETS);
}
