"""The paper's tables and figures: what was published beside what was measured here."""
