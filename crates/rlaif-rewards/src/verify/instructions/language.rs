//! The language of a text, of those that IFEval asks for.

/// Frequent words of languages in Latin letters.
const LATIN: [(&str, &[&str]); 10] = [
    (
        "en",
        &[
            "the", "and", "of", "to", "is", "in", "that", "it", "for", "you", "with", "this",
            "are", "be", "on", "have", "not", "as", "we", "my", "your", "was", "can", "will",
        ],
    ),
    (
        "es",
        &[
            "el", "la", "de", "que", "en", "los", "las", "por", "con", "una", "es", "para", "como",
            "del", "un", "su", "se", "muy", "pero",
        ],
    ),
    (
        "pt",
        &[
            "de", "que", "os", "as", "em", "um", "uma", "não", "com", "para", "do", "da", "é",
            "muito", "você", "mais", "como",
        ],
    ),
    (
        "fr",
        &[
            "le", "la", "les", "de", "des", "et", "est", "un", "une", "dans", "que", "pour",
            "vous", "nous", "je", "sur", "pas", "avec", "qui", "ce",
        ],
    ),
    (
        "de",
        &[
            "der", "die", "das", "und", "ist", "nicht", "ein", "eine", "ich", "mit", "zu", "den",
            "von", "für", "auf", "wir", "sie", "es", "im", "auch",
        ],
    ),
    (
        "it",
        &[
            "il", "lo", "la", "di", "che", "un", "una", "per", "non", "con", "sono", "del",
            "della", "gli", "è", "in", "come", "anche", "più",
        ],
    ),
    (
        "pl",
        &[
            "nie", "na", "się", "jest", "że", "do", "to", "z", "jak", "ale", "po", "co", "tak",
            "są", "dla", "od", "być", "przez",
        ],
    ),
    (
        "vi",
        &[
            "là", "và", "của", "có", "không", "một", "được", "trong", "cho", "người", "những",
            "tôi", "bạn", "này", "với", "các", "để", "đã",
        ],
    ),
    (
        "sw",
        &[
            "na", "ya", "wa", "kwa", "ni", "katika", "za", "la", "cha", "hii", "watu", "kama",
            "yake", "kuwa", "sana", "vya", "mimi", "huu",
        ],
    ),
    (
        "fi",
        &[
            "ja", "on", "ei", "se", "että", "oli", "olen", "hän", "ovat", "mutta", "kun", "niin",
            "tämä", "minä", "myös", "kuin", "voi", "sen",
        ],
    ),
];

/// Scripts of one language each.
const SCRIPTS: [(char, char, &str); 13] = [
    ('\u{0370}', '\u{03ff}', "el"),
    ('\u{0590}', '\u{05ff}', "he"),
    ('\u{0980}', '\u{09ff}', "bn"),
    ('\u{0a00}', '\u{0a7f}', "pa"),
    ('\u{0a80}', '\u{0aff}', "gu"),
    ('\u{0b80}', '\u{0bff}', "ta"),
    ('\u{0c00}', '\u{0c7f}', "te"),
    ('\u{0c80}', '\u{0cff}', "kn"),
    ('\u{0d00}', '\u{0d7f}', "ml"),
    ('\u{0e00}', '\u{0e7f}', "th"),
    ('\u{3040}', '\u{30ff}', "ja"),
    ('\u{ac00}', '\u{d7af}', "ko"),
    ('\u{4e00}', '\u{9fff}', "zh"),
];

/// The code of a language; `None` for a text without letters.
pub(super) fn language(text: &str) -> Option<&'static str> {
    let letters: Vec<char> = text.chars().filter(|c| c.is_alphabetic()).collect();
    if letters.is_empty() {
        return None;
    }
    let count =
        |low: char, high: char| letters.iter().filter(|c| (low..=high).contains(*c)).count();
    let has = |marks: &str| letters.iter().filter(|c| marks.contains(**c)).count();
    let mut best: (usize, &'static str) = (0, "en");
    for (low, high, code) in SCRIPTS {
        // Kana among Chinese characters are Japanese.
        let weight = if code == "ja" { 4 } else { 1 };
        best = best.max((count(low, high) * weight, code));
    }
    let cyrillic = count('\u{0400}', '\u{04ff}');
    if cyrillic > best.0 {
        let code = match () {
            () if has("іїєґІЇЄҐ") > 0 => "uk",
            () if has("ыэёЫЭЁ") > 0 => "ru",
            () if has("ъЪ") * 50 > cyrillic => "bg",
            () => "ru",
        };
        best = (cyrillic, code);
    }
    let arabic = count('\u{0600}', '\u{06ff}');
    if arabic > best.0 {
        let code = match () {
            () if has("ٹڈڑںے") > 0 => "ur",
            () if has("پچژگی") > 0 => "fa",
            () => "ar",
        };
        best = (arabic, code);
    }
    let devanagari = count('\u{0900}', '\u{097f}');
    if devanagari > best.0 {
        let word =
            |words: &[&str]| words.iter().map(|word| text.matches(word).count()).sum::<usize>();
        let marathi = word(&["आहे", "आणि", "ळ", "नाही"]);
        let nepali = word(&["छ", "हुन्", "गर्न", "भएको"]);
        let hindi = word(&["है", "हैं", "और", "में"]);
        let code =
            [(hindi, "hi"), (marathi, "mr"), (nepali, "ne")].into_iter().max_by_key(|(n, _)| *n);
        best = (devanagari, code.map_or("hi", |(_, code)| code));
    }
    let latin = letters
        .iter()
        .filter(|c| {
            c.is_ascii_alphabetic()
                || ('\u{00c0}'..='\u{024f}').contains(*c)
                || ('\u{1e00}'..='\u{1eff}').contains(*c)
        })
        .count();
    if latin <= best.0 {
        return Some(best.1);
    }
    let lower = text.to_lowercase();
    let words: Vec<&str> =
        lower.split(|c: char| !c.is_alphabetic()).filter(|w| !w.is_empty()).collect();
    let of = |known: &[&str]| words.iter().filter(|word| known.contains(word)).count();
    // English where nothing speaks for another language.
    let found = LATIN.iter().map(|(code, known)| (of(known), *code)).rev().max_by_key(|(n, _)| *n);
    found.map(|(n, code)| if n == 0 { "en" } else { code })
}
