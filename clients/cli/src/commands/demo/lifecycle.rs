//! The first demonstration: one transaction's events, while it runs and as its trace.

use std::time::{Duration, Instant};

use multiagents_client::Start;
use proto::wire;
use serde_json::json;

use super::{END_TIMEOUT, Stage, average_ms, no_end};
use crate::contracts;
use crate::failure::Failure;
use crate::words;

/// How often the page looks.
const INTERVAL: Duration = Duration::from_millis(500);
const WINDOW: Duration = Duration::from_secs(60);

/// Shows it.
pub(super) async fn show(stage: &mut Stage<'_>) -> Result<(), Failure> {
    stage.heading("🔍 EVENT LIFECYCLE TRACKING DEMO")?;
    let start = Start::new("simple_monitoring").input(&json!({"data": "monitoring_test"}))?;
    let id = stage.client.begin(start).await?.transaction_id;
    let began = Instant::now();
    let transaction = loop {
        let transaction = stage.client.status(&id).await?;
        let metrics = stage.monitor.event_metrics(Some(WINDOW)).await?;
        stage.say(format!(
            "State: {} | Events: {} | Latency: {:.1}ms",
            words::transaction_state(transaction.state),
            metrics.total_events,
            average_ms(metrics.latency.as_ref()),
        ))?;
        if words::has_ended(transaction.state) {
            break transaction;
        }
        if began.elapsed() > END_TIMEOUT {
            return Err(no_end(&transaction));
        }
        tokio::time::sleep(INTERVAL).await;
    };
    stage.until_seen(&[transaction]).await?;
    let trace = stage.monitor.trace(&id).await?;
    stage.say("\n📊 Event Trace:")?;
    let mut state = String::new();
    for event in &trace.events {
        let line = trace_line(event, &mut state, stage.output);
        stage.say(line)?;
    }
    let figures = contracts::to_json("GetTransactionTraceResponse", &trace);
    stage.figures("event_lifecycle", &figures)
}

/// "  TIME: TYPE -> STAGE"; an event of a whole transaction has the transaction's state there.
fn trace_line(event: &wire::Event, state: &mut String, output: &crate::output::Output) -> String {
    use wire::EventType as Type;
    let after = match event.r#type() {
        Type::TransactionStarted => Some("pending"),
        Type::TransactionCompleted => Some("completed"),
        Type::TransactionFailed => Some("failed"),
        Type::TransactionCancelled => Some("cancelled"),
        Type::TransactionCompensated => Some("compensated"),
        Type::CompensationStarted => Some("compensating"),
        _ => None,
    };
    if let Some(after) = after {
        after.clone_into(state);
    }
    let stage = if event.stage == 0 {
        state.clone()
    } else {
        words::stage(event.stage)
    };
    format!(
        "  {}: {} -> {stage}",
        output.zone.iso(event.time.as_ref()),
        words::event_type(event.r#type)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Output;

    #[test]
    fn a_trace_has_the_pages_form() {
        let output = Output::to(Box::new(std::io::sink()), false);
        let mut state = String::new();
        let mut event = wire::Event {
            time: Some(prost_types::Timestamp {
                seconds: 1_700_000_000,
                nanos: 123_456_000,
            }),
            r#type: wire::EventType::TransactionStarted.into(),
            ..Default::default()
        };
        assert_eq!(
            trace_line(&event, &mut state, &output),
            "  2023-11-14T22:13:20.123456+00:00: transaction_started -> pending"
        );
        event.r#type = wire::EventType::CommandPickedUp.into();
        event.stage = wire::Stage::PickedUp.into();
        assert_eq!(
            trace_line(&event, &mut state, &output),
            "  2023-11-14T22:13:20.123456+00:00: command_picked_up -> picked_up"
        );
    }
}
