"""Other libraries' functions under their own signatures: a change of the import line is enough."""
