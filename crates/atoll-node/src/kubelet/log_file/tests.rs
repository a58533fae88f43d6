//! Logs as the shim leaves them: whole and partial lines, put aside and compressed.

use std::io::Write;

use super::*;

const AT: &str = "2026-01-02T03:04:05.000000006Z";

fn line(tag: &str, text: &str) -> String {
    format!("{AT} stdout {tag} {text}\n")
}

#[test]
fn entries_are_parsed_and_rendered() {
    let entry_line = line("F", "hello  world");
    let entry = parse(entry_line.as_bytes()).unwrap();
    assert_eq!(entry.render(false), b"hello  world\n");
    assert_eq!(entry.render(true), format!("{AT} hello  world\n").as_bytes());
    let part_line = line("P", "part");
    let part = parse(part_line.as_bytes()).unwrap();
    assert_eq!(part.render(false), b"part");
    assert_eq!(parse(line("F", "").as_bytes()).unwrap().render(false), b"\n");
    assert!(parse(b"not a log\n").is_none());
    assert!(entry.is_before("2027-01-01T00:00:00Z".parse().unwrap()));
    assert!(!entry.is_before("2025-01-01T00:00:00Z".parse().unwrap()));
}

fn text(lines: &VecDeque<Vec<u8>>) -> String {
    let bytes: Vec<u8> = lines.iter().flat_map(|l| parse(l).unwrap().render(false)).collect();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn the_tail_reaches_back_over_files() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("0.log");
    let mut gz = flate2::write::GzEncoder::new(
        File::create(dir.path().join("0.log.20260101-000000.gz")).unwrap(),
        flate2::Compression::fast(),
    );
    gz.write_all((line("F", "1") + &line("F", "2")).as_bytes()).unwrap();
    gz.finish().unwrap();
    std::fs::write(dir.path().join("0.log.20260101-000001"), line("F", "3")).unwrap();
    std::fs::write(&log, line("P", "4a") + &line("F", "4b") + &line("F", "5")).unwrap();
    std::fs::write(dir.path().join("10.log"), line("F", "no")).unwrap();
    let tail = |log: &Path, count| tail(&mut Follower::open(log).unwrap(), count);
    assert_eq!(text(&tail(&log, 1).unwrap()), "5\n");
    assert_eq!(text(&tail(&log, 2).unwrap()), "4a4b\n5\n");
    assert_eq!(text(&tail(&log, 4).unwrap()), "2\n3\n4a4b\n5\n");
    assert_eq!(text(&tail(&log, 99).unwrap()), "1\n2\n3\n4a4b\n5\n");
    assert_eq!(text(&tail(&log, 0).unwrap()), "");
}

#[test]
fn following_waits_for_whole_lines_and_crosses_rotation() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("0.log");
    let mut file = File::create(&log).unwrap();
    let mut follower = Follower::open(&log).unwrap();
    assert_eq!(follower.next_line().unwrap(), None);
    file.write_all(b"ha").unwrap();
    assert_eq!(follower.next_line().unwrap(), None);
    file.write_all(b"lf\n").unwrap();
    assert_eq!(follower.next_line().unwrap().unwrap(), b"half\n");
    file.write_all(b"last\n").unwrap();
    std::fs::rename(&log, dir.path().join("0.log.20260101-000000")).unwrap();
    std::fs::write(&log, "first\n").unwrap();
    assert_eq!(follower.next_line().unwrap().unwrap(), b"last\n");
    assert_eq!(follower.next_line().unwrap().unwrap(), b"first\n");
    assert_eq!(follower.next_line().unwrap(), None);
}

#[test]
fn last_words_are_the_end_of_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("0.log");
    let lines: String = (0..100).map(|i| line("F", &i.to_string())).collect();
    std::fs::write(&log, lines).unwrap();
    let words = last_words(&log).unwrap();
    assert!(words.starts_with("20\n") && words.ends_with("99\n"), "{words}");
}

#[test]
fn a_follower_goes_on_behind_the_tail() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("0.log");
    std::fs::write(&log, line("F", "1") + &line("F", "2") + "2026").unwrap();
    let mut follower = Follower::open(&log).unwrap();
    assert_eq!(text(&tail(&mut follower, 1).unwrap()), "2\n");
    let mut file = File::options().append(true).open(&log).unwrap();
    file.write_all(&line("F", "3").as_bytes()[4..]).unwrap();
    let next = follower.next_line().unwrap().unwrap();
    assert_eq!(parse(&next).unwrap().text, b"3", "a half-written line is whole");
}

#[test]
fn what_is_put_aside_or_compressed_meanwhile_is_read_once() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("0.log");
    let aside = dir.path().join("0.log.20260101-000000");
    std::fs::write(&aside, line("F", "1")).unwrap();
    std::fs::write(aside.with_extension("log.20260101-000000.gz.tmp"), "half").unwrap();
    std::fs::write(dir.path().join("0.log.20260101-000000.gz"), "while it is made").unwrap();
    std::fs::write(&log, line("F", "2")).unwrap();
    let follower = Follower::open(&log).unwrap();
    std::fs::rename(&log, dir.path().join("0.log.20260101-000001")).unwrap();
    std::fs::write(&log, line("F", "3")).unwrap();
    let mut older = open_older(&log, follower.inode()).unwrap();
    assert_eq!(older.len(), 1);
    let first = older[0].next_line().unwrap().unwrap();
    assert_eq!(parse(&first).unwrap().text, b"1");
}
