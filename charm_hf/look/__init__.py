"""Pictures and pages: what a model saw, a table as a page, a demo in the browser."""
