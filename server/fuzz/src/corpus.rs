//! Runs targets with the inputs that are kept.

use std::path::Path;

/// A target's name and the target.
pub type Target = (&'static str, fn(&[u8]));

/// Runs each target with every file of its directory in `corpus`; says which input it is at, in case it panics.
///
/// # Panics
/// When a target does, when it has no inputs, or when there are inputs of no target: then a name is misspelt.
pub fn run(corpus: &Path, targets: &[Target]) {
    let list = |directory: &Path| {
        let entries = std::fs::read_dir(directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
        let mut paths: Vec<_> =
            entries.map(|entry| entry.expect("a directory that can be read").path()).collect();
        paths.sort();
        paths
    };
    for directory in list(corpus) {
        let known = targets.iter().any(|(name, _)| directory.ends_with(name));
        assert!(known, "{}: expected the name of a target", directory.display());
    }
    for (name, target) in targets {
        let inputs = list(&corpus.join(name));
        assert!(!inputs.is_empty(), "no input for {name}");
        for input in inputs {
            let bytes = std::fs::read(&input).expect("an input that can be read");
            eprintln!("{}", input.display());
            target(&bytes);
        }
    }
}
