"""Downloads, archives and published files: nothing is used before its digest is checked."""
