//! What is constant in a message: the idea of Drain (He et al. 2017), a template of tokens in which
//! variable parts are `<*>`.
//!
//! What looks variable by itself (numbers, ids, quotations) is masked at once; what turns out to be
//! variable among messages that are otherwise alike is masked when the second one comes.

use std::iter::Peekable;
use std::str::Chars;

/// A variable part.
pub const VARIABLE: &str = "<*>";
/// Tokens beyond this are one variable part.
const TOKENS_MAX: usize = 64;
/// Hexadecimal words of at least this many letters are ids.
const HEX_LETTERS_MIN: usize = 8;

/// A message's tokens, with what is variable by its look masked.
pub fn tokens(message: &str) -> Vec<String> {
    let masked = mask_quotations(message);
    let mut tokens: Vec<String> = masked
        .split_whitespace()
        .take(TOKENS_MAX + 1)
        .map(mask_token)
        .collect();
    if tokens.len() > TOKENS_MAX {
        tokens.truncate(TOKENS_MAX);
        tokens.push(VARIABLE.to_owned());
    }
    tokens
}

/// Whether a message with these tokens belongs to a template: as long, beginning alike, and at
/// least 7 of 10 tokens the same.
pub fn matches(template: &[String], tokens: &[String]) -> bool {
    if template.len() != tokens.len() {
        return false;
    }
    let same = template
        .iter()
        .zip(tokens)
        .filter(|(kept, token)| kept == token || *kept == VARIABLE)
        .count();
    let begins_alike = match (template.first(), tokens.first()) {
        (Some(kept), Some(token)) => kept == token || kept == VARIABLE,
        _ => true,
    };
    begins_alike && same * 10 >= template.len() * 7
}

/// How many tokens are the same and not variable, to find the nearest template.
pub fn likeness(template: &[String], tokens: &[String]) -> usize {
    template
        .iter()
        .zip(tokens)
        .filter(|(kept, token)| kept == token)
        .count()
}

/// Makes variable what differs from a message; whether anything did.
pub fn generalise(template: &mut [String], tokens: &[String]) -> bool {
    let mut changed = false;
    for (kept, token) in template.iter_mut().zip(tokens) {
        if kept != token && kept != VARIABLE {
            VARIABLE.clone_into(kept);
            changed = true;
        }
    }
    changed
}

/// `"…"`, `'…'` and `` `…` `` as one variable part; an apostrophe within a word is none.
fn mask_quotations(message: &str) -> String {
    let mut out = String::with_capacity(message.len());
    let mut rest = message.chars().peekable();
    let mut before = ' ';
    while let Some(character) = rest.next() {
        let opens = match character {
            '"' | '`' => true,
            '\'' => !before.is_alphanumeric(),
            _ => false,
        };
        if opens && let Some(after) = after_quotation(&rest, character) {
            out.push_str(VARIABLE);
            rest = after;
            before = character;
            continue;
        }
        out.push(character);
        before = character;
    }
    out
}

/// What comes after the quotation that was just opened, if it is closed.
fn after_quotation<'a>(rest: &Peekable<Chars<'a>>, quote: char) -> Option<Peekable<Chars<'a>>> {
    let mut after = rest.clone();
    loop {
        let character = after.next()?;
        let next_is_word = after.peek().is_some_and(|next| next.is_alphanumeric());
        if character == quote && !(quote == '\'' && next_is_word) {
            return Some(after);
        }
    }
}

/// Masks the parts of a token that have a digit or look like hexadecimal, and keeps what is
/// between them, so that `id=42,` becomes `id=<*>,`.
fn mask_token(token: &str) -> String {
    // An id or an address as a whole is one variable part, not several.
    let core = token.trim_matches(|c: char| !c.is_alphanumeric());
    if !core.is_empty() && !core.contains('=') && is_composite_id(core) {
        return token.replacen(core, VARIABLE, 1);
    }
    let mut out = String::with_capacity(token.len());
    let mut word = String::new();
    for character in token.chars() {
        if character.is_alphanumeric() || matches!(character, '_' | '-' | '.' | '%' | '+') {
            word.push(character);
        } else {
            flush(&mut out, &mut word);
            out.push(character);
        }
    }
    flush(&mut out, &mut word);
    out
}

fn flush(out: &mut String, word: &mut String) {
    // A full stop at the end of a sentence stays.
    let stem = word.trim_end_matches(['.', '-']);
    let end = word[stem.len()..].to_owned();
    if is_variable(stem) {
        out.push_str(VARIABLE);
    } else {
        out.push_str(stem);
    }
    out.push_str(&end);
    word.clear();
}

fn is_variable(word: &str) -> bool {
    let hex = || word.len() >= HEX_LETTERS_MIN && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    word.bytes().any(|byte| byte.is_ascii_digit()) || hex()
}

/// Addresses, paths and instants whose separators belong to them: `10.0.0.1:80`, `12:30:05Z`.
fn is_composite_id(core: &str) -> bool {
    let with_digits = core
        .split([':', '/'])
        .filter(|part| part.bytes().any(|byte| byte.is_ascii_digit()))
        .count();
    with_digits >= 2 && with_digits == core.split([':', '/']).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn template(message: &str) -> String {
        tokens(message).join(" ")
    }

    #[test]
    fn what_looks_variable_is_masked_and_the_rest_stays() {
        for (message, wanted) in [
            ("Connection timeout", "Connection timeout"),
            ("user 42 not found", "user <*> not found"),
            (
                "order id=550e8400-e29b-41d4-a716-446655440000, retry",
                "order id=<*>, retry",
            ),
            ("no file \"a b.txt\" here", "no file <*> here"),
            ("can't read 'x y'", "can't read <*>"),
            ("took 1.5s.", "took <*>."),
            ("dial 10.0.0.1:8080: refused", "dial <*>: refused"),
            ("hash deadbeefcafe differs", "hash <*> differs"),
            ("a decade passed", "a decade passed"),
            ("", ""),
        ] {
            assert_eq!(template(message), wanted, "{message}");
        }
    }

    #[test]
    fn a_word_that_varies_becomes_variable_and_another_sentence_does_not_match() {
        let mut kept = tokens("cannot reach shop of alice today");
        let other = tokens("cannot reach shop of bob today");
        assert!(matches(&kept, &other));
        assert!(generalise(&mut kept, &other));
        assert_eq!(kept.join(" "), "cannot reach shop of <*> today");
        assert!(!generalise(
            &mut kept,
            &tokens("cannot reach shop of eve today")
        ));
        assert!(!matches(
            &tokens("Connection timeout"),
            &tokens("Connection refused")
        ));
        assert!(!matches(&kept, &tokens("Too many requests")));
    }

    proptest! {
        #[test]
        fn any_message_has_a_bounded_template_that_matches_itself(message in ".{0,300}") {
            let found = tokens(&message);
            prop_assert!(found.len() <= TOKENS_MAX + 1);
            prop_assert!(matches(&found, &found));
        }

        #[test]
        fn numbers_and_ids_never_make_a_new_template(
            number in any::<u64>(), id in any::<u128>(), quoted in "[a-z ]{0,20}",
        ) {
            let id = uuid::Uuid::from_u128(id);
            let message = format!("step {number} of {id} said \"{quoted}\" and 0x{number:x} failed");
            prop_assert_eq!(template(&message), "step <*> of <*> said <*> and <*> failed");
        }
    }
}
