"""Import paths of the original code, for code that was written for it; nothing lives here."""
