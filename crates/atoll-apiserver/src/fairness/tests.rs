//! Who waits, who is served, and who is refused.

use super::*;

/// Short enough for a test, long enough for whoever is to be called before.
const WAIT: Duration = Duration::from_millis(100);

fn one_seat() -> Arc<Level> {
    let level = Level::new("x");
    let shape = level::Shape { queues: 4, hand: 2, length_max: 5, ..level::Shape::default() };
    level.configure(HeaderValue::from_static("u"), shape);
    level.set_limit(1);
    level
}

#[test]
fn lists_are_as_wide_as_what_they_show() {
    assert_eq!([0, 1, 100, 101, 5000].map(list_seats), [1, 1, 1, 2, 10]);
}

#[tokio::test]
async fn one_that_waits_too_long_is_sent_away() {
    let level = one_seat();
    let ticket = Level::admit(&level, 1, 1, WAIT).await.unwrap();
    assert!(Level::admit(&level, 2, 1, WAIT).await.is_none());
    assert_eq!(level.numbers(), (1, 1, 0));
    let second = Level::admit(&level, 2, 1, WAIT_MAX);
    let end = async {
        tokio::time::sleep(WAIT).await;
        drop(ticket);
    };
    let (second, ()) = tokio::join!(second, end);
    assert!(second.is_some());
    drop(second);
    assert_eq!(level.numbers(), (1, 0, 0));
}

#[tokio::test]
async fn one_whose_client_goes_away_leaves_no_seat_taken() {
    let level = one_seat();
    let ticket = Level::admit(&level, 1, 1, WAIT_MAX).await.unwrap();
    let gone = tokio::time::timeout(WAIT, Level::admit(&level, 1, 1, WAIT_MAX));
    assert!(gone.await.is_err());
    assert_eq!(level.numbers(), (1, 1, 0));
    drop(ticket);
    assert_eq!(level.numbers(), (1, 0, 0));
}
