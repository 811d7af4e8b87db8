//! The requirements in a wheel's METADATA.

/// One pinned `Requires-Dist` line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Requirement {
    /// The name, normalised: lower case, words joined by `-`.
    pub(crate) name: String,
    /// The requested extras, `a` and `b` in `name[a,b]==1`.
    pub(crate) extras: Vec<String>,
    /// The version after `==`; may end in `.*`.
    pub(crate) version: String,
    /// The extra that activates this line, from `; extra == "x"`.
    pub(crate) extra: Option<String>,
}

impl Requirement {
    pub(crate) fn new(name: &str, version: &str) -> Self {
        Self { name: normal(name), extras: vec![], version: version.to_owned(), extra: None }
    }

    /// The requirement in pip's notation.
    pub(crate) fn for_pip(&self) -> String {
        format!("{}=={}", self.name, self.version)
    }

    /// `true` if a wheel with this file name fulfils the requirement.
    pub(crate) fn is_met_by(&self, file: &str) -> bool {
        let mut parts = file.strip_suffix(".whl").unwrap_or_default().split('-');
        let (Some(name), Some(version)) = (parts.next(), parts.next()) else { return false };
        // A local version, as in 2.11.0+cu130, is the same release in another build.
        let version = version.split_once('+').map_or(version, |(public, _)| public);
        let meets = match self.version.strip_suffix(".*") {
            Some(prefix) => version
                .strip_prefix(prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.')),
            None => version == self.version,
        };
        normal(name) == self.name && meets
    }
}

/// The requirements in `metadata` that are pinned with `==`.
pub(crate) fn pinned(metadata: &str) -> Vec<Requirement> {
    // The headers end at the first empty line; a description may follow.
    let headers = metadata.lines().take_while(|line| !line.is_empty());
    headers.filter_map(|line| parse(line.strip_prefix("Requires-Dist:")?)).collect()
}

fn parse(text: &str) -> Option<Requirement> {
    let (what, marker) = text.split_once(';').unwrap_or((text, ""));
    let (name, version) = what.split_once("==")?;
    let (name, extras) = match name.split_once('[') {
        Some((name, extras)) => (name, extras.trim_end().strip_suffix(']')?),
        None => (name, ""),
    };
    let version = version.trim_matches(|c: char| c.is_whitespace() || c == ')');
    if version.is_empty() || version.contains(',') {
        return None;
    }
    Some(Requirement {
        name: normal(name.trim_end_matches('(')),
        extras: extras.split(',').map(normal).filter(|e| !e.is_empty()).collect(),
        version: version.to_owned(),
        extra: extra_of(marker),
    })
}

fn extra_of(marker: &str) -> Option<String> {
    let (_, rest) = marker.split_once("extra")?;
    let quoted = rest.trim_start().strip_prefix("==")?.trim_start();
    let quote = quoted.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    Some(normal(quoted[1..].split_once(quote)?.0))
}

fn normal(name: &str) -> String {
    name.trim().to_lowercase().replace(['_', '.'], "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    // As in the METADATA of torch 2.11.0 and cuda-toolkit 13.0.2.
    const TORCH: &str = "Metadata-Version: 2.4\nName: torch\nRequires-Dist: filelock\n\
        Requires-Dist: cuda-toolkit[cublas,cudart,cupti]==13.0.2; platform_system == \"Linux\"\n\
        Requires-Dist: cuda-bindings<14,>=13.0.3; platform_system == \"Linux\"\n\
        Requires-Dist: nvidia-cudnn-cu13==9.19.0.56; platform_system == \"Linux\"\n\
        Requires-Dist: optree>=0.13.0; extra == \"optree\"\n\nRequires-Dist: no-header==1\n";
    const TOOLKIT: &str = "Requires-Dist: nvidia-cuda-runtime==13.0.96.*; \
        (sys_platform == 'linux' or sys_platform == 'win32') and extra == 'cudart'\n";

    #[test]
    fn pinned_requirements_are_read_with_their_extras() {
        let found = pinned(TORCH);
        let names: Vec<_> = found.iter().map(Requirement::for_pip).collect();
        assert_eq!(names, ["cuda-toolkit==13.0.2", "nvidia-cudnn-cu13==9.19.0.56"]);
        assert_eq!(found[0].extras, ["cublas", "cudart", "cupti"]);
        assert_eq!(found[0].extra, None);
    }

    #[test]
    fn the_extra_behind_a_requirement_is_read() {
        let found = pinned(TOOLKIT);
        assert_eq!(found[0].for_pip(), "nvidia-cuda-runtime==13.0.96.*");
        assert_eq!(found[0].extra.as_deref(), Some("cudart"));
    }

    #[test]
    fn a_wheel_meets_its_requirement_alone() {
        let runtime = &pinned(TOOLKIT)[0];
        assert!(runtime.is_met_by("nvidia_cuda_runtime-13.0.96-py3-none-manylinux2014_x86_64.whl"));
        assert!(runtime.is_met_by("nvidia_cuda_runtime-13.0.96.1-py3-none-any.whl"));
        assert!(!runtime.is_met_by("nvidia_cuda_runtime-13.0.961-py3-none-any.whl"));
        assert!(!runtime.is_met_by("nvidia_cuda_runtime_x-13.0.96-py3-none-any.whl"));
        let torch = Requirement::new("torch", "2.11.0");
        assert!(torch.is_met_by("torch-2.11.0-cp312-cp312-manylinux_2_28_x86_64.whl"));
        assert!(torch.is_met_by("torch-2.11.0+cpu-cp312-cp312-manylinux_2_28_x86_64.whl"));
        assert!(!torch.is_met_by("torch-2.11.1-cp312-cp312-manylinux_2_28_x86_64.whl"));
        assert!(!torch.is_met_by("torch-2.11.0-cp312-cp312-manylinux_2_28_x86_64.whl.part"));
    }
}
