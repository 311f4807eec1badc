//! Letter case for any script, as Python's `str.upper`, `str.lower` and `str.title` have it.

/// Every letter in upper case; one letter may become several.
pub fn upper(text: &str) -> String {
    text.to_uppercase()
}

/// Every letter in lower case, a sigma at a word's end in its form for that.
pub fn lower(text: &str) -> String {
    text.to_lowercase()
}

/// The first letter of each run of letters in title case, the others in lower case. Whatever isn't a
/// letter ends a run, so "they're" becomes "They'Re", as in Python.
pub fn title(text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut within = false;
    for (at, character) in characters.iter().copied().enumerate() {
        match (within, character) {
            (false, _) => push_title(&mut out, character),
            (true, 'Σ') => out.push(if ends_word(&characters[at + 1..]) {
                'ς'
            } else {
                'σ'
            }),
            (true, _) => out.extend(character.to_lowercase()),
        }
        within = is_cased(character);
    }
    out
}

/// Whether a sigma before `rest` is the last letter of its word.
fn ends_word(rest: &[char]) -> bool {
    let next = rest.iter().find(|character| !is_passed_over(**character));
    !next.is_some_and(|next| is_cased(*next))
}

/// Whether a character has a case: letters that are upper, lower or title case.
fn is_cased(character: char) -> bool {
    character.is_uppercase() || character.is_lowercase() || is_title_case(character)
}

/// The letters that are title case by themselves: digraphs, and Greek ones with an iota beside them.
fn is_title_case(character: char) -> bool {
    matches!(
        character,
        'ǅ' | 'ǈ' | 'ǋ' | 'ǲ' | '\u{1f88}'..='\u{1f8f}' | '\u{1f98}'..='\u{1f9f}'
            | '\u{1fa8}'..='\u{1faf}' | '\u{1fbc}' | '\u{1fcc}' | '\u{1ffc}'
    )
}

/// Characters that stand within a word without being letters: marks, apostrophes and the like. The
/// frequent ones of Unicode's case-ignorable.
fn is_passed_over(character: char) -> bool {
    matches!(
        character,
        '\'' | '.' | ':' | '^' | '`' | '\u{a8}' | '\u{ad}' | '\u{af}' | '\u{b4}' | '\u{b7}' | '\u{b8}'
            | '\u{2b0}'..='\u{36f}' | '\u{483}'..='\u{489}' | '\u{200b}'..='\u{200f}' | '\u{2018}'
            | '\u{2019}' | '\u{2024}' | '\u{2027}' | '\u{20d0}'..='\u{20f0}' | '\u{fe00}'..='\u{fe0f}'
    )
}

/// A letter in title case, which the standard library doesn't know: mostly its upper case, of
/// several letters the first.
fn push_title(out: &mut String, character: char) {
    let one = match character {
        'Ǆ' | 'ǅ' | 'ǆ' => Some('ǅ'),
        'Ǉ' | 'ǈ' | 'ǉ' => Some('ǈ'),
        'Ǌ' | 'ǋ' | 'ǌ' => Some('ǋ'),
        'Ǳ' | 'ǲ' | 'ǳ' => Some('ǲ'),
        // Georgian's capitals are for whole words only.
        '\u{10d0}'..='\u{10fa}' | '\u{10fd}'..='\u{10ff}' => Some(character),
        '\u{1f80}'..='\u{1f87}' | '\u{1f90}'..='\u{1f97}' | '\u{1fa0}'..='\u{1fa7}' => {
            char::from_u32(character as u32 + 8)
        }
        '\u{1fb3}' | '\u{1fc3}' | '\u{1ff3}' => char::from_u32(character as u32 + 9),
        _ if is_title_case(character) => Some(character),
        _ => None,
    };
    if let Some(one) = one {
        out.push(one);
        return;
    }
    // An iota beside a letter stays beside it.
    let iota_stays = matches!(
        character,
        '\u{1fb2}'
            | '\u{1fb4}'
            | '\u{1fb7}'
            | '\u{1fc2}'
            | '\u{1fc4}'
            | '\u{1fc7}'
            | '\u{1ff2}'
            | '\u{1ff4}'
            | '\u{1ff7}'
    );
    for (at, upper) in character.to_uppercase().enumerate() {
        match upper {
            'Ι' if at > 0 && iota_stays => out.push('\u{345}'),
            // The apostrophe of ŉ isn't its letter.
            _ if at > 0 && character != 'ŉ' => out.extend(upper.to_lowercase()),
            _ => out.push(upper),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn title_case_is_pythons() {
        for (text, titled) in [
            ("", ""),
            ("hello world", "Hello World"),
            ("HELLO wORLD", "Hello World"),
            ("they're bill's", "They'Re Bill'S"),
            ("x1y2 3abc", "X1Y2 3Abc"),
            ("straße ßa", "Straße Ssa"),
            ("ŉa ǆa ﬁn", "ʼNa ǅa Fin"),
            ("ὀδυσσεύς ΟΔΥΣΣΕΥΣ ΣΑΣ", "Ὀδυσσεύς Οδυσσευς Σας"),
            ("ქართული", "ქართული"),
            ("éa ÉÀ", "Éa Éà"),
            ("日本語 abc", "日本語 Abc"),
        ] {
            assert_eq!(title(text), titled, "{text}");
        }
    }

    #[test]
    fn upper_and_lower_know_letters_that_grow_and_the_last_sigma() {
        assert_eq!(upper("straße ﬁn ñ"), "STRASSE FIN Ñ");
        assert_eq!(lower("ΟΔΥΣΣΕΥΣ ÀÉ"), "οδυσσευς àé");
    }

    proptest! {
        #[test]
        fn title_case_of_title_case_is_itself(text in "[a-zA-Z0-9 '.é-]{0,40}") {
            let once = title(&text);
            prop_assert_eq!(title(&once), once);
        }
    }
}
