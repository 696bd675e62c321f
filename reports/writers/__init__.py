"""Writers of tables and pages: terminal, Markdown, LaTeX, CSV, HTML."""
