//! What fuzzing has found stays found: every input of the corpus goes through its target again, without the driver.

use std::fs;
use std::path::Path;

#[test]
fn the_corpus_passes() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, target) in holdfast_fuzz::TARGETS {
        let inputs = fs::read_dir(corpus.join(name)).unwrap_or_else(|error| panic!("corpus/{name}: {error}"));
        let mut count = 0;
        for input in inputs {
            let path = input.expect("readable").path();
            println!("{}", path.display());
            target(&fs::read(path).expect("readable"));
            count += 1;
        }
        assert!(count > 0, "corpus/{name} is empty");
    }
}
