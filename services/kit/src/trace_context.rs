//! W3C trace context (`traceparent`), parsed and written.
//!
//! Pure functions: whoever has a header passes it in. Parsing is strict, and what does not
//! parse is treated as absent, as the recommendation asks.

use std::fmt;

/// The trace that a piece of work belongs to, and the span that caused it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// Never all zeros.
    pub trace_id: [u8; 16],
    /// Never all zeros.
    pub span_id: [u8; 8],
    /// Bit 0 says that the caller records this trace.
    pub flags: u8,
}

impl TraceContext {
    /// Reads a `traceparent` header; absent (None) when it breaks any rule.
    pub fn parse(header: &str) -> Option<Self> {
        let mut parts = header.trim().split('-');
        let [version] = bytes(parts.next()?)?;
        let trace_id: [u8; 16] = bytes(parts.next()?)?;
        let span_id: [u8; 8] = bytes(parts.next()?)?;
        let [flags] = bytes(parts.next()?)?;
        // Version 0 has exactly four parts; a later one may have more, which we leave alone.
        let known = version != 0xff && (version != 0 || parts.next().is_none());
        (known && trace_id != [0; 16] && span_id != [0; 8]).then_some(Self {
            trace_id,
            span_id,
            flags,
        })
    }

    /// The same trace with `span_id` as the cause of what comes next.
    pub fn child(self, span_id: [u8; 8]) -> Self {
        Self { span_id, ..self }
    }

    /// Whether the caller records this trace.
    pub fn sampled(self) -> bool {
        self.flags & 1 == 1
    }
}

/// Writes the header.
impl fmt::Display for TraceContext {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("00-")?;
        hex(out, &self.trace_id)?;
        out.write_str("-")?;
        hex(out, &self.span_id)?;
        write!(out, "-{:02x}", self.flags)
    }
}

fn hex(out: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
}

/// Exactly `N` bytes of lower-case hexadecimal.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let text = text.as_bytes();
    if text.len() != 2 * N {
        return None;
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_example_of_the_recommendation_is_read_and_written() {
        let context = TraceContext::parse(EXAMPLE).expect("valid");
        assert!(context.sampled());
        assert_eq!(context.to_string(), EXAMPLE);
    }

    #[test]
    fn what_breaks_a_rule_is_absent() {
        for wrong in [
            "",
            "00",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-ééééééééééééééé4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceContext::parse(wrong), None, "{wrong}");
        }
        assert!(TraceContext::parse(&format!("01{}-more", &EXAMPLE[2..])).is_some());
    }

    proptest! {
        #[test]
        fn any_context_survives_the_header(
            trace_id in any::<[u8; 16]>(), span_id in any::<[u8; 8]>(), flags in any::<u8>(),
        ) {
            prop_assume!(trace_id != [0; 16] && span_id != [0; 8]);
            let context = TraceContext { trace_id, span_id, flags };
            prop_assert_eq!(TraceContext::parse(&context.to_string()), Some(context));
        }

        #[test]
        fn no_header_is_a_panic(header in ".*") {
            let _ = TraceContext::parse(&header);
        }
    }
}
