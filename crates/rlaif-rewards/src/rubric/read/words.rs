//! Verdicts in words: which number of a text is the verdict.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use super::super::answer::Scale;
use super::numbers::{self, Item, Kind};
use super::plain::Plain;
use super::reasoning;

/// A verdict and its position.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Found {
    pub(super) value: f64,
    /// Place of its first digit in the answer.
    pub(super) at: usize,
    /// `true` at the end of the text: if the answer was cut short, the number may be incomplete.
    pub(super) ends: bool,
    /// Marked as the verdict, by a label or by standing alone; not only said in a sentence.
    pub(super) marked: bool,
}

/// Reasons why a text has no verdict.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Miss {
    InReasoning,
    NoNumber,
    Undecided,
    Several(f64, f64),
    Between,
    AnotherScale,
    NotFinite,
    OutOfRange(f64),
}

/// Certainty that a number is the verdict, the surest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tier {
    /// `Final score: 8`, `\boxed{8}`.
    Final,
    /// `Score: 8`, or alone on the first or last line.
    Label,
    /// In a sentence that begins with `Overall`.
    Concluded,
    /// `I would rate it 8`, `8/10`, `Clarity score: 8`.
    Said,
}

#[derive(Debug, Clone)]
struct Candidate {
    tier: Tier,
    value: Result<f64, Miss>,
    at: Range<usize>,
    /// `true` for a number alone on its line, except for a label.
    pure: bool,
    /// At the beginning of the answer.
    leading: bool,
    /// Alone on the last of several lines.
    last: bool,
}

/// Maximum number of numbers in an answer: beyond it, the answer has no verdict.
const MOST_NUMBERS: usize = 1000;
/// Distance around a number in which words about it are searched, in bytes.
const BEFORE: usize = 160;
const AFTER: usize = 100;

fn pattern(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a valid pattern")
}

/// Labels that mark a verdict as final by themselves.
const FINAL: &str = r"\[\s*(?:result|final\s+answer)\s*\]|\b(?:verdict|overall|final|conclusion|bottom\s+line|gesamt\w*|insgesamt|fazit|endnote|endergebnis|urteil|conclusión|résultat\s+final|veredicto|verdetto|итог\w*)\b|总分|總分|最终|最終|综合|総合|總評|总体|총점|최종";
/// Labels of verdicts.
const LABEL: &str = r"\b(?:score|scores|rating|grade|judge?ment|evaluation|assessment|bewertung|punktzahl|wertung|puntuaci[oó]n|calificaci[oó]n|puntaje|évaluation|valutazione|punteggio|voto|nota|pontuação|avaliação|оценка|балл\w*|рейтинг|betyg|ocena|cijfer|beoordeling|puan|skor|nilai)\b|评分|評分|得分|分数|分數|打分|评价|評価|スコア|点数|採点|점수|평점|평가";
/// Labels that are verdicts' at times.
const MAYBE: &str = r"\b(?:answer|result|output|number|value|total|average|mean|marks?|points|punkte|stars|note|opinion)\b";
/// Text that may stand between a label, or a verb, and the number.
const LINK: &str = r"(?:\s|[:=|>→⇒,≈~—-]|\b(?:is|be|would|should|will|of|at|as|an?|the|about|around|approximately|roughly|approx\.?|circa|ca\.?|exactly|only|just|probably|perhaps|likely|maybe|therefore|thus|then|that|a|solid|strong|clear|firm|full|i|i'd|give|it|it's|this|ist|wäre|etwa|eine?|un|une|est|es|è|é|de|von|me|score|rating|lautet|beträgt|sería|serait)\b|は|が|이|은|는|是|为|為)*";

static LABELLED: LazyLock<Regex> = LazyLock::new(|| {
    let whose = r"\s+(?:for|of|on|für)\s+(?:[\p{L}'-]+\s+){0,5}?[\p{L}'-]+";
    let given = r"\s+(?:that\s+)?(?:i|i'd|i'll|i'm|we)(?:\s+[\p{L}'-]+){1,8}?\s*(?::|=|\bis\b)";
    let brackets = r"\s*[(\[][^()\[\]\d]{0,60}[)\]]";
    pattern(&format!(
        r"(?P<pre>(?:[\p{{L}}'-]+[ \t]+){{0,2}})(?:(?P<final>{FINAL})|(?P<label>{LABEL})|(?P<maybe>{MAYBE}))\]?(?:{brackets})??(?P<of>{whose}|{given})??(?:{brackets})??(?P<link>{LINK})[(\['\s]*$"
    ))
});
static FINAL_WORD: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"^(?:final|overall|ultimate|definitive|concluding|resulting|finale|endgültige|globale?|general|итоговая|总|最终|総合)$",
    )
});
/// Words before a label that make it no other label.
static NO_QUALIFIER: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"^(?:the|an?|my|your|its|our|this|that|s|of|is|and|so|with|give|gives|given|assign|get|gets|receives|deserves|therefore|thus|hence|on|in|numeric|numerical|numeric|integer|here|judge|judge's|i|it|as|for|to|single|then|solid|die|der|das|meine?|eine?|la|le|el|il|mi|ma|моя)$",
    )
});
static CONCLUDES: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"^\W*(?:overall|in conclusion|to conclude|in summary|to sum up|finally|ultimately|therefore|thus|hence|all in all|taken together|on balance|all things considered|insgesamt|alles in allem|en conclusion|en resumen|in sintesi|в итоге|总的来说|综上|总体)",
    )
});
/// Verbs of the judge, which need an `I`.
static VERB: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"\b(?:i|i'd|i'll|i'm|i've|we|we'd|we'll|me|let's)\b[^.!?;\n]{0,60}?\b(?:rate|rated|rating|score|scored|scoring|give|giving|gave|grade|assign|assigned|assigning|award|awarded|judge|evaluate|assess|rank|say|think|guess|call|settle|go)\b(?P<object>[^\d.!?;\n]{0,70})$",
    )
});
/// Verbs of what is judged, and verbs that have the `I` in them.
static VERB_ALONE: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?:\b(?:scores|scored|rated|deserves?|deserved|earns?|earned|gets|receives?|merits?|warrants?|is\s+worth|bewerte|gebe|vergebe|würde|donne|donnerais|attribue|noterais|doy|daría|califico|otorgo|pongo|assegno|darei|dou|ставлю|оцениваю|поставил\w*|оценил\w*|поставлю|оценю)\b|给|打|給)(?P<object>[^\d.!?;\n]{0,70})$",
    )
});
/// Text right before a number that a verb gives.
static GIVEN: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?:^|\s|\b)(?:an?|it|this|that|as|at|to|with|of|be|about|around|approximately|roughly|solid|strong|clear|firm|full|a|say|think|guess|for|with|eine?|mit|un|une|con|на|deserves|earns|gets|receives|merits|warrants|rate|worth|score|scored|scores|give|würde|response|answer|summary|text|reply|statement|output|completion|one|vergebe|gebe|donne|doy|assegno|ставлю|:)\s*[:(\[]*\s*$|(?:给|打|給|了)\s*$",
    )
});
/// `It's an 8`, `a solid 8`.
static WEAK: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"\b(?:it|this|that)(?:'s|\s+is|\s+would\s+be)\s+(?:about\s+|around\s+)?an?\s+(?:\w+\s+)?$|\ban?\s+(?:very\s+)?(?:solid|strong|clear|firm|fair|generous|low|high|weak|decent|respectable)\s+$|(?:満点|만점)\s*(?:中|で|に|에|중)?\s*$|(?:得|获得|满分)\s*(?:分)?[,\s]*$",
    )
});
/// The aspect that the number before it is about.
static ASPECT: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"^\s*(?:points?\s+|stars?\s+)?(?:for|on|in|regarding)\s+(?:its\s+|the\s+|their\s+)?\p{L}{3,}",
    )
});
static NEGATED: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"\b(?:not|never|cannot|neither|nor|without|hardly|nicht|keine?\w*|pas|не|nunca|jamais)\b|n't\b|不",
    )
});
static CONDITIONAL: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"\b(?:if|unless|otherwise|(?:could|would|might|should)\s+have|had\s+it|were\s+it|wenn|falls|sonst|если|might|could|deduct\w*|subtract\w*|lose|loses|lost|minus)\b|如果",
    )
});
/// Before a number that is only compared with.
static COMPARED: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?:\bthan|\bat\s+least|\bat\s+most|\bup\s+to|\bover|\bunder|\babove|\bbelow|\bbeyond|\bminimum(?:\s+of)?|\bmaximum(?:\s+of)?|\bmax\.?|\bmin\.?|\balmost|\bnearly|\bclose\s+to|\bnear|\bshy\s+of|\bshort\s+of|\binstead\s+of|\bnot|\bfrom|\bless|\bmore|\bmindestens|\bhöchstens|\bfast|\bunter|\büber|(?:^|[^=-])[<>]|[≥≤±$€£¥@])\s*(?:an?\s+|the\s+)?$",
    )
});
static HYPOTHETICAL: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"^\s*(?:\+|or\s+(?:more|higher|above|less|lower|below|so)\b|and\s+(?:above|a\s+half)\b|at\s+(?:least|most)\b|minus\b|plus\b|would\b|requires?\b|needs?\b|means\b|could\b|if\b|(?:is|was|seems)\s+(?:reserved|given|for|not|too|un\w+)\b|isn't\b|°|h\b)",
    )
});
/// Text that may follow a verdict: its unit, then the end, punctuation, or a word but no noun.
static UNIT: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"^[ \t]*(?:(?:points?|pts?\.?|stars?|marks?|punkten?|sterne|puntos?|punti|punto|pontos?|балл\w*|点|點|分|점|★|⭐)(?:[^\p{L}]|$|です|입니다|이다|で|を))?",
    )
});
static FOLLOWS: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"^[ \t]*[)\]}|'×]*[ \t]*(?:$|[\n.,;:!?…()\[\]|<>=→/\\—-]|(?:because|since|as|for|due|given|with|in|on|but|and|overall|here|to|based|considering|so|which|although|though|while|by|out|total|weil|da|denn|für|aber|und|parce|car|porque|pour|per|perché|pues|i|vergeben|geben|потому|так)\b|(?:is|was|seems)\s+(?:my|the|our)\s+(?:\w+\s+)?(?:score|rating|verdict|grade|mark|judge?ment|evaluation)\b|です|입니다|이다|と|だ|で)|^[^\p{L}\d]*$|^[ \t]*[^\p{L}\p{N}\s]",
    )
});
static ENUMERATED: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?:^|[^\p{L}])(?P<det>this|the|that|its|my|your|a|an)?\s*(?:#|\bno\.|\bnr\.|\bnumber|\b(?:step|point|part|criterion|criteria|item|section|chapter|page|line|paragraph|question|response|answer|option|example|sentence|version|level|phase|rule|figure|table|row|turn|round|assistant|candidate|summary|text|reason|aspect|dimension|category|model|user|test|task|case|claim|requirement|punkt|antwort|schritt|kriterium|aspekt|étape|réponse|paso|respuesta))\s*$",
    )
});
static SCALE_BEFORE: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"\b(?:scale|skala|échelle|escala|scala|range|шкале|schaal)\b[^.!?\n\d]{0,20}$|尺度[^\d]{0,4}$",
    )
});
static SCALE_AFTER: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"^[ \t]*(?:[)\]]?[ \t]*)?(?:scale|skala|range)\b|^\s*分制|^[ \t]*(?:点|點|分|점)?[ \t]*(?:満点|满分|滿分|만점)",
    )
});
static OUT_OF: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?:\bout\s+of(?:\s+a\s+(?:possible|maximum(?:\s+of)?))?|\bvon|\bsur|\bmax(?:imum|imal|\.)?(?:\s+(?:score|of|is|possible))*|满分|滿分|満点|만점|[(\[]\s*/)[\s:=(]*$",
    )
});
static ANCHOR_AFTER: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"^\s*(?:being\b|meaning\b|means\b|stands\s+for\b|indicat\w+|represent\w+|(?:is\s+|=\s*|\(\s*|:\s*|,\s*)?(?:the\s+)?(?:worst|lowest|best|highest|poorest|least|most|highly|not|perfect|excellent|terrible|awful|very\s+(?:bad|poor|good)|completely|extremely|not\s+at\s+all|schlecht\w*|beste?)\b)",
    )
});
static NOT_FINITE: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"(?:^|[\s:=+-])(?:nan|inf|infinity|∞)(?:\W|$)"));
/// A label of some other thing.
static OTHER_THING: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"confiden|certain|page|year|date|error|problem|issue|mistake|word|token|length|step|time|version|id\b|count|number|amount|temperature|weight|age\b|max|min|scale\s*[:=]|threshold|response|question|example|index|seed",
    )
});

/// Words by which a judge changes its verdict, when another number follows them.
static CHANGES: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"\b(?:actually|corrections?|corrected|correcting|rather|on\s+(?:second\s+thought|reflection|(?:a\s+)?closer\s+\w+)|upon\s+\w+|reconsider\w*|reassess\w*|re-?evaluat\w*|rereading|re-reading|wait|hmm+|oops|sorry|i\s+meant?|make\s+(?:it|that)|revis\w+|updat\w+|adjust\w*|chang\w+|rais\w+|lower\w*|increas\w+|reduc\w+|upgrad\w+|downgrad\w+|bump\w*|no|nope|or\s+better|maybe|perhaps|possibly|scratch\s+that|strike\s+that|edit|eigentlich|korrektur|nein|vielmehr|doch|eher|besser\s+gesagt|en\s+fait|plutôt|non|en\s+realidad|mejor\s+dicho|corrección|más\s+bien|anzi|in\s+realtà|correzione|aliás|na\s+verdade|correção|на\s+самом\s+деле|точнее|вернее|исправ\w*|нет)\b|→|⇒|->|=>|其实|其實|实际上|實際上|更正|改为|改為|不对|不對|訂正|いや|実は|정정|아니",
    )
});
/// Words by which a judge takes its verdict back.
static TAKES_BACK: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"\b(?:scratch\s+that|strike\s+that|(?:disregard|ignore|forget)\s+(?:that|this|the\s+above|my\s+\w+)|i\s+take\s+(?:that|it)\s+back|i\s+was\s+wrong|(?:that|this|it)(?:'s|\s+is|\s+was)\s+(?:(?:perhaps|probably|actually|a\s+bit|a\s+little|far|much)\s+)*(?:too\s+(?:high|low|generous|harsh|lenient|strict|kind)|the\s+wrong\s+(?:score|rating|number)))\b",
    )
});

static APPROXIMATELY: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"\b(?:about|around|approximately|roughly|approx\.?|circa|etwa)\s*$"));

struct Text<'a> {
    text: &'a str,
    scale: Scale,
    results: &'a [Range<usize>],
}

impl Text<'_> {
    fn before(&self, item: &Item) -> &str {
        let end = item.span.start;
        let mut start = end.saturating_sub(BEFORE);
        while !self.text.is_char_boundary(start) {
            start += 1;
        }
        &self.text[start..end]
    }

    fn after(&self, item: &Item) -> &str {
        let start = item.span.end;
        let mut end = (start + AFTER).min(self.text.len());
        while !self.text.is_char_boundary(end) {
            end += 1;
        }
        &self.text[start..end]
    }

    fn line(&self, item: &Item) -> Range<usize> {
        let start = self.text[..item.span.start].rfind('\n').map_or(0, |at| at + 1);
        let end =
            self.text[item.span.end..].find('\n').map_or(self.text.len(), |n| item.span.end + n);
        start..end
    }

    /// `true` if the text after a number allows it to be a verdict, not a count of something.
    fn follows(&self, item: &Item) -> bool {
        let after = self.after(item);
        let unit = UNIT.find(after).map_or(0, |unit| {
            // The unit without the character that ends it.
            let found = unit.as_str();
            let words =
                found.trim_end_matches(|c: char| !c.is_alphanumeric() && c != '★' && c != '⭐');
            words.len()
        });
        FOLLOWS.is_match(&after[unit..]) || after[unit..].is_empty()
    }
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-9
}

/// The verdict of an answer in words.
pub(super) fn verdict(answer: &str, scale: Scale) -> Result<Found, Miss> {
    let kept = reasoning::outside(answer).ok_or(Miss::InReasoning)?;
    let mut plain = Plain::of(answer, &kept);
    let found = numbers::items(&plain.text, MOST_NUMBERS);
    if found.len() == MOST_NUMBERS {
        return Err(Miss::Undecided);
    }
    let (items, another) = without_mentions(&mut plain, found, scale);
    let text = Text { text: &plain.text, scale, results: &plain.results };
    let mut candidates = Vec::new();
    for (n, item) in items.iter().enumerate() {
        candidates.extend(candidate(&text, item, n, items.len()));
    }
    if another && !candidates.is_empty() {
        return Err(Miss::AnotherScale);
    }
    let picked = pick(&candidates).map_err(|miss| match miss {
        Some(miss) => miss,
        None => missing(&plain.text, &items, another, scale),
    })?;
    let value = picked.value?;
    changed(&text, &items, value, picked.at.end)?;
    if picked.tier != Tier::Final {
        of_one_aspect(&text, &items, value, picked.at.end)?;
    }
    // "8." may be the beginning of 8.5.
    let ends = plain.text[picked.at.end..].trim_start_matches(['.', ',']).trim().is_empty();
    let marked = picked.tier <= Tier::Label || picked.leading;
    Ok(Found { value, at: plain.origin(picked.at.start), ends, marked })
}

/// The reason why a verdict does not stand: what the text says from `from` on changes it.
fn changed(text: &Text<'_>, items: &[Item], value: f64, from: usize) -> Result<(), Miss> {
    if TAKES_BACK.is_match(&text.text[from..]) {
        return Err(Miss::Undecided);
    }
    let cues: Vec<usize> = CHANGES.find_iter(&text.text[from..]).map(|c| from + c.end()).collect();
    let Scale { low, high } = text.scale;
    for item in items.iter().filter(|item| item.span.start >= from) {
        // The words are about a number that follows them soon.
        if !cues.iter().any(|&cue| cue <= item.span.start && item.span.start - cue <= BEFORE) {
            continue;
        }
        let (before, after) = (text.before(item), text.after(item));
        // "No 10": none, instead of another one.
        let compared = COMPARED.is_match(before)
            || HYPOTHETICAL.is_match(after)
            || before.trim_end().ends_with(" no");
        let follows = text.follows(item) || before.ends_with(" to ");
        let counted = !follows || CONDITIONAL.is_match(sentence_of(before));
        match item.kind {
            _ if compared || counted => {}
            Kind::Number(other) | Kind::Of(other, _) if !(low..=high).contains(&other) => {}
            Kind::Of(_, of) if !near(of, high) => {}
            Kind::Number(other) | Kind::Of(other, _) if !near(other, value) => {
                return Err(Miss::Several(value, other));
            }
            Kind::Range(..) => return Err(Miss::Between),
            _ => {}
        }
    }
    Ok(())
}

/// The reason why a verdict does not stand: it is that of one aspect, and the same line has that of another,
/// as in "7 for clarity, 9 for tone".
fn of_one_aspect(text: &Text<'_>, items: &[Item], value: f64, from: usize) -> Result<(), Miss> {
    let rest = &text.text[from..];
    let line = from + rest.find('\n').unwrap_or(rest.len());
    if !ASPECT.is_match(rest) {
        return Ok(());
    }
    for item in items.iter().filter(|item| (from..line).contains(&item.span.start)) {
        if let Kind::Number(other) | Kind::Of(other, _) = item.kind
            && (text.scale.low..=text.scale.high).contains(&other)
            && !near(other, value)
            && ASPECT.is_match(text.after(item))
        {
            return Err(Miss::Several(value, other));
        }
    }
    Ok(())
}

/// The reason why a verdict does not stand: what the text behind it says changes it.
pub(super) fn changed_by(rest: &str, value: f64, scale: Scale) -> Result<(), Miss> {
    let whole = 0..rest.len();
    let mut plain = Plain::of(rest, &[whole]);
    let found = numbers::items(&plain.text, MOST_NUMBERS);
    let (items, _) = without_mentions(&mut plain, found, scale);
    changed(&Text { text: &plain.text, scale, results: &[] }, &items, value, 0)
}

/// The reason why there is no candidate.
fn missing(text: &str, items: &[Item], another: bool, scale: Scale) -> Miss {
    let any = |is: fn(&Kind) -> bool| items.iter().any(|item| is(&item.kind));
    if another {
        Miss::AnotherScale
    } else if any(|kind| matches!(kind, Kind::NotFinite)) || NOT_FINITE.is_match(text) {
        Miss::NotFinite
    } else if any(|kind| matches!(kind, Kind::Range(..))) {
        Miss::Between
    } else if items.iter().any(|i| matches!(i.kind, Kind::Of(_, of) if !near(of, scale.high)))
        || any(|kind| matches!(kind, Kind::Percent(_)))
    {
        Miss::AnotherScale
    } else if items.iter().all(|item| item.spelled) {
        Miss::NoNumber
    } else {
        Miss::Undecided
    }
}

/// The numbers that do not only repeat the scale, count a list, or name something; those are
/// blank after this. Also whether another scale is named.
fn without_mentions(plain: &mut Plain, items: Vec<Item>, scale: Scale) -> (Vec<Item>, bool) {
    let Scale { low, high } = scale;
    let of_scale = |a: f64, b: f64| {
        let starts = near(a, low) || ((0. ..=1.).contains(&low) && (near(a, 0.) || near(a, 1.)));
        starts && near(b, high)
    };
    let (mut blanks, mut another) = (Vec::new(), false);
    let text = Text { text: &plain.text, scale, results: &[] };
    let equalled = items.iter().filter(|i| text.after(i).trim_start().starts_with('=')).count();
    let markers: Vec<f64> = items.iter().filter_map(|item| list_marker(&text, item)).collect();
    let mut kept = Vec::with_capacity(items.len());
    for item in items {
        let (before, after) = (text.before(&item), text.after(&item));
        let scaled = SCALE_BEFORE.is_match(before) || SCALE_AFTER.is_match(after);
        let labelled_brackets = before.trim_end().ends_with(['(', '['])
            && after.trim_start().starts_with([')', ']'])
            && before
                .trim_end()
                .trim_end_matches(['(', '['])
                .trim_end()
                .ends_with(char::is_alphabetic);
        let mention = match item.kind {
            Kind::Range(a, b) if of_scale(a, b) || of_scale(b, a) => true,
            Kind::Range(..) if scaled || labelled_brackets => {
                another = true;
                true
            }
            Kind::Number(v) if OUT_OF.is_match(before) => {
                another |= !near(v, high);
                true
            }
            Kind::Number(v) if SCALE_AFTER.is_match(after) && !item.spelled => {
                another |= !near(v, high);
                true
            }
            Kind::Other if after.starts_with("-point") || after.starts_with("-star") => {
                let n: Option<f64> = plain.text[item.first.clone()].parse().ok();
                another |= after[1..].contains("scale") && n.is_some_and(|n| !near(n, high));
                true
            }
            Kind::Number(v) => {
                let end = near(v, low) || near(v, high) || near(v, 0.);
                let anchor = end && ANCHOR_AFTER.is_match(after);
                let equal = equalled > 1 && after.trim_start().starts_with('=');
                let counts = list_marker(&text, &item)
                    .is_some_and(|v| v <= 1. || markers.iter().any(|m| near(*m, v - 1.)));
                let named = after.trim_start().strip_prefix(':').map(str::trim_start);
                let names = named.is_some_and(|after| {
                    after.trim_start_matches(['+', '-']).starts_with(|c: char| c.is_ascii_digit())
                });
                let enumerated =
                    ENUMERATED.captures(before).is_some_and(|c| c.name("det").is_none());
                anchor || equal || counts || names || (enumerated && !item.spelled)
            }
            Kind::Of(..) | Kind::Percent(_) | Kind::Range(..) | Kind::NotFinite | Kind::Other => {
                false
            }
        };
        if mention { blanks.push(item.span) } else { kept.push(item) }
    }
    blanks.into_iter().for_each(|part| plain.blank(part));
    (kept, another)
}

/// The number of an entry of a list, at the start of its line.
fn list_marker(text: &Text<'_>, item: &Item) -> Option<f64> {
    let Kind::Number(value) = item.kind else { return None };
    let line = text.line(item);
    let before = text.text[line.start..item.span.start].trim();
    let after = &text.text[item.span.end..line.end];
    let entry = after.strip_prefix(['.', ')', ':'])?.trim();
    let starts = before.is_empty() || before == "(";
    (starts && entry.contains(char::is_alphanumeric) && value.fract() == 0. && value >= 0.)
        .then_some(value)
}

fn candidate(text: &Text<'_>, item: &Item, n: usize, count: usize) -> Option<Candidate> {
    let Scale { low, high } = text.scale;
    let (before, after) = (text.before(item), text.after(item));
    let line = text.line(item);
    let alone = |part: &str| !part.contains(char::is_alphanumeric);
    let unit = |part: &str| {
        let unit = UNIT.find(part).map_or(0, |unit| unit.end());
        alone(part) || alone(&part[unit..])
    };
    let ends_line = unit(&text.text[item.span.end..line.end]);
    let starts_line =
        alone(APPROXIMATELY.replace(&text.text[line.start..item.span.start], "").as_ref());
    let first_line = alone(&text.text[..line.start]);
    let last_line = alone(&text.text[line.end..]);

    let mut value = match item.kind {
        Kind::Number(v) => Ok(v),
        Kind::Of(v, of) if near(of, high) => Ok(v),
        Kind::Percent(v) if near(low, 0.) && near(high, 100.) => Ok(v),
        Kind::Of(..) | Kind::Percent(_) => Err(Miss::AnotherScale),
        Kind::Range(..) => Err(Miss::Between),
        Kind::NotFinite => Err(Miss::NotFinite),
        Kind::Other => Err(Miss::Undecided),
    };
    // Stars are out of five by default.
    let stars = after.trim_start().starts_with("star") || after.trim_start().starts_with("sterne");
    if stars && !near(high, 5.) && matches!(item.kind, Kind::Number(v) if v <= 5.) {
        value = Err(Miss::AnotherScale);
    }
    // So far beyond the scale that it counts something else, or is of another scale.
    if let Ok(v) = value
        && (v < low - (high - low) || v > high + (high - low))
    {
        value = Err(Miss::OutOfRange(v));
    }
    let compared = COMPARED.is_match(before) || HYPOTHETICAL.is_match(after);
    // "Score -8": a dash, or a sign?
    let dashed = matches!(value, Ok(v) if v < 0. && low >= 0.)
        && before.trim_end().ends_with(char::is_alphanumeric);
    if value.is_ok() && (compared || dashed) {
        value = Err(Miss::Undecided);
    }
    let new = |tier, pure, leading, last| {
        Some(Candidate { tier, value, at: item.first.clone(), pure, leading, last })
    };
    let result = text.results.iter().find(|r| r.start <= item.span.start && item.span.end <= r.end);
    if let Some(result) = result
        && alone(&text.text[result.start..item.span.start])
        && unit(&text.text[item.span.end..result.end])
    {
        return new(Tier::Final, true, false, last_line);
    }
    // By itself; "one" may be anything in a sentence.
    if starts_line && ends_line {
        if first_line {
            return new(Tier::Label, true, true, last_line && n > 0);
        }
        let tier = if last_line { Tier::Label } else { Tier::Said };
        return if value.is_err() && !last_line { None } else { new(tier, true, false, last_line) };
    }
    let follows = text.follows(item);
    if !follows {
        return None;
    }
    // With a label.
    if let Some(found) = LABELLED.captures(before) {
        let qualifier =
            found.name("pre").map_or("", |pre| pre.as_str()).split_whitespace().next_back();
        let qualifier = qualifier.unwrap_or_default();
        let start = found.get(0).map_or(0, |whole| whole.start());
        let label_line = before[..start].rfind('\n').map_or(0, |at| at + 1);
        let pure = alone(&before[label_line..start]) && ends_line && !line_continues(before, start);
        let colon = found.name("link").is_some_and(|link| link.as_str().contains([':', '=', '|']));
        let whose = found.name("of").is_some();
        let spoken = found.name("of").is_some_and(|of| NEGATED.is_match(of.as_str()));
        let sentence = sentence_of(before);
        let conditional = !colon && CONDITIONAL.is_match(sentence);
        let joined = found.name("link").is_some_and(|link| !link.as_str().trim().is_empty());
        let starts = alone(sentence_of(&before[..start]));
        let known = qualifier.is_empty()
            || NO_QUALIFIER.is_match(qualifier)
            || FINAL_WORD.is_match(qualifier);
        let tier = if !(joined || starts && known) {
            // "At grade 5".
            None
        } else if found.name("maybe").is_some() {
            match colon && starts && value.is_ok_and(|v| (low..=high).contains(&v)) {
                true if FINAL_WORD.is_match(qualifier) => Some(Tier::Final),
                true => Some(Tier::Said),
                false => None,
            }
        } else if whose {
            Some(Tier::Said)
        } else if found.name("final").is_some() || FINAL_WORD.is_match(qualifier) {
            // In the middle of a sentence it may be the final score of something else.
            Some(if colon || starts || pure { Tier::Final } else { Tier::Label })
        } else if qualifier.is_empty() || NO_QUALIFIER.is_match(qualifier) {
            Some(Tier::Label)
        } else {
            Some(Tier::Said)
        };
        if let Some(tier) = tier
            && !spoken
            && !conditional
        {
            let tier = concluded(tier, sentence);
            return new(tier, pure && tier != Tier::Said, false, pure && last_line && !first_line);
        }
    }
    // At the beginning.
    if first_line && starts_line && !item.spelled {
        return new(Tier::Said, false, true, false);
    }
    let Ok(v) = value else { return None };
    let sentence = sentence_of(before);
    let clause = clause_of(sentence);
    let spoken = NEGATED.is_match(clause) || CONDITIONAL.is_match(sentence);
    let date = matches!(item.kind, Kind::Of(..))
        && ["on", "since", "until", "before", "after", "dated"]
            .iter()
            .any(|word| before.trim_end().ends_with(&format!(" {word}")));
    let verb =
        [&VERB, &VERB_ALONE].iter().filter_map(|verb| verb.captures(sentence)).any(|found| {
            let object = found.name("object").map_or("", |object| object.as_str());
            object.trim().is_empty() || GIVEN.is_match(before)
        });
    let only = count == 1 && first_line && last_line && ends_line && n == 0;
    let one_label = only
        && before.trim_end().ends_with([':', '=', '|'])
        && !OTHER_THING.is_match(before)
        && before.split_whitespace().count() <= 6;
    let said = matches!(item.kind, Kind::Of(..)) && !date
        || verb && !(item.spelled && near(v, 1.))
        || WEAK.is_match(before)
        || one_label;
    if !said || spoken {
        return None;
    }
    if !(low..=high).contains(&v) {
        value = Err(Miss::OutOfRange(v));
    }
    let tier = concluded(Tier::Said, sentence);
    Some(Candidate {
        tier,
        value,
        at: item.first.clone(),
        pure: false,
        leading: false,
        last: false,
    })
}

/// `true` if the number is on a later line than its label, after other text.
fn line_continues(before: &str, label: usize) -> bool {
    before[label..].matches('\n').count() > 3
}

fn concluded(tier: Tier, sentence: &str) -> Tier {
    if tier == Tier::Said && CONCLUDES.is_match(sentence) { Tier::Concluded } else { tier }
}

/// Text before a number in its sentence.
fn sentence_of(before: &str) -> &str {
    let ends = before.char_indices().rev().find(|&(at, c)| {
        let followed = before[at + c.len_utf8()..].starts_with(char::is_whitespace);
        c == '\n' || (matches!(c, '.' | '!' | '?' | ';') && followed)
    });
    ends.map_or(before, |(at, c)| &before[at + c.len_utf8()..])
}

/// Text before a number in its part of the sentence.
fn clause_of(sentence: &str) -> &str {
    static BREAK: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r",|:|\b(?:but|so|however|yet|hence|therefore|though|although|while|and|aber|mais|pero|но)\b",
        )
    });
    BREAK.find_iter(sentence).last().map_or(sentence, |found| &sentence[found.end()..])
}

/// The candidate that is the verdict; an error without a reason when there is none.
fn pick(candidates: &[Candidate]) -> Result<&Candidate, Option<Miss>> {
    let surest = candidates.iter().map(|candidate| candidate.tier).min().ok_or(None)?;
    let of_tier: Vec<&Candidate> = candidates.iter().filter(|c| c.tier == surest).collect();
    let differ = |a: &Candidate, b: &Candidate| match (a.value, b.value) {
        (Ok(a), Ok(b)) => !near(a, b),
        (a, b) => a.is_ok() != b.is_ok(),
    };
    let several = |a: &Candidate, b: &Candidate| {
        Some(match (a.value, b.value) {
            (Ok(a), Ok(b)) => Miss::Several(a, b),
            (Err(miss), _) | (_, Err(miss)) => miss,
        })
    };
    let first = of_tier[0];
    let other = of_tier.iter().find(|other| differ(first, other));
    let picked = match other {
        None => first,
        Some(other) => {
            // A last line that is only the verdict, unless there are other such lines.
            let last = of_tier.iter().find(|c| c.last && c.value.is_ok());
            let last = last.ok_or_else(|| several(first, other))?;
            if let Some(pure) = of_tier.iter().find(|c| c.pure && differ(c, last)) {
                return Err(several(pure, last));
            }
            last
        }
    };
    let outdone = |c: &Candidate| picked.last && !c.pure;
    if surest != Tier::Final
        && let Some(leading) =
            candidates.iter().find(|c| c.leading && differ(c, picked) && !outdone(c))
    {
        return Err(several(leading, picked));
    }
    if picked.leading
        && !picked.pure
        && let Some(other) = candidates.iter().find(|other| differ(other, picked))
    {
        return Err(several(picked, other));
    }
    Ok(picked)
}
