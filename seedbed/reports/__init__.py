"""HTML reports with inline SVG for people, made only from the contents of a run directory."""
