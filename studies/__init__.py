"""Studies behind the claims of the documents, each a command."""
