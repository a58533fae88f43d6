//! How a server ends.

use std::time::Duration;

use crate::client::{Api, CONFIG_MAPS, config_map};

#[tokio::test(flavor = "multi_thread")]
async fn it_is_not_ready_before_it_ends_and_watches_end_well() {
    let api = Api::start_with(|config| config.shutdown_delay = Duration::from_secs(2)).await;
    api.create(CONFIG_MAPS, &config_map("x")).await.ok();
    let mut watch = api.watch(&format!("{CONFIG_MAPS}?watch=1"), "application/json").await;
    watch.step().await;
    assert_eq!(api.get("/readyz").await.code, 200);
    let ending = api.server.clone();
    let end = tokio::task::JoinSet::from_iter([async move { ending.shutdown().await }]);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(api.get("/readyz").await.code, 500);
    assert_eq!(api.get("/livez").await.code, 200);
    // It still answers while those who spread load look elsewhere.
    assert_eq!(api.get(CONFIG_MAPS).await.code, 200);
    assert_eq!(watch.next().await, None);
    end.join_all().await;
    api.store.shutdown().await;
}
