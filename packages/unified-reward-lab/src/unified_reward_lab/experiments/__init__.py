"""Questions put to judges where the truth is known: a report, a page and a plot each."""
