"""Pages for people: HTML reports with inline SVG, made only from what a run directory holds."""
