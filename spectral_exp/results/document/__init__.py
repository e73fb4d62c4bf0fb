"""Documents, and their writers in Markdown, LaTeX, HTML and Typst."""
