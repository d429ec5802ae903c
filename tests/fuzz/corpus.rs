//! The committed corpora: files of each kind, and numbers of inputs that found something or reach far.

use std::path::PathBuf;

fn folder(kind: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(kind)
}

/// The files of a kind with their names, in their order.
pub fn files(kind: &str) -> Vec<(String, Vec<u8>)> {
    let mut paths: Vec<_> = std::fs::read_dir(folder(kind))
        .expect("the corpus")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    let read = |path: PathBuf| {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        (name, std::fs::read(path).expect("readable"))
    };
    paths.into_iter().map(read).collect()
}

/// The lines of a text file of the corpus, but for comments.
pub fn lines(name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(folder(name)).expect("the corpus");
    let lines = text.lines().map(|line| line.split_once("  # ").map_or(line, |(line, _)| line));
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
}

/// The numbers of inputs that are kept for a target (`seeds.txt`: the target, the number, and what is found there).
pub fn seeds(target: &str) -> Vec<u64> {
    let of_target = |line: String| {
        let (name, seed) = line.split_once(' ')?;
        (name == target).then(|| seed.parse().expect("a number"))
    };
    lines("seeds.txt").into_iter().filter_map(of_target).collect()
}
