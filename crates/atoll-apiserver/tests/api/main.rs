//! The API over a real store, asked as clients ask it.

mod client;
mod defaults;
mod deletes;
mod discovery;
mod kubectl;
mod lists;
mod matrix;
mod services;
mod watches;
mod writes;
