//! From what is logged to a line of text or JSON.
//!
//! Pure but for reading the wall clock; where lines go is `sink`'s business.

use std::fmt::{self, Write as _};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber, span};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::sink::{Line, Queue};
use super::{escape_control, is_control};

/// How a line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Text,
    ColouredText,
    Json,
}

/// Turns each thing logged into one line per destination.
pub(super) struct Lines {
    component: &'static str,
    console: Option<Form>,
    file: Option<Form>,
    queue: Queue,
}

impl Lines {
    pub(super) fn new(
        component: &'static str,
        console: Option<Form>,
        file: Option<Form>,
        queue: Queue,
    ) -> Self {
        Self {
            component,
            console,
            file,
            queue,
        }
    }

    fn line(&self, said: &Said<'_>) -> Line {
        Line {
            console: self.console.map(|form| said.write(form)),
            file: self.file.map(|form| said.write(form)),
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_new_span(
        &self,
        attributes: &span::Attributes<'_>,
        id: &span::Id,
        context: Context<'_, S>,
    ) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        // Outer spans first, so that an inner value of the same name wins.
        let mut fields = Fields::default();
        for span in context
            .event_scope(event)
            .into_iter()
            .flat_map(|scope| scope.from_root())
        {
            if let Some(outer) = span.extensions().get::<Fields>() {
                fields.0.extend(outer.0.clone());
            }
        }
        event.record(&mut fields);
        let said = Said {
            time: now(),
            level: *event.metadata().level(),
            component: self.component,
            target: event.metadata().target(),
            fields: fields.0,
        };
        self.queue
            .tell_dropped(|dropped| self.line(&lost(self.component, dropped)));
        self.queue.put(self.line(&said));
    }
}

/// The line that stands for those that were dropped.
fn lost(component: &str, dropped: u64) -> Said<'_> {
    let mut fields = Map::new();
    fields.insert(
        "message".into(),
        "log lines were dropped: more was said than written".into(),
    );
    fields.insert("dropped".into(), dropped.into());
    Said {
        time: now(),
        level: Level::WARN,
        component,
        target: module_path!(),
        fields,
    }
}

/// One thing logged, ready to be written in any form.
pub(super) struct Said<'a> {
    pub(super) time: String,
    pub(super) level: Level,
    pub(super) component: &'a str,
    pub(super) target: &'a str,
    pub(super) fields: Map<String, Value>,
}

impl Said<'_> {
    pub(super) fn write(&self, form: Form) -> String {
        match form {
            Form::Text => self.text(""),
            Form::ColouredText => self.text(colour(self.level)),
            Form::Json => self.json(),
        }
    }

    fn text(&self, colour: &str) -> String {
        let end = if colour.is_empty() { "" } else { "\x1b[0m" };
        let message = self.fields.get("message").map(plain).unwrap_or_default();
        let mut line = format!(
            "{} {colour}{:>5}{end} {} {}",
            self.time,
            self.level,
            self.component,
            escape_control(&message),
        );
        for (name, value) in self.fields.iter().filter(|(name, _)| *name != "message") {
            let _ = write!(line, " {name}={}", escape_control(&plain(value)));
        }
        line.push('\n');
        line
    }

    fn json(&self) -> String {
        let mut object = Map::new();
        object.insert("timestamp".into(), self.time.as_str().into());
        object.insert("level".into(), self.level.as_str().into());
        object.insert("component".into(), self.component.into());
        object.insert("logger".into(), self.target.into());
        object.insert(
            "message".into(),
            self.fields.get("message").cloned().unwrap_or_default(),
        );
        for (name, value) in self.fields.iter().filter(|(name, _)| *name != "message") {
            // A field may not pass for one of the line's own.
            let name = if object.contains_key(name) {
                format!("field.{name}")
            } else {
                name.clone()
            };
            object.insert(name, value.clone());
        }
        // JSON itself escapes C0 only; the rest stands in strings alone, so it can be escaped here.
        let mut line = String::new();
        for c in Value::Object(object).to_string().chars() {
            if is_control(c) {
                let _ = write!(line, "\\u{:04x}", u32::from(c));
            } else {
                line.push(c);
            }
        }
        line.push('\n');
        line
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn colour(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        Level::DEBUG => "\x1b[34m",
        Level::TRACE => "\x1b[35m",
    }
}

/// The wall clock in UTC, as RFC 3339 with microseconds.
pub(super) fn now() -> String {
    let mut time = String::new();
    let _ = SystemTime.format_time(&mut Writer::new(&mut time));
    time
}

#[derive(Default)]
struct Fields(Map<String, Value>);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.0.insert(field.name().into(), value.to_string().into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0
            .insert(field.name().into(), format!("{value:?}").into());
    }
}
