//! What a machine may lack that a test needs.

use std::io::Write;

/// Set where every test has to run, as `.ci/run` does.
const EVERY_TEST: &str = "EVERY_TEST";

/// A test cannot run here. Where every test has to, it fails; elsewhere that is told, past the capture of a test that
/// passes.
pub(crate) fn cannot_run(test: &str, why: &str) {
    assert!(std::env::var_os(EVERY_TEST).is_none(), "{why}");
    let _ = writeln!(std::io::stderr(), "NOT TESTED: {test}: {why}");
}
