//! The modules that get factors, with rank and scale: peft's matching rules.
//!
//! `check_target_module_exists` in `peft/tuners/tuners_utils.py`, `get_pattern_key` and `_set_trainable` in
//! `peft/utils/other.py` (0.21.2).

use std::path::Path;

use regex::{Regex, RegexBuilder};

use super::config::{AdapterConfig, ModuleNames, TargetModules};
use crate::CheckpointError;

/// No module path needs a larger automaton; a hostile pattern gets no more memory than this.
const REGEX_BYTES: usize = 1 << 20;

/// Decisions of an [`AdapterConfig`] for each module; patterns are compiled once.
#[derive(Debug, Clone)]
pub struct AdapterRules {
    targets: Names,
    excluded: Names,
    /// Names of modules that are saved as a whole, and the pattern of the modules that get no factors for it.
    saved: Vec<(String, Regex)>,
    layers: Vec<u32>,
    layer_patterns: Vec<Regex>,
    ranks: Vec<(Regex, u32)>,
    alphas: Vec<(Regex, f64)>,
    r: u32,
    alpha: f64,
    use_rslora: bool,
}

#[derive(Debug, Clone)]
enum Names {
    All,
    Pattern(Regex),
    Suffixes(Vec<String>),
}

/// A pattern that is not a regular expression, or uses features of Python's that Rust's lack.
struct BadPattern {
    field: &'static str,
    pattern: String,
    source: regex::Error,
}

impl AdapterConfig {
    /// The decisions of this configuration for each module.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Pattern`] if a pattern is not a valid regular expression.
    pub fn rules(&self) -> Result<AdapterRules, CheckpointError> {
        self.rules_of(Path::new(super::ADAPTER_CONFIG))
    }

    pub(super) fn rules_of(&self, file: &Path) -> Result<AdapterRules, CheckpointError> {
        AdapterRules::compile(self).map_err(|bad| CheckpointError::Pattern {
            file: file.to_owned(),
            field: bad.field,
            pattern: bad.pattern,
            source: bad.source.into(),
        })
    }
}

impl AdapterRules {
    fn compile(config: &AdapterConfig) -> Result<Self, BadPattern> {
        let targets = match &config.target_modules {
            TargetModules::AllLinear => Names::All,
            TargetModules::Named(names) => Names::compile("target_modules", names)?,
        };
        let excluded = match &config.exclude_modules {
            None => Names::Suffixes(Vec::new()),
            Some(names) => Names::compile("exclude_modules", names)?,
        };
        let saved = config.modules_to_save.iter();
        let saved = saved.map(|m| {
            let regex = regex("modules_to_save", m, &format!(r"(^|.*\.){m}($|\..*)"))?;
            Ok((m.clone(), regex))
        });
        let saved = saved.collect::<Result<_, _>>()?;
        // Lazy, so that the first number of a path counts: later numbers are those of experts.
        let layer_patterns = match config.layers_pattern.as_slice() {
            [] => vec![regex("layers_pattern", "", r".*?\.[^.]*\.(?P<index>\d+)\.")?],
            patterns => {
                let anchored = |p: &String| format!(r"(?:^|.*?\.){p}\.(?P<index>\d+)\.");
                let compiled = patterns.iter().map(|p| regex("layers_pattern", p, &anchored(p)));
                compiled.collect::<Result<_, _>>()?
            }
        };
        let suffix = |pattern: &str| format!(r"(.*\.)?({pattern})$");
        let ranks = config.rank_pattern.iter();
        let ranks = ranks.map(|(p, r)| Ok((regex("rank_pattern", p, &suffix(p))?, r.get())));
        let alphas = config.alpha_pattern.iter();
        let alphas = alphas.map(|(p, a)| Ok((regex("alpha_pattern", p, &suffix(p))?, *a)));
        Ok(Self {
            targets,
            excluded,
            saved,
            layers: config.layers_to_transform.clone(),
            layer_patterns,
            ranks: ranks.collect::<Result<_, _>>()?,
            alphas: alphas.collect::<Result<_, _>>()?,
            r: config.r.get(),
            alpha: config.lora_alpha,
            use_rslora: config.use_rslora,
        })
    }

    /// `true` if a linear layer, given by its path in the base model, gets factors.
    ///
    /// For [`TargetModules::AllLinear`], call it only for linear layers, and not for the
    /// language-model or classifier head, which peft leaves out.
    #[must_use]
    pub fn targets(&self, module: &str) -> bool {
        !self.excluded.contain(module)
            && !self.saved.iter().any(|(_, pattern)| pattern.is_match(module))
            && self.targets.contain(module)
            && (self.layers.is_empty() || self.layer_of(module).is_some())
    }

    /// `true` if a module, or a module that contains it, is trained and saved as a whole: peft takes every
    /// module whose path ends in one of the names, such as `pre_classifier` for `classifier`.
    #[must_use]
    pub fn saves(&self, module: &str) -> bool {
        self.saved.iter().any(|(name, _)| is_within(module, name))
    }

    /// The names in `modules_to_save` that match none of these modules or their ancestors.
    pub fn unsaved<'a>(&'a self, modules: &'a [&str]) -> impl Iterator<Item = &'a str> {
        let found = |name: &str| modules.iter().any(|module| is_within(module, name));
        self.saved.iter().map(|(name, _)| name.as_str()).filter(move |name| !found(name))
    }

    /// Rank of a layer's factors.
    #[must_use]
    pub fn rank(&self, module: &str) -> u32 {
        first_match(&self.ranks, module).unwrap_or(self.r)
    }

    /// Factor of the product `B A` of a layer: `alpha / r`, or with rank stabilisation
    /// `alpha / sqrt(r)` (arXiv 2312.03732).
    #[must_use]
    pub fn scaling(&self, module: &str) -> f64 {
        let alpha = first_match(&self.alphas, module).unwrap_or(self.alpha);
        let rank = f64::from(self.rank(module));
        alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }

    /// The number of the layer that a module belongs to.
    fn layer_of(&self, module: &str) -> Option<u32> {
        let captures = self.layer_patterns.iter().find_map(|pattern| pattern.captures(module))?;
        let index = captures.name("index")?.as_str().parse().ok()?;
        self.layers.contains(&index).then_some(index)
    }
}

impl Names {
    fn compile(field: &'static str, names: &ModuleNames) -> Result<Self, BadPattern> {
        Ok(match names {
            ModuleNames::Pattern(pattern) => {
                Self::Pattern(regex(field, pattern, &format!("(?:{pattern})$"))?)
            }
            ModuleNames::Suffixes(names) => Self::Suffixes(names.clone()),
        })
    }

    fn contain(&self, module: &str) -> bool {
        match self {
            Self::All => true,
            Self::Pattern(pattern) => pattern.is_match(module),
            Self::Suffixes(names) => names.iter().any(|name| {
                module.strip_suffix(name.as_str()).is_some_and(|s| s.is_empty() || s.ends_with('.'))
            }),
        }
    }
}

/// `true` if the path of a module, or of a module that contains it, ends in `name`.
fn is_within(module: &str, name: &str) -> bool {
    module.ends_with(name)
        || module.match_indices('.').any(|(end, _)| module[..end].ends_with(name))
}

fn first_match<T: Copy>(patterns: &[(Regex, T)], module: &str) -> Option<T> {
    patterns.iter().find(|(pattern, _)| pattern.is_match(module)).map(|&(_, value)| value)
}

/// Compiles `whole`, which contains `pattern`, to match from the start, as Python's `re.match`.
fn regex(field: &'static str, pattern: &str, whole: &str) -> Result<Regex, BadPattern> {
    RegexBuilder::new(&format!("^(?:{whole})"))
        .size_limit(REGEX_BYTES)
        .build()
        .map_err(|source| BadPattern { field, pattern: pattern.to_owned(), source })
}
