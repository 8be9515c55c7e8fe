//! Which parameters a stage trains.

/// A list of patterns: a name is chosen when one matches and none that starts with `!` does.
#[derive(Clone, Debug)]
pub struct Patterns {
    include: Vec<String>,
    exclude: Vec<String>,
}

impl Patterns {
    /// `*` matches anything; a pattern without `*` matches wherever it stands in a name.
    pub fn new(patterns: &[String]) -> Self {
        let (exclude, include): (Vec<_>, Vec<_>) = patterns.iter().partition(|p| p.starts_with('!'));
        Self {
            include: include.into_iter().cloned().collect(),
            exclude: exclude.into_iter().map(|p| p[1..].to_string()).collect(),
        }
    }

    /// Whether a parameter of that name is chosen.
    pub fn matches(&self, name: &str) -> bool {
        self.include.iter().any(|p| matches(p, name)) && !self.exclude.iter().any(|p| matches(p, name))
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    if !pattern.contains('*') {
        return name.contains(pattern);
    }
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or("");
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    for (i, part) in parts.iter().enumerate() {
        if i + 1 == parts.len() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matching() {
        let p = |list: &[&str]| Patterns::new(&list.iter().map(|s| s.to_string()).collect::<Vec<_>>());
        let name = "model.layers.3.self_attn.q_proj.weight";
        assert!(p(&["*"]).matches(name));
        assert!(p(&["self_attn"]).matches(name));
        assert!(p(&["model.*.q_proj.weight"]).matches(name));
        assert!(!p(&["model.*.k_proj.weight"]).matches(name));
        assert!(!p(&["*.bias"]).matches(name));
        assert!(!p(&["*", "!q_proj"]).matches(name));
        assert!(!p(&[]).matches(name));
        assert!(!p(&["model.*weight.weight"]).matches("model.weight"));
    }
}
