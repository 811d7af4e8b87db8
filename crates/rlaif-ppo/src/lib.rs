//! Proximal policy optimization of language models.
