//! The figures: a table for people, a JSON object for programs.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

/// What was measured, in order.
#[derive(Debug, Default)]
pub(crate) struct Report(Vec<Figure>);

#[derive(Debug)]
struct Figure {
    name: &'static str,
    value: f64,
    unit: &'static str,
}

impl Report {
    /// Adds a figure.
    pub(crate) fn add(&mut self, name: &'static str, value: f64, unit: &'static str) {
        eprintln!("{name}: {value:.3} {unit}");
        self.0.push(Figure { name, value, unit });
    }

    /// A figure that was added.
    pub(crate) fn value(&self, name: &str) -> Option<f64> {
        let figure = self.0.iter().find(|figure| figure.name == name);
        figure.map(|figure| figure.value)
    }

    /// Prints the table, and what the figures are in relation to the limits.
    pub(crate) fn print(&self) {
        println!();
        for Figure { name, value, unit } in &self.0 {
            println!("{name:<36} {value:>12.3}  {unit}");
        }
        let ratios = [
            (
                "a workflow of three steps / unary calls",
                "workflows_per_second_200",
                "limit_unary_per_second",
                1.0,
            ),
            (
                "latency p50 / (4 syncs + 4 round trips)",
                "latency_ms_p50_1",
                "",
                1_000.0,
            ),
        ];
        println!();
        for (what, over, under, scale) in ratios {
            let under = match under {
                "" => self
                    .value("limit_sync_us")
                    .zip(self.value("limit_round_trip_us"))
                    .map(|(sync, trip)| 4.0 * (sync + trip)),
                name => self.value(name),
            };
            if let (Some(over), Some(under)) = (self.value(over), under) {
                println!("{what:<44} {:>6.2}", over * scale / under);
            }
        }
    }

    /// Writes the JSON object.
    pub(crate) fn write(&self, file: &Path) -> Result<()> {
        let entry = |figure: &Figure| {
            let value = json!({ "value": figure.value, "unit": figure.unit });
            (figure.name.to_owned(), value)
        };
        let object: Map<String, Value> = self.0.iter().map(entry).collect();
        let text = serde_json::to_string_pretty(&object)?;
        std::fs::write(file, text + "\n").with_context(|| file.display().to_string())
    }
}
