//! Tokens and their ids, in both directions.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

/// A vocabulary; of equal tokens the last one's id counts.
pub struct Vocabulary {
    tokens: Vec<Arc<str>>,
    ids: HashMap<Arc<str>, u32>,
}

impl Vocabulary {
    /// Takes the tokens in the order of their ids.
    pub fn new<'a>(tokens: impl Iterator<Item = Cow<'a, str>>) -> Self {
        let tokens: Vec<Arc<str>> = tokens.map(Arc::from).collect();
        let mut ids = HashMap::with_capacity(tokens.len());
        ids.extend(tokens.iter().cloned().zip(0..));
        Vocabulary { tokens, ids }
    }

    /// The number of ids.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Iterates over distinct tokens, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u32)> {
        self.ids.iter().map(|(token, &id)| (&**token, id))
    }

    pub fn id(&self, token: &str) -> Option<u32> {
        self.ids.get(token).copied()
    }

    pub fn token(&self, id: u32) -> Option<&str> {
        self.tokens.get(id as usize).map(|token| &**token)
    }
}
