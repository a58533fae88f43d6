//! Job and CronJob: work that ends.
