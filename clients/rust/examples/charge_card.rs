//! A worker host of your own: offers `charge_card` to a suite on this machine until Ctrl-C.

use multiagents_client::{Context, Host, Worker};
use serde_json::json;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), multiagents_client::Error> {
    let charge = Worker::new("charge_card", |context: Context| async move {
        let order: String = context.require("order")?;
        // The same for every attempt: pass it on to whoever must not charge twice.
        let key = context.idempotency_key();
        Ok(json!({ "charged": order, "key": key }))
    });

    let stop = CancellationToken::new();
    let on_signal = stop.clone();
    tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        on_signal.cancel();
    });
    let departure = Host::builder("127.0.0.1:7001")
        .worker(charge, 8)
        .run(stop)
        .await?;
    println!("{departure:?}");
    Ok(())
}
