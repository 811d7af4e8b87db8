//! Direct preference optimization of language models.
