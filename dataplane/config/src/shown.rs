//! Text of users, as it may be shown to others.

/// At most 40 characters of a user's text, without what a terminal would obey.
pub fn clip(text: &str) -> String {
    clip_to(40, text)
}

/// At most `length` characters of a text that a user's text is part of.
pub fn clip_to(length: usize, text: &str) -> String {
    let mut clipped: String =
        text.chars().take(length).map(|c| if is_hostile(c) { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(length).is_some() {
        clipped.push('…');
    }
    clipped
}

/// Control characters, and those that turn the direction of the text around them.
fn is_hostile(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
