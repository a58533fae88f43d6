use super::*;

#[test]
fn lists_are_as_wide_as_what_they_show() {
    assert_eq!([0, 1, 100, 101, 5000].map(list_seats), [1, 1, 1, 2, 10]);
}

#[tokio::test(start_paused = true)]
async fn one_that_waits_too_long_is_sent_away() {
    let level = Level::new("x");
    let shape = level::Shape { queues: 4, hand: 2, length_max: 5, ..level::Shape::default() };
    level.configure(HeaderValue::from_static("u"), shape);
    level.set_limit(1);
    let ticket = Level::admit(&level, 1, 1, WAIT_MAX).await.unwrap();
    assert!(Level::admit(&level, 2, 1, WAIT_MAX).await.is_none());
    assert_eq!(level.numbers(), (1, 1, 0));
    let second = Level::admit(&level, 2, 1, WAIT_MAX);
    let end = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(ticket);
    };
    let (second, ()) = tokio::join!(second, end);
    assert!(second.is_some());
    drop(second);
    assert_eq!(level.numbers(), (1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn one_whose_client_goes_away_leaves_no_seat_taken() {
    let level = Level::new("x");
    let shape = level::Shape { queues: 1, hand: 1, length_max: 5, ..level::Shape::default() };
    level.configure(HeaderValue::from_static("u"), shape);
    level.set_limit(1);
    let ticket = Level::admit(&level, 1, 1, WAIT_MAX).await.unwrap();
    let gone = tokio::time::timeout(Duration::from_secs(1), Level::admit(&level, 1, 1, WAIT_MAX));
    assert!(gone.await.is_err());
    assert_eq!(level.numbers(), (1, 1, 0));
    drop(ticket);
    assert_eq!(level.numbers(), (1, 0, 0));
}
